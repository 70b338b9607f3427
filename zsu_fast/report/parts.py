"""What all pages are built from. Texts are escaped here; what is called `html` or `lead` is HTML already."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from zsu_fast.report import pictures

BOTH = (
    '<i class="key" style="background:var(--before)"></i>before'
    '<i class="key" style="background:var(--after)"></i>after. '
)
"""What the colours of bars mean."""


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def interval(of: Sequence[float] | None) -> str:
    return "" if of is None else f"95 % interval {percent(of[0])} to {percent(of[1])}"


def label(names: dict[int, str], index: int) -> str:
    """ "cat (class 3)" """
    name = names.get(index)
    return f"class {index}" if name in (None, str(index)) else f"{name} (class {index})"


def section(title: str, lead: str, html: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="soft">{lead}</p>{html}</section>'


def card(what: str, old: str, new: str, note: str = "") -> str:
    return (
        f'<div class="card"><div class="what">{escape(what)}</div>'
        f'<div class="value"><small>{escape(old)} →</small> {escape(new)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
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


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """lines: HTML of the cells. Wide ones scroll inside of the page."""
    top = "".join(f'<th scope="col">{escape(text)}</th>' for text in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in lines)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def image(alt: str, source: str, kind: str = "") -> str:
    """source: a data: URI."""
    return f'<img{f" class={chr(34)}{kind}{chr(34)}" if kind else ""} alt="{escape(alt)}" src="{source}">'


def photos(alt: str, found: np.ndarray[Any, Any]) -> str:
    """A row of pictures, uint8 [n, H, W, 1 or 3]."""
    shown = "".join(image(f"{alt} {i}", pictures.photo(one)) for i, one in enumerate(found, 1))
    return f'<div class="photos">{shown}</div>'
