"""Our own way to forget single images: a bounded push on them, all around them held to the original's answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.given import check_int
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.baselines.baseline import check_floating, logits
from zsu_fast.unlearn.methods.instances.instance_method import InstanceMethod, request_of
from zsu_fast.unlearn.methods.instances.mixtures import mixtures
from zsu_fast.unlearn.methods.training import EndlessBatches, descend
from zsu_fast.unlearn.methods.views import answered_alike_mirrored
from zsu_fast.unlearn.options import Options, check_positive, option


@dataclass(frozen=True)
class MarginOptions(Options):
    steps: int = option("Most steps of Adam; fewer where the goal is reached.", 1000)
    learning_rate: float = option("Of Adam.", 5e-5)
    train_batch_size: int = option("Instances in a step.", 64)
    slack: float = option(
        "How far beyond the goal an instance is pushed, in logits (of the loss: in its log odds).", 0.5
    )
    growth: float = option("By how much an instance weighs more after a step, for each logit that it is short.", 0.002)
    anchors: int = option("Mixtures in a step, and as many retain images where they are given.", 32)
    anchor_weight: float = option("Of the divergence from the original's answers on the anchors.", 30.0)

    def check(self) -> None:
        super().check()
        for name in ("steps", "train_batch_size", "anchors"):
            check_int(name, getattr(self, name), 1)
        for name in ("learning_rate", "slack", "anchor_weight"):
            check_positive(name, getattr(self, name))
        check_positive("growth", self.growth, or_zero=True)


class Margin(InstanceMethod):
    """Down mean v relu(margin + slack) + w KL(original || model on anchors), until every instance is at its goal.

    margin is how far an instance is from the goal of the request; one that is slack beyond it is pushed no further. Its
    weight v begins at 1 and grows by `growth` (margin + slack) with every step that it is short, as a multiplier does
    in the method of multipliers: the push is as gentle as the goal allows. Anchors are mixtures of the instances, with
    what the original answers on them, and retain images where there are any. Needs the instances alone. BatchNorm is
    frozen, statistics included. The house's; the mixtures are those of arXiv 1710.09412, the aim that of 2301.11578.
    """

    name: ClassVar[str] = "margin"
    options: ClassVar[type[MarginOptions]] = MarginOptions
    resumable: ClassVar[bool] = True

    asked: MarginOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        check_floating("x", images, self.name)
        asked, request = self.asked, request_of(given)
        parameters = [p for p in student.parameters() if p.requires_grad]
        generator = torch.Generator().manual_seed(asked.seed)
        batches = EndlessBatches(len(images), asked.train_batch_size, generator)
        kept = images[:0] if given.retain is None else given.retain[0].to(images)
        chosen = EndlessBatches(len(kept), asked.anchors, generator)
        flips = answered_alike_mirrored(given.forward, images)
        last, weights = images.new_full((len(images),), torch.inf), images.new_ones(len(images))

        def loss(step: int) -> Tensor:
            where = next(batches).to(images.device)
            anchors = mixtures(images, asked.anchors, generator, flips)
            held = torch.cat([anchors, kept[next(chosen).to(images.device)]])
            with torch.no_grad():
                answers = given.forward(held).softmax(1)
            given.count(len(where) + len(held))
            found = logits(student, torch.cat([images[where], held]))
            margins = request.margins(found[: len(where)], where)
            last[where] = margins.detach().to(last)
            short = F.relu(margins + asked.slack)
            weights[where] += asked.growth * short.detach().to(weights)
            away = F.kl_div(found[len(where) :].log_softmax(1), answers, reduction="batchmean")
            return (weights[where] * short).mean() + asked.anchor_weight * away

        def enough() -> bool:
            return bool((last < 0).all()) and self.reached(student, given, images)

        optimizer = torch.optim.Adam(parameters, asked.learning_rate)
        stretch = given.stretch([student, optimizer, generator, batches, chosen, last, weights])
        descend(loss, parameters, optimizer, asked.steps, given.progress, "margin", stretch, enough=enough)
