"""The report on single images that a classifier forgot. It shows the images themselves only if they are handed over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from zsu_fast.evaluate.inference import answers_of
from zsu_fast.report import accuracy, parts, pictures, words
from zsu_fast.report.analysis import run
from zsu_fast.report.base import Card, Report
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
    """Everything may be missing; its section is then left out.

    Attributes:
        labels: what the instances were learned as.
        before, after: what `look` saw.
        photos: uint8 [n, H, W, C], the instances themselves.
    """

    labels: Sequence[int] = ()
    before: InstancesSeen | None = None
    after: InstancesSeen | None = None
    photos: np.ndarray[Any, Any] | None = None

    inputs: ClassVar[str] = "images, which are themselves what is to be forgotten"
    glossary: ClassVar[tuple[str, ...]] = (
        "retain images", "evaluation images", "accuracy", "features", "retrained model (oracle)", "relearning",
        "membership inference", "logit", "margin",
    )  # fmt: skip

    @property
    def title(self) -> str:
        count = self.request["count"]
        return f"Forget {count} image{'s' if count > 1 else ''}"

    @property
    def asked(self) -> str:
        count = self.request["count"]
        return (
            f"The model is to forget {words.count(count, 'image')} that it was trained on: the goal is that they "
            f"{GOALS[self.request['goal']]}. What else it recognises is to stay."
        )

    def shown(self) -> list[str]:
        seen = self.record.get("evaluation")
        said = []
        if seen:
            before, after = (words.percent(seen[when]["accuracy"]) for when in ("before", "after"))
            said.append(
                f"On {self._evaluated}, {self.apart}, {before} of the answers were right before and {after} are after."
            )
        return said + self.on_retain_images()

    def not_shown(self) -> list[str]:
        told = "Whether it can still be told that these images were among those that the model was trained on"
        told += " (membership inference): not tested here."
        if self.request["goal"] == "unseen":
            told += " Their losses were made those of unseen images, which defeats the simplest such test, not all."
        elif self.request["goal"] == "misclassify":
            told += " A wrong answer to an image can itself be a mark that it was there."
        said = [
            told,
            "Other images of the same person or thing, and crops or copies of these: nothing was asked of them.",
            "What the features still hold of them, and how soon training on them brings them back: not tested here.",
        ]
        if not self.record.get("evaluation"):
            said.append("What the edit costs on images that had no part in its choice: not measured.")
        return said

    def judges(self) -> list[str]:
        return [f"{self._evaluated}, {self.apart}"] if self._evaluated else []

    @property
    def _evaluated(self) -> str:
        """How many images judged the price, in words."""
        seen = self.record.get("evaluation")
        return words.count(sum(seen["after"]["counts"].values()), "evaluation image") if seen else ""

    def cards(self) -> list[Card]:
        metrics, seen = self.record["metrics"], self.record.get("evaluation")
        old, new = metrics["before"], metrics["after"]
        note = f"goal: they {GOALS[self.request['goal']]}"
        cards = [
            Card.share("Short of the goal", old["forget_accuracy"], new["forget_accuracy"], note),
            Card("Margin, median", words.number(old["margin"]), words.number(new["margin"]), "below 0: there"),
        ]
        if seen:
            note = f"on {self._evaluated}, {self.apart}"
            cards.append(Card.share("Accuracy", seen["before"]["accuracy"], seen["after"]["accuracy"], note))
        if old["retain_accuracy"] is not None:
            note = "accuracy, or share of answers kept; they had a part in the choice"
            cards.append(Card.share("Retain images", old["retain_accuracy"], new["retain_accuracy"], note))
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
        chart = parts.chart("margins of the instances before and after", pictures.margin_chart(curves))
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
        return parts.section("Each instance", lead, parts.table("each instance", head, lines))

    def _classes(self) -> str:
        seen = self.record.get("evaluation")
        if not seen:
            return ""
        before, after = (accuracy.by_class(seen[when]["per_class"]) for when in ("before", "after"))
        what = "Top-1 accuracy on the evaluation images. Marked: classes that the instances were learned as."
        return accuracy.per_class(before, after, set(self.labels), self.names, what=what)
