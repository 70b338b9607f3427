"""Texts with each token in the colour of its relevance: for browsers and notebooks, and for terminals."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, cast

import numpy as np

from zsu_fast.atomic import replacing
from zsu_fast.extras import require
from zsu_fast.plot.colours import MISSING, NEGATIVE, POSITIVE, Array, as_array, limit_of

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>
body {{ font: 16px/1.7 system-ui, sans-serif; color: #1f2933; background: #fff; max-width: 50em; margin: 2em auto; }}
h2 {{ font-size: 1em; margin: 1.5em 0 0; }}
p {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: .4em 0; }}
small {{ color: #66727f; }}
</style>
{body}
</html>
"""


@dataclass(frozen=True)
class Passage:
    """One text under one title: tokens, their relevance [tokens] and what gets full colour."""

    title: str
    tokens: Sequence[str]
    values: Array
    limit: float

    def shares(self) -> list[float]:
        """Of full colour, -1 .. 1; NaN where relevance is not finite."""
        finite = np.isfinite(self.values)
        return [float(v) for v in np.where(finite, np.clip(self.values / self.limit, -1, 1), np.nan)]


@dataclass(frozen=True)
class TextMap:
    """What `text` drew. A notebook shows it as it is, and so does ``rich.print``; `save` writes a page."""

    passages: Sequence[Passage]

    def html(self) -> str:
        """The passages, for a page of one's own: nothing else is needed to show them."""
        parts = []
        for passage in self.passages:
            values = zip(passage.tokens, passage.values, passage.shares(), strict=True)
            spans = "".join(shaded(token, share, f"{value:.4g}") for token, value, share in values)
            title = f"<h2>{escape(passage.title)}</h2>\n" if passage.title else ""
            parts.append(f"{title}<p>{spans}</p>\n<small>{_legend(passage)}</small>")
        return "\n".join(parts)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a page that needs nothing beside it. ValueError: the name does not end in .html."""
        if Path(path).suffix.lower() != ".html":
            raise ValueError(f"the text must be written as .html, got {Path(path).name!r}")
        with replacing(Path(path)) as temporary:
            temporary.write_text(_PAGE.format(title="Relevance of tokens", body=self.html()), encoding="utf-8")

    def _repr_html_(self) -> str:
        return f'<div style="white-space: pre-wrap; color: #1f2933; background: #fff">{self.html()}</div>'

    def __rich__(self) -> Any:
        rich_text = require("rich.text", "cli").Text
        lines = []
        for passage in self.passages:
            line = rich_text(overflow="fold")
            for token, share in zip(passage.tokens, passage.shares(), strict=True):
                ground, ink = _colours(share)
                line.append(token, f"{ink} on {ground}")
            title = [rich_text(passage.title, "bold")] if passage.title else []
            lines += [*title, line, rich_text(_legend(passage), "dim")]
        return require("rich.console", "cli").Group(*lines)


def text(
    relevance: Any,
    tokens: Sequence[str] | Sequence[Sequence[str]],
    *,
    mask: Any = None,
    clip: float = 100.0,
    samples: Sequence[str] | None = None,
) -> TextMap:
    """Texts in which each token has the colour of its relevance: red speaks for the target, blue against it.

    Args:
        relevance: A `zsu_fast.Relevance` of texts, or relevance [N, T] or [T]; or a mapping from titles to such, which
            are drawn one below the other. Each text under each title has a scale of its own.
        tokens: What the tokens spell, T strings, or T for each of the N texts:
            ``[tokenizer.decode([number]) for number in numbers]``.
        mask: [N, T], 0 for tokens that are left out: the attention mask, where texts are filled up.
        clip: The percentile of abs(relevance) that gets full colour; 100 is the largest.
        samples: N texts to be written over the texts.

    Raises:
        ValueError: An argument is not as described, or they do not belong together.
    """
    maps = relevance if isinstance(relevance, Mapping) else {"": relevance}
    if not maps:
        raise ValueError("relevance: expected at least one title, got an empty mapping")
    values = {str(title): _of_tokens(title, value) for title, value in maps.items()}
    count, length = next(iter(values.values())).shape
    one = all(isinstance(token, str) for token in tokens)
    spelled = cast(Sequence[Sequence[str]], [tokens] if one else tokens)
    shown = np.ones((count, length), bool) if mask is None else np.atleast_2d(as_array(mask)) != 0
    _check(values, spelled, shown, samples)
    passages = []
    for sample in range(count):
        keep = shown[sample]
        # The end of a line has a colour, too.
        words = [word.replace("\n", "↵\n") for word, kept in zip(spelled[sample], keep, strict=True) if kept]
        for title, rows in values.items():
            row = rows[sample][keep]
            named = ": ".join(part for part in (samples[sample] if samples else "", title) if part)
            passages.append(Passage(named, words, row, limit_of(row, clip)))
    return TextMap(passages)


def shaded(token: str, share: float, note: str = "") -> str:
    """HTML of a token in the colour of its share of full relevance, -1 .. 1, with a note to be read on it."""
    ground, ink = _colours(share)
    told = f' title="{escape(note)}"' if note else ""
    return f'<span style="background:{ground};color:{ink}"{told}>{escape(token)}</span>'


def _colours(share: float) -> tuple[str, str]:
    """(ground, ink): from white to full colour, and what can be read on it."""
    if not np.isfinite(share):
        return MISSING, "#000000"
    full = POSITIVE if share > 0 else NEGATIVE
    mixed = [round(255 + (int(full[i : i + 2], 16) - 255) * abs(share)) for i in (1, 3, 5)]
    return "#" + "".join(f"{part:02x}" for part in mixed), "#000000" if abs(share) < 0.6 else "#ffffff"


def _legend(passage: Passage) -> str:
    total = float(np.nansum(passage.values)) if len(passage.values) else 0.0
    return f"red speaks for it, blue against it; full colour at {passage.limit:.3g}; all tokens {total:.4g}"


def _of_tokens(title: object, relevance: Any) -> Array:
    array = np.atleast_2d(as_array(getattr(relevance, "input", relevance)))
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "uif":
        named = f" of {title!r}" if title else ""
        raise ValueError(f"relevance{named} must be that of tokens, [N, T], got {array.dtype} {list(array.shape)}")
    return array.astype(np.float64)


def _check(
    values: Mapping[str, Array], tokens: Sequence[Sequence[str]], shown: Array, samples: Sequence[str] | None
) -> None:
    shape = next(iter(values.values())).shape
    for title, rows in values.items():
        if rows.shape != shape:
            raise ValueError(f"relevance of {title!r}: expected {list(shape)} as the first, got {list(rows.shape)}")
    lengths = [len(words) for words in tokens]
    if lengths != [shape[1]] * shape[0]:
        raise ValueError(f"tokens: expected {shape[0]} texts of {shape[1]} tokens, got {lengths}")
    if shown.shape != shape:
        raise ValueError(f"mask: expected {list(shape)}, got {list(shown.shape)}")
    if samples is not None and len(samples) != shape[0]:
        raise ValueError(f"samples: expected {shape[0]} texts, got {len(samples)}")
