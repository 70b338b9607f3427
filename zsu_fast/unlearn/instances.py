"""The request to forget single training images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.given import check_classes, check_labels
from zsu_fast.unlearn import search
from zsu_fast.unlearn.options import check_choice, check_positive
from zsu_fast.unlearn.requests import NAN, OfClassifier, check_finite, labelled
from zsu_fast.unlearn.verdict import Evidence, Verdict, judge_instances

GOALS = {
    "misclassify": "get another answer",
    "relabel": "get the new label as answer",
    "unseen": "have no less loss than unseen images",
}


@dataclass(frozen=True, eq=False)
class ForgetInstances(OfClassifier):
    """Forget single images that a model was trained on, of whatever classes.

    x: model-ready images [N, ...], as the model was trained on them, without augmentation. y: int [N], the labels that
    it learned. goal: "misclassify": the answer is another class (arXiv 2301.11578); "relabel": it is `to` (likewise);
    "unseen": the loss is that of unseen images, which is what retraining without them comes to: much larger losses than
    those would show that the images were there.
    to: int [N], another class than `y`; goal "relabel" needs it. unseen: (images, labels) that the model was not
    trained on, goal "unseen" needs them: each instance gets its own part of their losses (of N evenly spaced quantiles
    the one of its rank), so that all N get the same distribution. Or losses in nats: one for all, or float [N].

    Raises:
        TypeError, ValueError: naming the argument.
    """

    x: Tensor
    y: Tensor | Sequence[int]
    goal: str = "misclassify"
    to: Tensor | Sequence[int] | None = None
    unseen: tuple[Tensor, Tensor] | Tensor | float | None = None

    kind: ClassVar[str] = "instances"
    argument: ClassVar[str] = "x"
    behind: ClassVar[float] = 0.0
    is_its_images: ClassVar[bool] = True
    short: ClassVar[str] = "short of the goal"

    def __post_init__(self) -> None:
        images = check_finite("x", self.x)
        labels = check_labels("y", self.y, len(images), images.device)
        object.__setattr__(self, "y", labels)
        check_choice("goal", self.goal, tuple(GOALS))
        for name, goal in (("to", "relabel"), ("unseen", "unseen")):
            if (getattr(self, name) is not None) != (self.goal == goal):
                needs = "needs it" if self.goal == goal else f"has no use for it; goal {goal!r} has"
                raise ValueError(f"{name}: goal {self.goal!r} {needs}")
        if self.to is not None:
            to = check_labels("to", self.to, len(images), images.device)
            if bool((to == labels).any()):
                raise ValueError(
                    f"to: expected other labels than y, got the same at {int((to == labels).nonzero()[0, 0])}"
                )
            object.__setattr__(self, "to", to)
        if self.unseen is not None:
            object.__setattr__(self, "unseen", _unseen(self.unseen, images))

    @property
    def probes(self) -> Tensor:
        return self.x

    @property
    def probe_labels(self) -> Tensor:
        assert isinstance(self.y, Tensor)
        return self.y

    @property
    def groups(self) -> list[Tensor]:
        return [torch.ones_like(self.probe_labels, dtype=torch.bool)]

    @property
    def name(self) -> str:
        return f"{len(self.x)} instance{'s' if len(self.x) > 1 else ''}"

    def started(self, forward: Callable[[Tensor], Tensor], view: nn.Module) -> ForgetInstances:
        if not isinstance(self.unseen, tuple):
            return self
        images, labels = self.unseen
        logits = forward(images)
        check_classes("unseen labels", labels, logits.shape[1])
        losses = F.softplus(-log_odds(logits, labels).double())
        if bool(losses.isnan().any()):
            raise ValueError("unseen: the model gives NaN on them (is the preprocessing right?)")
        count = len(self.x)
        quantiles = losses.quantile((torch.arange(count, device=losses.device) + 0.5).to(losses) / count)
        rank = log_odds(forward(self.x), self.probe_labels).argsort(descending=True, stable=True).argsort()
        return replace(self, unseen=quantiles[rank.to(losses.device)].float())

    def margins(self, logits: Tensor, where: Tensor) -> Tensor:
        if self.goal == "relabel":
            assert isinstance(self.to, Tensor)
            return -search.margins(logits, self.to[where])
        if self.goal == "misclassify":
            return search.margins(logits, self.probe_labels[where])
        assert isinstance(self.unseen, Tensor)
        level = self.unseen + (-(-self.unseen).expm1()).log()  # minus the log odds at that loss
        return log_odds(logits, self.probe_labels[where]) + level[where].to(logits.device)

    def check(self, classes: int, evaluated: Tensor | None) -> None:
        check_classes("y", self.probe_labels, classes)
        if isinstance(self.to, Tensor):
            check_classes("to", self.to, classes)

    def unknown(self, logits: Tensor) -> str | None:
        if bool(logits.isnan().any()):
            return f"{self.name}: {NAN}"
        if bool((self.margins(logits, self.groups[0]) < 0).all()):
            return f"{self.name}: nothing was done, without an edit all of them {GOALS[self.goal]}."
        return None

    def verdict(self, evidence: Evidence) -> Verdict:
        return judge_instances(self.name, GOALS[self.goal], evidence)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "goal": self.goal, "count": len(self.x)}


def log_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """[N] log p / (1 - p) of each label; the cross entropy is softplus of minus this, and tiny ones differ still."""
    logits = logits.float()
    own = logits.gather(1, labels[:, None])[:, 0]
    return own - logits.scatter(1, labels[:, None], -torch.inf).logsumexp(1)


def _unseen(given: Any, images: Tensor) -> tuple[Tensor, Tensor] | Tensor:
    """Labelled images, or the losses, float [N] where the images are."""
    if isinstance(given, (tuple, list)):
        return labelled("unseen", given)
    if isinstance(given, Tensor):
        if not given.is_floating_point() or given.shape != (len(images),):
            raise ValueError(
                f"unseen: expected (images, labels), a loss or losses float [{len(images)}], "
                f"got {given.dtype} of shape {tuple(given.shape)}"
            )
        if not bool(((given > 0) & given.isfinite()).all()):
            raise ValueError("unseen: expected losses above 0, finite")
        return given.detach().to(images.device)
    check_positive("unseen", given)
    return torch.full((len(images),), float(given), device=images.device)
