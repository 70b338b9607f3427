"""The report on a class, or several, that a classifier forgot."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zsu_fast.evaluate import Evaluation, ProbeResult
from zsu_fast.report import accuracy, made_of, neurons, parts, pictures, poison
from zsu_fast.report.analysis import Analysis
from zsu_fast.report.page import Report


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

    @property
    def title(self) -> str:
        return f"Forget {', '.join(map(self.label, self.request['targets']))}"

    def cards(self) -> list[str]:
        cards = []
        if self.before is not None and self.after is not None:
            for what, name in (("The class, on the evaluation images", "forget"), ("All other classes", "retain")):
                found = getattr(self.after, f"{name}_interval")
                if found is not None:
                    old, new = (getattr(one, f"{name}_accuracy") for one in (self.before, self.after))
                    cards.append(parts.card(what, parts.percent(old), parts.percent(new), parts.interval(found)))
        else:
            metrics = self.record["metrics"]
            for what, key in (
                ("The class, on held-out probes", "forget_accuracy"), ("Retain probes", "retain_accuracy"),
            ):  # fmt: skip
                if metrics["before"].get(key) is not None:
                    old, new = (parts.percent(metrics[when][key]) for when in ("before", "after"))
                    cards.append(parts.card(what, old, new, f"{metrics['probes']} probes"))
        if self.probe_before is not None and self.probe_after is not None:
            old, new = (parts.percent(one.forget_accuracy) for one in (self.probe_before, self.probe_after))
            note = "can the class still be read off the features?"
            cards.append(parts.card("Linear probe, the class", old, new, note))
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
            parts.image("budget against accuracy", chart, "chart"),
        )

    def _front(self) -> str:
        points = self.record.get("front") or []
        if len(points) < 2:
            return ""
        lead = (
            f"Edits of {len(points) - 1} sizes, each measured on {points[0]['images']} images of the class and on "
            "others that had no part in the choice. Filled: no other size is as good in every respect and better in "
            "one. Ringed: the edit that was made. A probe that is low where the others fall too is damage, not "
            "forgetting."
        )
        chart = parts.image("left of the class against kept of the others", pictures.front_chart(points), "chart")
        return parts.section("What other sizes would cost", lead, chart)
