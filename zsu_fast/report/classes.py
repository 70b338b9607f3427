"""The report on a class, or several, that a classifier forgot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from zsu_fast.evaluate import Evaluation, ProbeResult
from zsu_fast.evaluate.intervals import upper_bound
from zsu_fast.report import accuracy, made_of, neurons, parts, pictures, poison, words
from zsu_fast.report.analysis import Analysis
from zsu_fast.report.base import Card, Report
from zsu_fast.report.glossary import CLASSIFIER
from zsu_fast.unlearn.verdict import FORGOTTEN_AT_MOST

OTHERS = "the other classes"


@dataclass(frozen=True, kw_only=True)
class ClassReport(Report):
    """Everything may be missing; its section is then left out.

    Attributes:
        before, after: the evaluation images, judged by the model before and after.
        relevance_before, relevance_after: what `analyse` found before and after.
        photos: uint8 [n, H, W, C], the probes that the heatmaps belong to.
        probe_before, probe_after: linear probe on the features.
        made_of: what the class was made of.
    """

    before: Evaluation | None = None
    after: Evaluation | None = None
    relevance_before: Analysis = field(default_factory=Analysis)
    relevance_after: Analysis = field(default_factory=Analysis)
    photos: np.ndarray[Any, Any] | None = None
    probe_before: ProbeResult | None = None
    probe_after: ProbeResult | None = None
    made_of: made_of.Made | None = None

    inputs: ClassVar[str] = "images of the class"
    glossary: ClassVar[tuple[str, ...]] = CLASSIFIER

    @property
    def title(self) -> str:
        return f"Forget {self.named(self.request['targets'])}"

    @property
    def asked(self) -> str:
        return (
            f"The model is to recognise {self.named(self.request['targets'])} no more: whatever the image, the answer "
            "is to be another one. What else it recognises is to stay."
        )

    def shown(self) -> list[str]:
        said = [
            f"On {words.count(count, 'evaluation image')} of {what}, {self.apart}, "
            f"{words.percent(old)} of the answers were right before and {words.percent(new)} are after "
            f"({words.interval(found)})."
            for what, count, old, new, found in self._evaluated()
        ]
        return said + self.on_retain_images()

    def not_shown(self) -> list[str]:
        said = []
        if (bound := self._doubt()) is not None:
            said.append(
                "The evaluation images alone would not bear the verdict out: by them up to "
                f"{words.percent(bound)} of unseen images may still be recognised (with 95 % confidence)."
            )
        if self.verdict["level"] != "features":
            said += [
                self._features(),
                "How soon training on a few images brings it back: not tested here (zsu-fast depth tests it).",
            ]
        said.append(
            "Whether the images of it that the model was trained on can still be told from others (membership "
            "inference): not tested here (zsu-fast evaluate --members tests it)."
        )
        if self.verdict.get("at_most") is not None:
            said.append(
                "Images of another kind than those that judged, as from other cameras, drawings, or pictures made to "
                "deceive a model: the bound says nothing of them."
            )
        if not any(what == OTHERS for what, *_ in self._evaluated()):
            said.append("What the edit costs the other classes on images that had no part in its choice: not measured.")
        return said

    def _features(self) -> str:
        front = [point for point in self.record.get("front") or [] if point["chosen"]]
        left: float | None = None
        if self.probe_before is not None and self.probe_after is not None:
            left, known = self.probe_after.forget_accuracy, self.probe_before.forget_accuracy
        elif front:
            left, known = front[0]["linear_probe"], self.record["front"][0]["linear_probe"]
        if left is not None:
            return (
                f"That the features have forgotten: a linear probe finds the class in {words.percent(left)} of its "
                f"images ({words.percent(known)} before). How much a retrained model would leave to it was not "
                "compared (zsu-fast depth --oracle does)."
            )
        if (self.record.get("certificate") or {}).get("others"):
            return (
                "That the features have forgotten: only the classifier was edited, so they are what they were, and who "
                "has the weights can have the class back from them."
            )
        return "Whether the features have forgotten: not tested here (--linear-probe and zsu-fast depth test it)."

    def _evaluated(self) -> list[tuple[str, int, float | None, float | None, Any]]:
        """Of the class and of the others: what, images, accuracy before and after, interval."""
        if self.before is None or self.after is None:
            return []
        counts = self.after.counts
        own = sum(count for index, count in counts.items() if index in self.after.targets)
        found = [
            ("the class", own, self.before.forget_accuracy, self.after.forget_accuracy, self.after.forget_interval),
            (
                OTHERS, sum(counts.values()) - own, self.before.retain_accuracy, self.after.retain_accuracy,
                self.after.retain_interval,
            ),
        ]  # fmt: skip
        return [one for one in found if one[1]]

    def _doubt(self) -> float | None:
        """The bound by the evaluation images, where the verdict was reached without and they do not bear it out."""
        if self.after is None or not self.verdict["forgotten"] or self.verdict.get("judged_by") == "evaluation images":
            return None
        counts = [(self.after.per_class[t], self.after.counts[t]) for t in self.after.targets if t in self.after.counts]
        bounds = [upper_bound(round(share * count), count) for share, count in counts]
        return max(bounds) if bounds and max(bounds) > FORGOTTEN_AT_MOST else None

    def judges(self) -> list[str]:
        return [
            f"{words.count(count, 'evaluation image')} of {what}, {self.apart}" for what, count, *_ in self._evaluated()
        ]

    def cards(self) -> list[Card]:
        cards = [
            Card.share(
                what[0].upper() + what[1:], old, new,
                f"of {words.count(count, 'evaluation image')}, {self.apart}; "
                f"{words.interval(found)}",
            )
            for what, count, old, new, found in self._evaluated()
        ]  # fmt: skip
        old, new = self.metrics
        if not cards and old.get("forget_accuracy") is not None:
            made = "synthesised " if "synthetic" in self.request else ""
            note = f"of {self.record['metrics']['probes']} {made}probes"
            note += ", each held out in turn" if self.record["metrics"].get("held_out") else ", which chose the edit"
            cards.append(Card.share("The class", old["forget_accuracy"], new["forget_accuracy"], note))
        if old.get("retain_accuracy") is not None:
            note = "of the retain images, which had a part in the choice"
            cards.append(Card.share("The other classes", old["retain_accuracy"], new["retain_accuracy"], note))
        if self.probe_before is not None and self.probe_after is not None:
            left, known = self.probe_after.forget_accuracy, self.probe_before.forget_accuracy
            cards.append(Card.share("Linear probe, the class", known, left, "can it still be read off the features?"))
        return cards

    def sections(self) -> list[str]:
        units = self.relevance_before.units
        return [
            self._per_class(),
            self._taken_for(),
            poison.ablation(self.record),
            neurons.layers(units, self.picks),
            neurons.strips(self.picks, units),
            made_of.section("What the class was made of", self.made_of),
            neurons.maps(self.relevance_before, self.relevance_after, self.photos),
            self._search(),
            self._front(),
        ]

    def _per_class(self) -> str:
        if self.before is None or self.after is None:
            return ""
        return accuracy.per_class(self.before.per_class, self.after.per_class, self.after.targets, self.names)

    def _taken_for(self) -> str:
        if self.after is None or not self.after.taken_for:
            return ""
        total = sum(self.after.taken_for.values())
        found = []
        for index, count in list(self.after.taken_for.items())[:8]:
            name = "NaN" if index < 0 else self.names.get(index, f"class {index}")
            kind = "target" if index in self.after.targets else ""
            share = count / total
            found.append(parts.row(name, [parts.bar(share, "after")], f"{100 * share:.1f} %", kind))
        lead = f"The model's answers after the edit to the {total} evaluation images of the class."
        return parts.section("What its images are taken for now", lead, parts.rows(found))

    def _search(self) -> str:
        trace = self.record.get("search") or []
        if len(trace) < 2:
            return ""
        until = self.record.get("until", self.request.get("until"))
        chart = pictures.search_chart(trace, None if until is None else float(until))
        return parts.section(
            "How the budget was found",
            "An edit that costs the others nothing is taken in full, one with a price as far as the floor allows.",
            parts.chart("budget against accuracy", chart),
        )

    def _front(self) -> str:
        points = self.record.get("front") or []
        if len(points) < 2:
            return ""
        lead = (
            f"Edits of {len(points) - 1} sizes, each measured on {points[0]['images']} images of the class and on "
            "others, given to judge alone. Filled: no other size is as good in every respect and better in "
            "one. Ringed: the edit that was made. A probe that is low where the others fall too is damage, not "
            "forgetting."
        )
        chart = parts.chart("left of the class against kept of the others", pictures.front_chart(points))
        return parts.section("What other sizes would cost", lead, chart)
