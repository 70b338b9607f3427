"""Benchmarks of the ops: `python -m bench run`, `compare`, `table`."""
