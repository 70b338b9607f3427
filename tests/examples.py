"""The Python examples of a page of the documentation, as a reader runs them: in order, in one namespace.

python -m tests.examples docs/lrp.md     # renews the pictures of the page
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run_examples(page: Path, given: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run all blocks in the current folder; errors show the page and its line. Returns the namespace."""
    text = page.read_text(encoding="utf-8")
    namespace: dict[str, Any] = {"__name__": "__main__", **(given or {})}
    for block in BLOCK.finditer(text):
        before = text[: block.start(1)].count("\n")
        exec(compile("\n" * before + block[1], str(page), "exec"), namespace)
    return namespace


if __name__ == "__main__":
    path = Path(sys.argv[1]).resolve()
    os.chdir(path.parent)
    run_examples(path)
