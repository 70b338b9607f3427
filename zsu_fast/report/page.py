"""The report as a page: HTML that loads nothing. Every string that did not come from this package is escaped."""

from __future__ import annotations

import json
import re
from html import escape
from importlib import resources

from zsu_fast.report import parts
from zsu_fast.report.base import Report
from zsu_fast.report.statements import badge, first_page

PRINTING = "To have it on paper or as a PDF, print this page from the browser: everything that is folded up here opens."


def render(report: Report) -> str:
    """The HTML text. Loads nothing from anywhere: its Content-Security-Policy forbids it.

    Raises:
        ImportError: matplotlib is missing (extra "report").
    """
    cards = "".join(map(parts.card, report.cards()))
    body = "".join(
        (
            _header(report),
            f'<div class="cards">{cards}</div>' if cards else "",
            *map(parts.statements, first_page(report)),
            '<h2 class="divider">Technical part</h2>',
            *report.sections(),
            _record(report),
            f"<footer>{PRINTING}</footer>",
        )
    )
    return document(f"{report.title} – {report.model}", body)


def document(title: str, body: str) -> str:
    """A page with our style around HTML that is escaped already."""
    style = resources.files("zsu_fast.report").joinpath("style.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _header(report: Report) -> str:
    kind = "yes" if report.verdict["forgotten"] else "no"
    warnings = "".join(f"<p><b>Mind:</b> {escape(text)}</p>" for text in report.warnings)
    return (
        f'<h1>{escape(report.title)}</h1><p class="soft mono">{escape(report.model)}</p><p>'
        f'<span class="badge {kind}">{escape(badge(report))}</span> {escape(report.verdict["sentence"])}</p>{warnings}'
    )


def _record(report: Report) -> str:
    text = json.dumps(report.record, indent=1, default=str, allow_nan=False)
    # Lists of numbers or names on one line: no JSON string has a line break in it.
    text = re.sub(r"\[\n[^\[\]{}]*\n *\]", lambda found: re.sub(r"\n *", " ", found[0]), text)
    return parts.section(
        "Record",
        "Everything that was asked, tried and measured. The same record is in the undo file.",
        "<details><summary>as JSON</summary>"
        f'<pre tabindex="0" role="region" aria-label="the record as JSON">{escape(text)}</pre></details>',
    )
