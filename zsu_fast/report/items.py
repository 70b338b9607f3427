"""The report on images that a generator makes no more. It shows the images themselves only if they are handed over."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zsu_fast.report import parts, pictures
from zsu_fast.report.page import Report

MOST = 100


@dataclass(frozen=True, kw_only=True)
class ItemsReport(Report):
    """photos: what they show -> uint8 [n, H, W, C], one for each item, in their order."""

    photos: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        count = self.request["count"]
        return f"Make no more of {count} image{'s' if count > 1 else ''}"

    def cards(self) -> list[str]:
        if not self.record.get("evaluation"):
            return []
        old, new = self._seen
        total, left = len(self._each), sum(after < limit for _, limit, after in self._each)
        before, after = (parts.number(statistics.median(seen["errors"])) for seen in (old, new))
        cards = [
            parts.card("Still made", f"{total} of {total}", f"{left} of {total}", "found by a new search"),
            parts.card("Error, median", before, after, "mean squared, of the nearest image found; larger: farther"),
        ]
        for what, name in (("Kept", "kept_same"), ("Class kept", "same_class")):
            if new[name] is not None:
                note = "other latents that make what they made" if name == "kept_same" else "by the judge"
                cards.append(parts.card(what, parts.percent(old[name]), parts.percent(new[name]), note))
        return cards

    def sections(self) -> list[str]:
        return [self._items(), self._figures()] if self.record.get("evaluation") else []

    @property
    def _seen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        seen = self.record["evaluation"]
        return seen["before"], seen["after"]

    @property
    def _each(self) -> list[tuple[float, float, float]]:
        """Of each item the error before, from which on it counts as gone (see `ForgetItems.limits`), and after."""
        old, new = self._seen
        least, worse = old["unseen_error"], self.request["worse"]
        return [(e, max(worse * e, least), after) for e, after in zip(old["errors"], new["errors"], strict=True)]

    def _items(self) -> str:
        lines = []
        for i, (before, limit, after) in enumerate(self._each[:MOST]):
            shown = [
                parts.image(f"{what}, {i}", pictures.photo(images[i]), "thumb") for what, images in self.photos.items()
            ]
            answer = "still made" if after < limit else "gone"
            lines.append([str(i), *shown, *map(parts.number, (before, limit, after)), answer])
        lead = (
            f"Searched for from {self.request['restarts']} fresh latents each: mean squared error of the pixels of the "
            "nearest image found. An item is gone where the search comes no nearer than the figure in the middle."
        )
        if len(self._each) > MOST:
            lead += f" The first {MOST}."
        head = ["item", *self.photos, "error before", "gone from", "error after", ""]
        return parts.section("Each item", lead, parts.table(head, lines))

    def _figures(self) -> str:
        old, new = self._seen
        lines = [
            ("error of unseen images, median", parts.number(old["unseen_error"]), parts.number(new["unseen_error"])),
            ("roughness around the latents that made the items", *(parts.number(s["roughness"]) for s in (old, new))),
        ]
        if new["psnr"] is not None:
            middle, most = map(parts.number, new["psnr"])
            lines.append(("PSNR of other images to what they were, in dB", "–", f"{middle} (95 % exceed {most})"))
        lead = f"Of {self.request['unseen']} unseen images, and of other latents."
        return parts.section("What else changed", lead, parts.table(("", "before", "after"), lines))
