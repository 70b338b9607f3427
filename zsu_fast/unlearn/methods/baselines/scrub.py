"""SCRUB: away from the teacher on the class, towards it on the others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.given import check_int
from zsu_fast.unlearn.methods.base import FORGET, RETAIN, Given
from zsu_fast.unlearn.methods.baselines.baseline import (
    Baseline,
    LearningOptions,
    Trainer,
    cross_entropy,
    default,
    logits,
    retained,
)
from zsu_fast.unlearn.options import check_positive, option


@dataclass(frozen=True)
class ScrubOptions(LearningOptions):
    learning_rate: float = default(LearningOptions, "learning_rate", 5e-4)
    optimizer: str = default(LearningOptions, "optimizer", "adam")
    max_epochs: int = option("In so many of the epochs, the first, a pass away from the teacher on the class.", 3)
    alpha: float = option("Weight of the divergence from the teacher on the retain images.", 0.5)
    gamma: float = option("Weight of the cross entropy there.", 1.0)
    temperature: float = option("By which logits are divided in the divergences.", 4.0)

    def check(self) -> None:
        super().check()
        check_int("max_epochs", self.max_epochs, 0)
        for name in ("alpha", "gamma"):
            check_positive(name, getattr(self, name), or_zero=True)
        check_positive("temperature", self.temperature)


class Scrub(Baseline):
    """Max epochs: up KL(teacher, student) on the class; min epochs: down gamma CE + alpha KL on the retain images.

    Needs both. The teacher is the model as it was. BatchNorm statistics stay. Source: Kurmanji et al., "Towards
    unbounded machine unlearning", NeurIPS 2023 (arXiv 2302.09880).
    """

    name: ClassVar[str] = "scrub"
    options: ClassVar[type[ScrubOptions]] = ScrubOptions
    needs: ClassVar[frozenset[str]] = frozenset({FORGET, RETAIN})
    resumable: ClassVar[bool] = True

    asked: ScrubOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        asked, trainer, classification = self.asked, Trainer(student, given, self.asked), cross_entropy(student)

        def divergence(images: Tensor) -> Tensor:
            with torch.no_grad():
                teacher = logits(given.model, images)
            return distillation(teacher, logits(student, images), asked.temperature)

        for epoch in range(asked.epochs):
            text = f"scrub, {{}} epoch {epoch + 1} of {asked.epochs}"
            if epoch < asked.max_epochs:
                trainer.epoch(images, labels, lambda x, y: -divergence(x), text.format("max"))
            trainer.epoch(
                *retained(given),
                lambda x, y: asked.gamma * classification(x, y) + asked.alpha * divergence(x),
                text.format("min"),
            )


def distillation(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """T^2 mean KL(softmax(teacher / T), softmax(student / T)), of logits [N, classes] (Hinton et al. 2015)."""
    target, found = (F.log_softmax(given / temperature, 1) for given in (teacher, student))
    return temperature**2 * F.kl_div(found, target, log_target=True, reduction="batchmean")
