"""Benchmarks of the ops and of whole models: `python -m bench run`, `compare`, `table`."""
