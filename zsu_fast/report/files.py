"""Text files that are there whole or not at all."""

import os
from pathlib import Path

from zsu_fast.atomic import replacing


def write_text(text: str, path: str | os.PathLike[str]) -> None:
    """Write UTF-8 text through a temporary file in the same folder and a rename."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")
