"""The command line: ``zsu-fast forget | evaluate | restore | relevance | info | demo``."""

from __future__ import annotations

import sys


def main() -> None:
    """Entry point of ``zsu-fast`` and of ``python -m zsu_fast``."""
    try:
        from zsu_fast.cli.app import app

        app(prog_name="zsu-fast")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("typer", "rich"):
            raise
        # Without the extra there is no typer to print this, and a traceback would not say what to install.
        print(f'error: the command line needs {missing}: pip install "zsu-fast[cli]"', file=sys.stderr)
        sys.exit(2)
