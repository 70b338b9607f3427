"""Further training on the retain images, plain and with a penalty that makes weights sparse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.unlearn.methods.base import RETAIN, Given
from zsu_fast.unlearn.methods.baselines.baseline import (
    Baseline,
    LearningOptions,
    Trainer,
    cross_entropy,
    default,
    retained,
)
from zsu_fast.unlearn.options import check_positive, option


@dataclass(frozen=True)
class FinetuneOptions(LearningOptions):
    weight_decay: float = default(LearningOptions, "weight_decay", 5e-4)


class Finetune(Baseline):
    """Cross entropy on the retain images; what is not repeated fades, slowly.

    Needs retain images. BatchNorm statistics are trained. Source: the usual baseline, e.g. Golatkar et al. 2020
    (arXiv 1911.04933).
    """

    name: ClassVar[str] = "finetune"
    options: ClassVar[type[LearningOptions]] = FinetuneOptions
    needs: ClassVar[frozenset[str]] = frozenset({RETAIN})
    train_mode: ClassVar[bool] = True
    resumable: ClassVar[bool] = True

    asked: LearningOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        Trainer(student, given, self.asked).epochs(*retained(given), cross_entropy(student), "finetune")


@dataclass(frozen=True)
class L1SparseOptions(LearningOptions):
    alpha: float = option("Of the penalty alpha (1 - e / E) |weights|, in epoch e = 0, 1 .. of E.", 5e-4)

    def check(self) -> None:
        super().check()
        check_positive("alpha", self.alpha, or_zero=True)


class L1Sparse(Baseline):
    """Fine-tuning with alpha (1 - e / E) times the L1 norm of all parameters added to the loss in epoch e of E.

    Needs retain images. BatchNorm statistics are trained. Source: Jia et al., "Model sparsity can simplify machine
    unlearning", NeurIPS 2023 (arXiv 2304.04934).
    """

    name: ClassVar[str] = "l1-sparse"
    options: ClassVar[type[L1SparseOptions]] = L1SparseOptions
    needs: ClassVar[frozenset[str]] = frozenset({RETAIN})
    train_mode: ClassVar[bool] = True
    resumable: ClassVar[bool] = True

    asked: L1SparseOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        trainer = Trainer(student, given, self.asked)
        classification = cross_entropy(student)
        for epoch in range(self.asked.epochs):
            weight = self.penalty_weight(epoch)

            def loss(images: Tensor, labels: Tensor, weight: float = weight) -> Tensor:
                norm = torch.stack([parameter.abs().sum() for parameter in trainer.parameters]).sum()
                return classification(images, labels) + weight * norm

            trainer.epoch(*retained(given), loss, f"l1-sparse, epoch {epoch + 1} of {self.asked.epochs}")

    def penalty_weight(self, epoch: int) -> float:
        return self.asked.alpha * (1 - epoch / self.asked.epochs)
