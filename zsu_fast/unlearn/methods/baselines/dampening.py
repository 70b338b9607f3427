"""Selective synaptic dampening: parameters that matter to the class far more than to all images are scaled down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.unlearn.methods.base import FORGET, RETAIN, Given
from zsu_fast.unlearn.methods.baselines.baseline import (
    Baseline,
    BatchOptions,
    Loss,
    cross_entropy,
    logits,
    on_device_of,
    with_retain,
)
from zsu_fast.unlearn.methods.training import mini_batches
from zsu_fast.unlearn.options import check_positive, option


@dataclass(frozen=True)
class DampeningOptions(BatchOptions):
    alpha: float = option("Dampened is what matters to the class more than alpha times as much as to all images.", 10.0)
    dampening: float = option("lambda: what is dampened is multiplied by min(lambda F_D / F_f, 1).", 1.0)

    def check(self) -> None:
        super().check()
        check_positive("alpha", self.alpha)
        check_positive("dampening", self.dampening, or_zero=True)


class Dampening(Baseline):
    """SSD: where F_f > alpha F_D, a parameter is multiplied by min(lambda F_D / F_f, 1). One pass, no training.

    F is the mean over mini-batches of the squared gradient of their cross entropy; F_f over the images of the class,
    F_D over these and the retain images. Needs both. BatchNorm statistics stay. Source: Foster, Schoepf and Brintrup,
    "Fast machine unlearning without retraining through selective synaptic dampening", AAAI 2024 (arXiv 2308.07707).
    """

    name: ClassVar[str] = "ssd"
    options: ClassVar[type[DampeningOptions]] = DampeningOptions
    needs: ClassVar[frozenset[str]] = frozenset({FORGET, RETAIN})
    power: ClassVar[int] = 2

    asked: DampeningOptions

    def loss(self, student: nn.Module) -> Loss:
        return cross_entropy(student)

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
        of_class = self._importance(student, parameters, given, images, labels)
        of_all = self._importance(student, parameters, given, *with_retain(given, images, labels))
        with torch.no_grad():
            for parameter, forget, whole in zip(parameters, of_class, of_all, strict=True):
                dampen_(parameter, forget, whole, self.asked.alpha, self.asked.dampening)

    def _importance(
        self, student: nn.Module, parameters: Sequence[Tensor], given: Given, images: Tensor, labels: Tensor
    ) -> list[Tensor]:
        """For each parameter the mean over mini-batches of abs(gradient of their loss) to the power."""
        generator = torch.Generator().manual_seed(self.asked.seed)
        batches = mini_batches(len(images), self.asked.train_batch_size, generator)
        loss, found = self.loss(student), [torch.zeros_like(parameter) for parameter in parameters]
        for done, chosen in enumerate(batches, 1):
            value = loss(*on_device_of(student, chosen, images, labels))
            gradients = torch.autograd.grad(value, parameters, allow_unused=True)
            for total, gradient in zip(found, gradients, strict=True):
                if gradient is not None:
                    total += gradient.abs() ** self.power / len(batches)
            given.progress(done, len(batches), f"{self.name}, importance")
        given.count(len(images))
        return found


class LabelFreeDampening(Dampening):
    """SSD without labels: F is the mean over mini-batches of abs(gradient of the mean squared L2 norm of the logits).

    Needs both kinds of images. BatchNorm statistics stay. Source: Foster et al., "Loss-free machine unlearning"
    (arXiv 2402.19308).
    """

    name: ClassVar[str] = "lfssd"
    power: ClassVar[int] = 1

    def loss(self, student: nn.Module) -> Loss:
        return lambda images, labels: logits(student, images).square().sum(1).mean()


def dampen_(parameter: Tensor, forget: Tensor, whole: Tensor, alpha: float, dampening: float) -> None:
    """parameter *= min(dampening whole / forget, 1) where forget > alpha whole."""
    factor = (dampening * whole / forget).clamp(max=1)
    parameter.copy_(parameter.where(forget <= alpha * whole, parameter * factor))
