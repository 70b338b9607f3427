"""Imported before torch: whether this process is the command line, which is ours, or that of a user of the library.

On the command line torch is loaded when work begins (help and a mistyped option need not wait for it), and threads
that wait sleep instead of spinning: with one core busy, libgomp's spinning barrier makes small nets take 10 to 100
times as long, in plain torch too.
"""

import os
import sys


def _command_line() -> bool:
    name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    return name.removesuffix(".exe") == "zsu-fast" or (name == "-m" and "zsu_fast" in sys.orig_argv)


IS_OURS = _command_line()

if "torch" not in sys.modules and IS_OURS:
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
