"""Learning wrong labels for the class: with all weights, or with those that the class depends on most."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.unlearn.methods.base import FORGET, RETAIN, Given
from zsu_fast.unlearn.methods.baselines.baseline import (
    Baseline,
    LearningOptions,
    Trainer,
    cross_entropy,
    default,
    on_device_of,
    with_retain,
)
from zsu_fast.unlearn.options import check_positive, option


@dataclass(frozen=True)
class RandomLabelOptions(LearningOptions):
    epochs: int = default(LearningOptions, "epochs", 3)
    learning_rate: float = default(LearningOptions, "learning_rate", 1e-4)
    optimizer: str = default(LearningOptions, "optimizer", "adam")


class RandomLabel(Baseline):
    """Each image of the class gets one random label of a class that stays, and is learned with it.

    Needs images of the class; retain images, where given, are learned among them. BatchNorm statistics stay. Source:
    the relabelling of Graves et al., "Amnesiac machine learning", AAAI 2021 (arXiv 2010.10981).
    """

    name: ClassVar[str] = "random-label"
    options: ClassVar[type[RandomLabelOptions]] = RandomLabelOptions
    resumable: ClassVar[bool] = True

    asked: RandomLabelOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        trainer = Trainer(student, given, self.asked)
        wrong = random_labels(given, labels, trainer.generator)
        trainer.epochs(*with_retain(given, images, wrong), cross_entropy(student), "random-label")


def random_labels(given: Given, labels: Tensor, generator: torch.Generator) -> Tensor:
    """int64 like `labels`: classes that are not to be forgotten, each as likely."""
    classes = given.forward(given.images[:1]).shape[1]
    others = torch.tensor([c for c in range(classes) if c not in given.targets])
    if not len(others):
        raise ValueError("target: names every class of the model, so there is no other label to learn")
    return others[torch.randint(len(others), labels.shape, generator=generator)].to(labels.device)


@dataclass(frozen=True)
class SalunOptions(LearningOptions):
    learning_rate: float = default(LearningOptions, "learning_rate", 0.013)
    weight_decay: float = default(LearningOptions, "weight_decay", 5e-4)
    share: float = option("Share in (0, 1] of the parameters that may change: the most salient.", 0.5)

    def check(self) -> None:
        super().check()
        check_positive("share", self.share)
        if self.share > 1:
            raise ValueError(f"share: expected at most 1, got {self.share}")


class Salun(Baseline):
    """Random labels, learned by the share of the parameters with the largest gradient of the class's loss.

    Needs both. Every parameter outside the mask stays bit for bit; so do BatchNorm statistics. Source: Fan et al.,
    "SalUn", ICLR 2024 (arXiv 2310.12508), with random labels.
    """

    name: ClassVar[str] = "salun"
    options: ClassVar[type[SalunOptions]] = SalunOptions
    needs: ClassVar[frozenset[str]] = frozenset({FORGET, RETAIN})
    resumable: ClassVar[bool] = True

    asked: SalunOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        trainer = Trainer(student, given, self.asked)
        masks = largest(self._saliency(trainer, images, labels), self.asked.share)
        before = [parameter.detach().clone() for parameter in trainer.parameters]

        @torch.no_grad()
        def put_back() -> None:  # not a mask on the gradients: weight decay and momentum move what has none
            for parameter, mask, old in zip(trainer.parameters, masks, before, strict=True):
                parameter.copy_(parameter.where(mask, old))

        learned = with_retain(given, images, random_labels(given, labels, trainer.generator))
        trainer.epochs(*learned, cross_entropy(student), "salun", put_back)

    def _saliency(self, trainer: Trainer, images: Tensor, labels: Tensor) -> list[Tensor]:
        """abs of the gradient of the class's loss, summed over its images."""
        student, loss = trainer.student, cross_entropy(trainer.student)
        sums = [torch.zeros_like(parameter) for parameter in trainer.parameters]
        for chosen in torch.arange(len(images)).split(self.asked.train_batch_size):
            summed = loss(*on_device_of(student, chosen, images, labels)) * len(chosen)
            found = torch.autograd.grad(summed, trainer.parameters, allow_unused=True)
            for total, gradient in zip(sums, found, strict=True):
                if gradient is not None:
                    total += gradient
        trainer.given.count(len(images))
        return [total.abs() for total in sums]


def largest(scores: list[Tensor], share: float) -> list[Tensor]:
    """Masks of the largest `share` of all scores together, of ties the first: round(share n) of n, at least one."""
    flat = torch.cat([score.flatten().cpu() for score in scores])
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[flat.argsort(descending=True, stable=True)[: max(1, round(share * len(flat)))]] = True
    parts = mask.split([score.numel() for score in scores])
    return [part.view_as(score).to(score.device) for part, score in zip(parts, scores, strict=True)]
