"""What each size of an edit would leave of the class and cost the others, on images that had no part in choosing it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from zsu_fast.evaluate import linear_probe, prototype_row
from zsu_fast.evaluate.given import check_classes
from zsu_fast.evaluate.inference import answers_of
from zsu_fast.evaluate.probe import ProbeResult, features_and_logits
from zsu_fast.unlearn import search
from zsu_fast.unlearn.measure import Measurement
from zsu_fast.unlearn.requests import Pair
from zsu_fast.unlearn.trial import Trial

LESS, MORE = ("answers", "linear_probe", "prototype"), ("others",)
"""Objectives: what should be left of the class, and what the others should keep."""
LEVELS = 8
Point = dict[str, Any]


class Front:
    """Points of a front, measured on labelled images of the class and of others.

    Half of each class, drawn with the request's seed, are an attacker's lessons, the other half judge everything.
    """

    def __init__(self, measurement: Measurement, images: Pair) -> None:
        self.measurement = measurement
        x, y = images
        first = search.folds(y.cpu(), 2, measurement.options.seed)[0]
        self.lessons, self.judging = ((x[part.to(x.device)], y[part.to(y.device)].cpu()) for part in (first, ~first))
        self.points: list[Point] = []

    def check(self, targets: Sequence[int], classes: int) -> None:
        """ValueError for labels that do not fit the model, or halves without the class or without others."""
        if not targets:
            raise ValueError("front: requests to forget classes have one, others do not")
        for _, labels in (self.lessons, self.judging):
            check_classes("front labels", labels, classes)
            own = torch.isin(labels, torch.tensor(list(targets)))
            if not 0 < int(own.sum()) < len(labels):
                raise ValueError("front: must hold two images at least of the class, and of another one")

    def draw(self, trial: Trial, chosen: int | None) -> None:
        """Measure one proposal: the budgets that the search looked at, a few more, the chosen one. For a model without
        an edit in place."""
        measurement, proposal = self.measurement, trial.proposal
        about = {"layers": list(proposal.layers), "mode": proposal.mode}
        tried = {step["budget"] for step in measurement.trace if about.items() <= step.items()}
        budgets: set[int] = tried | set(search.levels(trial.largest, LEVELS)) | (set() if chosen is None else {chosen})
        if not self.points:
            self.points.append({"budget": 0, "layers": [], "mode": "none", **self._measured(), "chosen": False})
        for number, budget in enumerate(sorted(budgets)):
            with measurement.edited(trial.choice.edits(budget)):
                self.points.append({"budget": budget, **about, **self._measured(), "chosen": budget == chosen})
            measurement.progress(number + 1, len(budgets), "front")

    def finished(self, edited: bool) -> list[Point]:
        """All points, each with "chosen" (none, if the edit was taken back) and "undominated"."""
        return [
            {**point, "chosen": edited and point["chosen"], "undominated": undominated(point, self.points)}
            for point in self.points
        ]

    def _measured(self) -> Point:
        model, targets = self.measurement.transaction.view, self.measurement.request.classes
        batch = self.measurement.options.batch(self.judging[0])
        (shown, known), (judging, truth) = self.lessons, self.judging
        lessons, lesson_logits = features_and_logits(model, shown, batch_size=batch)
        values, logits = features_and_logits(model, judging, batch_size=batch)
        answers = ProbeResult.of((answers_of(logits) == truth).double(), truth, targets)
        probe = linear_probe(lessons, known, values, truth, targets, seed=self.measurement.options.seed)
        point: Point = {
            "answers": answers.forget_accuracy,
            "others": answers.retain_accuracy,
            "linear_probe": probe.forget_accuracy,
            "linear_probe_others": probe.retain_accuracy,
            "prototype": None,
            "images": int(torch.isin(truth, torch.tensor(list(targets))).sum()),
        }
        if len(targets) == 1:
            images = min(36, int((known == targets[0]).sum()))
            row = prototype_row(
                lessons, known, lesson_logits, values, truth, logits, targets[0], images=images,
                seed=self.measurement.options.seed,
            )  # fmt: skip
            point |= {"prototype": row.forget_accuracy, "prototype_images": images}
        return point


def undominated(point: Point, points: Sequence[Point]) -> bool:
    """Whether no other point is as good in every objective and better in one."""

    def values(one: Point) -> Tensor:
        signed = [one[key] for key in LESS if one[key] is not None] + [-one[key] for key in MORE]
        return torch.tensor(signed, dtype=torch.float64)

    mine = values(point)
    return not any(bool((values(other) <= mine).all() and (values(other) < mine).any()) for other in points)
