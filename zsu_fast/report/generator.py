"""The report on a class, or several, that a generator makes no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from zsu_fast.report import accuracy, neurons, parts, pictures, words
from zsu_fast.report.base import Card, Report

FIGURES = {
    "frechet": "Fréchet distance of everything that is made to the reference",
    "precision": "precision: share of what is made that lies among the reference",
    "recall": "recall: share of the reference that lies among what is made",
    "roughness": "roughness: how much images change over a small step from a latent of the class",
}


@dataclass(frozen=True, kw_only=True)
class GeneratorReport(Report):
    """made: uint8 [n, H, W, C] before and after, what is made of the same latents."""

    made: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None

    inputs: ClassVar[str] = "latents, beside those of the pool, from which the edit was made"
    pipeline: ClassVar[str] = "unconditional-image-generation"
    glossary: ClassVar[tuple[str, ...]] = (
        "at most .. %, with 95 % confidence", "95 % interval", "relearning", "neuron", "latents", "judge",
    )  # fmt: skip

    @property
    def title(self) -> str:
        return f"Make no more of {', '.join(map(self.label, self.request['targets']))}"

    @property
    def asked(self) -> str:
        return (
            f"The generator is to make no more images of {self.named(self.request['targets'])}, as a classifier (the "
            "judge) tells them. What else it makes is to stay."
        )

    def shown(self) -> list[str]:
        new = self._seen[1]
        kept = words.percent(new["kept_same"])
        return [f"Of the fresh latents that made other classes, {kept} still make what the judge takes for the same."]

    def not_shown(self) -> list[str]:
        said = [
            "Latents that are looked for because they make it: no search for them was made.",
            "What the judge mistakes: what counts here as an image of the class is what it takes for one.",
            "How soon training brings it back: not tested here.",
        ]
        if self._seen[1]["second_share"] is None:
            said.append("What another judge would say: there was none.")
        return said

    def judges(self) -> list[str]:
        return [f"{self._seen[1]['latents']} fresh latents, which had no part in the choice of the edit"]

    def cards(self) -> list[Card]:
        old, new = self._seen
        cards = []
        for what, name in (("The class, by the judge", "share"), ("By a second judge", "second_share")):
            if new[name] is not None:
                note = f"of {new['latents']} fresh latents; {words.interval(new[f'{name}_interval'])}"
                cards.append(Card(what, words.percent(old[name]), words.percent(new[name]), note))
        for what, name, note in (
            ("Kept", "kept_same", "latents of other classes that keep theirs"),
            ("Confident", "confident", "of the class's latents, those whose images are surely of one other class now"),
        ):
            cards.append(Card(what, words.percent(old[name]), words.percent(new[name]), note))
        return cards

    def sections(self) -> list[str]:
        return [self._pictures(), self._shares(), self._figures(), neurons.strips(self.picks, {})]

    @property
    def _seen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        seen = self.record["evaluation"]
        return seen["before"], seen["after"]

    def _pictures(self) -> str:
        """Of the same latents, above as they were."""
        if self.made is None or not len(self.made[0]):
            return ""
        figures = "".join(
            f'<figure><div class="two">{parts.image("before", pictures.photo(old))}'
            f"{parts.image('after', pictures.photo(new))}</div></figure>"
            for old, new in zip(*self.made, strict=True)
        )
        lead = "Fresh latents whose images were of the class: before, and below what the same latents make now."
        return parts.section("What is made instead", lead, f'<div class="maps small">{figures}</div>')

    def _shares(self) -> str:
        shares = [accuracy.by_class(seen["per_class"]) for seen in self._seen]
        every = sorted({c for found in shares for c in found})
        before, after = ({c: found.get(c, 0.0) for c in every} for found in shares)
        what = "Share of the images of fresh latents that the judge takes for each class, in %."
        return accuracy.per_class(before, after, self.request["targets"], self.names, "What is made", what)

    def _figures(self) -> str:
        old, new = self._seen
        lines = [
            (what, words.number(old[name]), words.number(new[name]))
            for name, what in FIGURES.items()
            if new[name] is not None
        ]
        if not lines:
            return ""
        lead = (
            "Distance, precision and recall are by features of a network; those by different networks, or of different "
            "numbers of images, are not comparable."
        )
        table = parts.table("quality and diversity", ("", "before", "after"), lines)
        return parts.section("How good and how diverse", lead, table)
