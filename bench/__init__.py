"""Benchmarks of the ops and of whole models: `python -m bench run`, `compare`, `table`.

Threads that wait sleep, unless the caller says otherwise: see `zsu_fast.command_line`.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "0")  # before torch is loaded
