"""Relevance of layers and of pixels, and the neurons that went."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np
from torch import Tensor

from zsu_fast.plot.colours import as_array, limit_of
from zsu_fast.report import parts, pictures
from zsu_fast.report.analysis import Analysis

MOST_LAYERS = 24
MOST_INDICES = 400


def layers(units: dict[str, Tensor], picks: dict[str, list[int]]) -> str:
    """How much of each layer's relevance went."""
    if not units:
        return ""
    found = []
    for name, values in units.items():
        positive = values.clamp(min=0)
        total = float(positive.sum()) or 1.0
        strongest = float(positive.topk(max(1, round(0.1 * len(values)))).values.sum()) / total
        masked = picks.get(name, [])
        held = float(positive[list(masked)].sum()) / total if masked else 0.0
        bars = parts.bar(strongest), parts.bar(held, "masked")
        found.append((bool(masked), parts.row(name, bars, f"{len(masked)} of {len(values)}", "mono")))
    lead = (
        "Share of each layer's positive relevance for the class that is held "
        '<i class="key" style="background:var(--before)"></i>by its strongest tenth of units and '
        '<i class="key" style="background:var(--masked)"></i>by the units that were masked (how many of how many).'
    )
    shown = found if len(found) <= MOST_LAYERS else [one for one in found if one[0]]
    html = parts.rows(text for _, text in shown)
    if len(shown) < len(found):
        everything = parts.rows(text for _, text in found)
        html += f"<details><summary>all {len(found)} layers</summary>{everything}</details>"
    return parts.section("Relevance per layer", lead, html)


def strips(picks: dict[str, list[int]], units: dict[str, Tensor]) -> str:
    """units: relevance of every unit, where it is known."""
    found = []
    drawn = False
    for name, masked in picks.items():
        values = units.get(name)
        listed = ", ".join(map(str, masked[:MOST_INDICES])) + (" …" if len(masked) > MOST_INDICES else "")
        picture = ""
        if values is not None and (not masked or max(masked) < len(values)):
            alt = f"relevance of the {len(values)} units of {name}, {len(masked)} of them masked"
            picture, drawn = parts.image(alt, pictures.strip(values, masked)), True
        found.append(
            f'<div class="strip"><div class="head"><span class="mono">{escape(name)}</span>'
            f"<span>{len(masked)}{f' of {len(values)}' if values is not None else ''}</span></div>{picture}"
            f'<details><summary>indices</summary><p class="mono">{escape(listed)}</p></details></div>'
        )
    lead = (
        "Every unit of a layer in its place, the darker the more relevant for the class before the edit; "
        '<i class="key" style="background:var(--masked)"></i>marks those that went.'
    )
    return parts.section("Which neurons went", lead if drawn else "", "".join(found)) if found else ""


def maps(
    before: Analysis, after: Analysis, photos: np.ndarray[Any, Any] | None, what: str = "the class's logit"
) -> str:
    """Relevance of the pixels before and after, beside the pictures themselves, uint8 [n, H, W, C], if they are given.

    what: the relevance is for.
    """
    if before.heat is None or after.heat is None:
        reason = before.missing or after.missing
        return parts.section("Where the model looked", escape(reason), "") if reason else ""
    figures = []
    shown = [None] * len(before.heat) if photos is None else list(photos)
    for photo, old, new in zip(shown, before.heat, after.heat, strict=False):
        # One scale for both: a class that lost its evidence must look pale, not rescaled.
        limit = limit_of(as_array(old))
        picture = "" if photo is None else parts.image("probe", pictures.photo(photo))
        caption = "" if photo is None else "<span>probe</span>"
        figures.append(
            f'<figure><div class="three">{picture}'
            f"{parts.image('relevance before', pictures.heatmap(old, limit))}"
            f"{parts.image('relevance after', pictures.heatmap(new, limit))}</div>"
            f"<figcaption>{caption}<span>before</span><span>after</span></figcaption></figure>"
        )
    lead = (
        f"Relevance of the pixels for {escape(what)}: red speaks for it, blue against it. "
        f"Before and after are drawn on one scale. Rules: {escape(before.heat_rules)}."
    )
    return parts.section("Where the model looked", lead, f'<div class="maps">{"".join(figures)}</div>')
