"""The report on given images that a generator makes no more. It shows them only if they are handed over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Any, ClassVar

import numpy as np

from zsu_fast.report import neurons, parts, pictures, words
from zsu_fast.report.base import Card, Report

MOST = 100


@dataclass(frozen=True, kw_only=True)
class ItemsReport(Report):
    """photos: what they show -> uint8 [n, H, W, C], one for each item, in their order."""

    photos: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    inputs: ClassVar[str] = "latents, beside those of the pool, from which the edit was made"
    pipeline: ClassVar[str] = "unconditional-image-generation"
    glossary: ClassVar[tuple[str, ...]] = ("relearning", "neuron", "latents")

    @property
    def title(self) -> str:
        return f"Make no more of {words.count(self.request['count'], 'item')}"

    @property
    def asked(self) -> str:
        return (
            f"The generator is to make {words.count(self.request['count'], 'given image')} no more, nor any that comes "
            "as near to them. What else it makes is to stay."
        )

    def shown(self) -> list[str]:
        _, new = self._seen
        if not new:
            return []
        said = f"Of the other fresh latents {words.percent(new['kept_same'])} make what they made."
        if new["same_class"] is not None:
            said += f" A classifier takes {words.percent(new['same_class'])} of them for what it took them for."
        return [said]

    def not_shown(self) -> list[str]:
        return [
            f"A longer search for the images than {self.request['search_steps']} steps from "
            f"{self.request['restarts']} latents each, or one by another measure of distance than the mean squared "
            "error: not tried.",
            "Other images of the same person or thing: nothing was asked of them.",
            "How soon training brings the images back: not tested here.",
        ]

    def judges(self) -> list[str]:
        return [
            f"{self.request['latents']['fresh']} fresh latents, which had no part in the choice of the edit",
            f"{words.count(self.request['unseen'], 'unseen image')}, which say what is near",
        ]

    def cards(self) -> list[Card]:
        old, new = self._seen
        if not new:
            return []
        total, left = len(self._each), sum(after < limit for _, limit, after in self._each)
        first, last = (words.number(median(seen["errors"])) for seen in (old, new))
        cards = [
            Card("Still made", f"{total} of {total}", f"{left} of {total}", "found by a new search"),
            Card("Error, median", first, last, "mean squared, of the nearest image found; larger: farther"),
            Card.share("Kept", old["kept_same"], new["kept_same"], "other latents that make what they made"),
        ]
        if new["same_class"] is not None:
            cards.append(
                Card.share("Same class", old["same_class"], new["same_class"], "other latents, by a classifier")
            )
        return cards

    def sections(self) -> list[str]:
        if not self._seen[1]:
            return []
        return [self._items(), self._figures(), neurons.strips(self.picks, {})]

    @property
    def _seen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        seen = self.record.get("evaluation") or {}
        return seen.get("before") or {}, seen.get("after") or {}

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
            lines.append([str(i), *shown, *map(words.number, (before, limit, after)), answer])
        lead = (
            f"Searched for from {self.request['restarts']} fresh latents each: mean squared error of the pixels of the "
            "nearest image found. An item is gone where the search comes no nearer than the figure in the middle."
        )
        if len(self._each) > MOST:
            lead += f" The first {MOST}."
        head = ["item", *self.photos, "error before", "gone from", "error after", "so it is"]
        return parts.section("Each item", lead, parts.table("each item", head, lines))

    def _figures(self) -> str:
        old, new = self._seen
        lines = [
            ("error of unseen images, median", words.number(old["unseen_error"]), words.number(new["unseen_error"])),
            ("roughness around the latents that made the items", *(words.number(s["roughness"]) for s in (old, new))),
        ]
        if new["psnr"] is not None:
            middle, most = map(words.number, new["psnr"])
            lines.append(("PSNR of other images to what they were, in dB", "–", f"{middle} (95 % exceed {most})"))
        lead = f"Of {words.count(self.request['unseen'], 'unseen image')}, and of other latents."
        return parts.section(
            "What else changed", lead, parts.table("what else changed", ("", "before", "after"), lines)
        )
