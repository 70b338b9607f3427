"""Files of a report: the page, Markdown, PDF, a model card."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from zsu_fast.report import markdown, page, pdf
from zsu_fast.report.base import Report
from zsu_fast.report.files import write_text

Writer = Callable[[Report, Path], None]
FORMATS: dict[str, Writer] = {
    "html": lambda report, path: write_text(page.render(report), path),
    "md": lambda report, path: write_text(markdown.render(report), path),
    "card": lambda report, path: write_text(markdown.model_card(report), path),
    "pdf": lambda report, path: pdf.write(page.render(report), path),
}
"""Name of a format -> what writes it."""


def write_report(report: Report, path: str | os.PathLike[str], format: str | None = None) -> None:
    """Write a report to a file, whole or not at all.

    format: "html", "md", "pdf" or "card" (Markdown with the header of a model card); by default what the suffix says.

    Raises:
        ValueError: another format.
        ImportError: matplotlib is missing (extra "report"; not for Markdown).
        FileNotFoundError: there is no browser to make a PDF with.
    """
    chosen = Path(path).suffix[1:].lower() if format is None else format
    if chosen not in FORMATS:
        raise ValueError(f"format: expected one of {', '.join(FORMATS)}, got {chosen!r} ({os.fspath(path)})")
    FORMATS[chosen](report, Path(path))
