"""Text files that are there whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write UTF-8 text through a temporary file in the same folder and a rename."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
