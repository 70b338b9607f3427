"""What all pages are built from. Texts are escaped here; what is called `html` or `lead` is HTML already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from zsu_fast.report import pictures
from zsu_fast.report.base import Card
from zsu_fast.report.statements import Part

BOTH = (
    '<i class="key" style="background:var(--before)"></i>before'
    '<i class="key" style="background:var(--after)"></i>after. '
)
"""What the colours of bars mean."""


def section(title: str, lead: str, html: str) -> str:
    """One of the technical part."""
    return f'<section><h3>{escape(title)}</h3><p class="soft">{lead}</p>{html}</section>'


def statements(part: Part) -> str:
    """One of the first page."""
    html = ""
    if part.said:
        html += f"<ul>{''.join(f'<li>{escape(text)}</li>' for text in part.said)}</ul>"
    listed = [(escape(term), escape(text)) for term, text in part.facts]
    listed += [(f"<code>{escape(command)}</code>", escape(text)) for command, text in part.commands]
    if listed:
        html += f"<dl>{''.join(f'<dt>{term}</dt><dd>{text}</dd>' for term, text in listed)}</dl>"
    return f"<section><h2>{escape(part.title)}</h2>{html}</section>"


def card(shown: Card) -> str:
    return (
        f'<div class="card"><div class="what">{escape(shown.what)}</div>'
        f'<div class="value"><small>{escape(shown.old)} →</small> {escape(shown.new)}</div>'
        f'<div class="note">{escape(shown.note)}</div></div>'
    )


def bar(share: float, kind: str = "") -> str:
    """kind: "", "after" or "masked"."""
    return (
        f'<div class="track"><div class="bar {kind}" style="width:{100 * min(1.0, max(0.0, share)):.2f}%"></div></div>'
    )


def row(name: str, bars: Iterable[str], text: str, kind: str = "") -> str:
    """One line of `rows`. kind: "target", "mono" or nothing."""
    return (
        f'<div class="name {kind}">{escape(name)}</div><div class="bars">{"".join(bars)}</div>'
        f'<div class="number">{escape(text)}</div>'
    )


def rows(found: Iterable[str]) -> str:
    return f'<div class="rows">{"".join(found)}</div>'


def wide(what: str, html: str) -> str:
    """Scrolls inside of the page where it does not fit, by keys as well."""
    return f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(what)}">{html}</div>'


def table(what: str, head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """lines: HTML of the cells. what: it shows, for who cannot see it."""
    top = "".join(f'<th scope="col">{escape(text)}</th>' if text else "<td></td>" for text in head)
    body = "".join(
        f'<tr><th scope="row">{line[0]}</th>{"".join(f"<td>{cell}</td>" for cell in line[1:])}</tr>' for line in lines
    )
    return wide(what, f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")


def image(alt: str, source: str, kind: str = "") -> str:
    """source: a data: URI."""
    return f'<img{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} alt="{escape(alt)}" src="{source}">'


def chart(alt: str, source: str, kind: str = "chart") -> str:
    """It keeps a size at which its labels can be read. kind: "picture" if there are photographs in it."""
    return wide(alt, image(alt, source, kind))


def photos(alt: str, found: np.ndarray[Any, Any]) -> str:
    """A row of pictures, uint8 [n, H, W, 1 or 3]."""
    shown = "".join(image(f"{alt} {i}", pictures.photo(one)) for i, one in enumerate(found, 1))
    return f'<div class="photos">{shown}</div>'
