"""Imported before torch. On the command line, threads that wait sleep instead of spinning.

With one core busy, libgomp's spinning barrier makes small nets take 10 to 100 times as long, in plain torch too. Who
uses the library decides for the process; the command line's process is ours.
"""

import os
import sys


def _command_line() -> bool:
    name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    return name.removesuffix(".exe") == "zsu-fast" or (name == "-m" and "zsu_fast" in sys.orig_argv)


if "torch" not in sys.modules and _command_line():
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
