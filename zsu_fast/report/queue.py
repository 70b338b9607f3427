"""The page of a queue of requests: what stands in its ledger, with a link to the report on each."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING
from urllib.parse import quote

from zsu_fast.report.page import document
from zsu_fast.report.parts import table

if TYPE_CHECKING:
    from zsu_fast.unlearn.queue import Row

MEANINGS = {
    "done": "the verdict says forgotten, with the figures that stand beside it",
    "not judged": "an edit is in the model; what was measured is not enough to call anything forgotten",
    "not reached": "no edit did it at a price that was allowed; nothing was changed",
    "invalid": "there was nothing that could be forgotten as it was asked; nothing was changed",
    "failed": "an error; nothing was changed, and it is tried again",
    "undone": "its edit was taken out of the model again",
}
"""Status -> what it means."""


def render(name: str, original: str, now: str, rows: Sequence[Row]) -> str:
    """HTML that loads nothing. original, now: SHA-256 of the model before the first request and as it is."""
    back = [row for row in rows if row.in_place and row.came_back]
    warnings = "".join(
        f"<p><b>Mind:</b> {escape(row.id)} came back: {how_many(row)}"
        f"{f'; first so after {escape(row.came_back_with)}' if row.came_back_with else ''}.</p>"
        for row in back
    )
    counts = [(status, sum(row.status == status for row in rows)) for status in MEANINGS]
    said = ", ".join(f"{count} {status}" for status, count in counts if count) or "none yet"
    words = "".join(f"<dt>{status}</dt><dd>{escape(meaning)}</dd>" for status, meaning in MEANINGS.items())
    body = (
        f'<h1>Requests to forget</h1><p class="soft mono">{escape(name)}</p><p>{len(rows)} requests: {said}.</p>'
        f"{warnings}<section><h2>Ledger</h2>{_table(rows)}</section>"
        f"<section><h2>Hashes</h2><p>SHA-256 of the model before the first request and as it is now, and after each "
        f"edit that is in it.</p>{_hashes(original, now, rows)}</section><section><h2>How to check it</h2><dl>"
        "<dt><code>zsu-fast verify FOLDER --original WEIGHTS</code></dt><dd>every file, and every hash from the model "
        "as it is now back to the original; FOLDER is the one that has this page</dd></dl></section>"
        f"<section><h2>Words</h2><dl>{words}</dl></section>"
    )
    return document(f"Requests to forget – {name}", body)


def _table(rows: Sequence[Row]) -> str:
    lines = [
        (
            f"<b>{escape(row.id)}</b> {escape(row.note)} {_links(row)}",
            *map(escape, (row.status, row.sentence, left(row), row.time, f"{row.seconds:.1f}")),
        )
        for row in rows
    ]
    return table("the ledger", ("request", "status", "verdict", "not forgotten", "when", "seconds"), lines)


def left(row: Row) -> str:
    """ "0 of 40", "0, now 3 of 40": what is not forgotten, of what is looked at."""
    if row.images is None or not row.in_place:
        return "–"
    if row.left_now is None:
        return f"{row.left} of {row.images}, not looked at since the model changed"
    return f"{row.left}{'' if row.left_now == row.left else f', now {row.left_now}'} of {row.images}"


def how_many(row: Row) -> str:
    """Of one that came back."""
    return f"of its {row.images} {row.inputs} {row.left_now} are not forgotten, {row.left} were right after it"


def _links(row: Row) -> str:
    pages = [name for name in row.files if name.startswith("reports/")]
    return " ".join(f'<a href="{quote(name)}">{escape(name.rpartition(".")[2])}</a>' for name in pages)


def _hashes(original: str, now: str, rows: Sequence[Row]) -> str:
    lines = [("the original", original)]
    lines += [(f"after {row.id}", row.after) for row in rows if row.in_place]
    lines += [("now", now)]
    return f"<dl>{''.join(f'<dt>{escape(what)}</dt><dd><code>{escape(one)}</code></dd>' for what, one in lines)}</dl>"
