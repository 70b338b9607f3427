"""The report on given images that a generator makes no more. It shows none of them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Any, ClassVar

from zsu_fast.report import neurons, parts, words
from zsu_fast.report.base import Card, Report


@dataclass(frozen=True, kw_only=True)
class ItemsReport(Report):
    """All of it is in the record."""

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
        note = "mean squared error of the nearest image that a search finds; median over the items"
        cards = [
            Card("Nearest to an item", words.number(median(old["errors"])), words.number(median(new["errors"])), note),
            Card.share("Kept", old["kept_same"], new["kept_same"], "other latents that make what they made"),
        ]
        if new["same_class"] is not None:
            cards.append(
                Card.share("Same class", old["same_class"], new["same_class"], "other latents, by a classifier")
            )
        return cards

    def sections(self) -> list[str]:
        return [self._errors(), neurons.strips(self.picks, {})]

    @property
    def _seen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        seen = self.record.get("evaluation") or {}
        return seen.get("before") or {}, seen.get("after") or {}

    def _errors(self) -> str:
        old, new = self._seen
        if not new:
            return ""
        lines = [
            (str(i), words.number(before), words.number(after))
            for i, (before, after) in enumerate(zip(old["errors"], new["errors"], strict=True))
        ]
        lead = (
            "Mean squared error of the nearest image that a search from fresh latents found. Of unseen images, which "
            f"the generator does not make, the median was {words.number(old['unseen_error'])} before the edit."
        )
        return parts.section("Each item", lead, parts.table("each item", ("item", "before", "after"), lines))
