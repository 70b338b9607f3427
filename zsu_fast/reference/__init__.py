"""The specification: every op in plain PyTorch, written to be read. It serves wherever no compiled library does."""
