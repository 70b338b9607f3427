"""Gradient ascent on the class, alone or held by the retain images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from zsu_fast.unlearn.methods.base import FORGET, RETAIN, Given
from zsu_fast.unlearn.methods.baselines.baseline import (
    Baseline,
    LearningOptions,
    Trainer,
    cross_entropy,
    on_device_of,
    retained,
)
from zsu_fast.unlearn.methods.training import EndlessBatches
from zsu_fast.unlearn.options import check_share, option


class NegGrad(Baseline):
    """Up the cross entropy of the class, which has no bound: with more epochs the other classes go too.

    Needs images of the class alone. BatchNorm statistics stay. Source: Golatkar et al. 2020 (arXiv 1911.04933).
    """

    name: ClassVar[str] = "neggrad"
    options: ClassVar[type[LearningOptions]] = LearningOptions
    resumable: ClassVar[bool] = True

    asked: LearningOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        loss = cross_entropy(student)
        Trainer(student, given, self.asked).epochs(images, labels, lambda x, y: -loss(x, y), "neggrad")


@dataclass(frozen=True)
class NegGradPlusOptions(LearningOptions):
    beta: float = option("Share of the retain images in the loss, in [0, 1].", 0.95)

    def check(self) -> None:
        super().check()
        check_share("beta", self.beta)


class NegGradPlus(Baseline):
    """Down beta CE(retain images) - (1 - beta) CE(class): an epoch is one of the retain images.

    Needs both. BatchNorm statistics stay. Source: Kurmanji et al. 2023 (arXiv 2302.09880).
    """

    name: ClassVar[str] = "neggrad+"
    options: ClassVar[type[NegGradPlusOptions]] = NegGradPlusOptions
    needs: ClassVar[frozenset[str]] = frozenset({FORGET, RETAIN})
    resumable: ClassVar[bool] = True

    asked: NegGradPlusOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        trainer = Trainer(student, given, self.asked)
        classification, beta = cross_entropy(student), self.asked.beta
        batches = EndlessBatches(len(images), self.asked.train_batch_size, trainer.generator)
        trainer.kept.append(batches)

        def loss(retain_images: Tensor, retain_labels: Tensor) -> Tensor:
            forgotten = on_device_of(student, next(batches), images, labels)
            given.count(len(forgotten[0]))
            return beta * classification(retain_images, retain_labels) - (1 - beta) * classification(*forgotten)

        trainer.epochs(*retained(given), loss, "neggrad+")
