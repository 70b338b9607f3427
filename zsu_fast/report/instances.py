"""The report on single images that a classifier forgot. It shows the images themselves only if they are handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from torch import Tensor, nn

from zsu_fast.evaluate.inference import answers_of
from zsu_fast.report import accuracy, parts, pictures
from zsu_fast.report.analysis import run
from zsu_fast.report.page import Report
from zsu_fast.unlearn import ForgetInstances
from zsu_fast.unlearn.instances import GOALS

MOST = 200


@dataclass(frozen=True)
class InstancesSeen:
    """Of each instance the answer (-1: NaN), int64 [N], and how far it is from its goal, float [N]; below 0: there."""

    answers: Tensor
    margins: Tensor


def look(model: nn.Module, request: ForgetInstances, batch_size: int) -> InstancesSeen:
    """request: as `begun` gives it. The model is unchanged by this."""
    logits = run(model, request.x, batch_size)
    return InstancesSeen(answers_of(logits), request.margins(logits, request.groups[0]).float().cpu())


@dataclass(frozen=True, kw_only=True)
class InstancesReport(Report):
    """Everything but the labels may be missing; its section is then left out.

    Attributes:
        labels: what the instances were learned as.
        before, after: what `look` saw.
        photos: uint8 [n, H, W, C], the instances themselves.
    """

    labels: Sequence[int]
    before: InstancesSeen | None = None
    after: InstancesSeen | None = None
    photos: np.ndarray[Any, Any] | None = None

    @property
    def title(self) -> str:
        count = self.request["count"]
        return f"Forget {count} image{'s' if count > 1 else ''}"

    def cards(self) -> list[str]:
        metrics, seen = self.record["metrics"], self.record.get("evaluation")
        old, new = metrics["before"], metrics["after"]
        note = f"goal: they {GOALS[self.request['goal']]}"
        cards = [
            parts.card(
                "Short of the goal", parts.percent(old["forget_accuracy"]), parts.percent(new["forget_accuracy"]), note
            ),
            parts.card("Margin, median", parts.number(old["margin"]), parts.number(new["margin"]), "below 0: there"),
        ]
        if seen:
            before, after = (parts.percent(seen[when]["accuracy"]) for when in ("before", "after"))
            count = sum(seen["after"]["counts"].values())
            cards.append(parts.card("Accuracy", before, after, f"on {count} evaluation images"))
        if old["retain_accuracy"] is not None:
            before, after = (parts.percent(one["retain_accuracy"]) for one in (old, new))
            cards.append(parts.card("Retain images", before, after, "accuracy, or share of answers kept"))
        return cards

    def sections(self) -> list[str]:
        return [self._chart(), self._table(), self._classes()]

    def _chart(self) -> str:
        if self.before is None:
            return ""
        curves = {"before": self.before.margins.tolist()}
        if self.after is not None:
            curves["after"] = self.after.margins.tolist()
        lead = (
            "How far each instance is from its goal, in logits, from the farthest to the nearest; below the line it is "
            "there. Much lower than it need be is a mark of its own: such an instance stands out."
        )
        chart = parts.image("margins of the instances before and after", pictures.margin_chart(curves), "chart")
        return parts.section("Margins", lead, chart)

    def _table(self) -> str:
        if self.before is None:
            return ""
        head = ["image", "learned as", "answer before", "margin before"]
        head += [] if self.after is None else ["answer after", "margin after"]
        lines = []
        for i, label in enumerate(self.labels[:MOST]):
            shown = str(i)
            if self.photos is not None and i < len(self.photos):
                shown = parts.image(f"instance {i}", pictures.photo(self.photos[i]), "thumb")
            line = [shown, escape(self.label(label))]
            for seen in filter(None, (self.before, self.after)):
                answer = int(seen.answers[i])
                line += [escape("NaN" if answer < 0 else self.label(answer)), f"{float(seen.margins[i]):.2f}"]
            lines.append(line)
        lead = "In the order in which they were given." if len(lines) == len(self.labels) else f"The first {MOST}."
        return parts.section("Each instance", lead, parts.table(head, lines))

    def _classes(self) -> str:
        seen = self.record.get("evaluation")
        if not seen:
            return ""
        before, after = (accuracy.by_class(seen[when]["per_class"]) for when in ("before", "after"))
        what = "Top-1 accuracy on the evaluation images. Marked: classes that the instances were learned as."
        return accuracy.per_class(before, after, set(self.labels), self.names, what=what)
