"""What the baselines share: their options, the loop over epochs, and what the record says of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.given import check_int
from zsu_fast.evaluate.inference import logits_of, model_device
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.training import EndlessBatches, LearningMethod, descend
from zsu_fast.unlearn.options import Options, check_positive, option

Loss = Callable[[Tensor, Tensor], Tensor]
"""(images, labels) of a mini-batch, on the student's device -> the mean loss."""


@dataclass(frozen=True)
class BatchOptions(Options):
    """Of methods that take gradients."""

    train_batch_size: int = option("Images in a mini-batch.", 64)

    def check(self) -> None:
        super().check()
        check_int("train_batch_size", self.train_batch_size, 1)


@dataclass(frozen=True)
class LearningOptions(BatchOptions):
    """Of methods that train. Their defaults are the sources', made for whole training sets: few images need more."""

    epochs: int = option("Passes through the images that are learned from.", 10)
    learning_rate: float = option("Of the optimizer.", 0.01)
    optimizer: str = option("sgd (with Nesterov's momentum) or adam.", "sgd", choices=("sgd", "adam"))
    momentum: float = option("Of sgd.", 0.9)
    weight_decay: float = option("Share of the weights that is added to their gradient.", 0.0)

    def check(self) -> None:
        super().check()
        check_int("epochs", self.epochs, 1)
        check_positive("learning_rate", self.learning_rate)
        check_positive("weight_decay", self.weight_decay, or_zero=True)
        check_positive("momentum", self.momentum, or_zero=True)
        if self.momentum >= 1:
            raise ValueError(f"momentum: expected less than 1, got {self.momentum}")


def default(kind: type[Options], name: str, value: Any) -> Any:
    """The option `name` of `kind`, with another default."""
    known = {f.name: f.metadata for f in fields(kind)}[name]
    return option(known["help"], value, choices=known["choices"])


class Baseline(LearningMethod):
    """A method of the literature. It makes one edit, of all it is given: other images judge it (`evaluate_on`)."""

    until: ClassVar[float] = 0.05
    folds: int = 1

    def described(self, given: Given) -> dict[str, Any]:
        return {"needs": sorted(self.needs), "train_mode": self.train_mode}


class Trainer:
    """Gradient descent on the parameters of a student, epoch by epoch. The same seed draws the same mini-batches.

    kept: what a checkpoint holds; who changes more with a step adds it before the first one.
    """

    def __init__(
        self, student: nn.Module, given: Given, options: LearningOptions, learning_rate: float | None = None
    ) -> None:
        self.student, self.given, self.options = student, given, options
        self.parameters = [p for p in student.parameters() if p.requires_grad]
        self.generator = torch.Generator().manual_seed(options.seed)
        rate = options.learning_rate if learning_rate is None else learning_rate
        decay, momentum = options.weight_decay, options.momentum
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.Adam(self.parameters, rate, weight_decay=decay)
            if options.optimizer == "adam"
            else torch.optim.SGD(self.parameters, rate, momentum, weight_decay=decay, nesterov=momentum > 0)
        )
        self.kept: list[Any] = [student, self.optimizer, self.generator]
        self._batches: dict[int, EndlessBatches] = {}
        self._stretch = given.stretch(self.kept)

    def epochs(
        self, images: Tensor, labels: Tensor, loss: Loss, text: str, after_step: Callable[[], None] = lambda: None
    ) -> None:
        """As many as the options say."""
        for epoch in range(self.options.epochs):
            self.epoch(images, labels, loss, f"{text}, epoch {epoch + 1} of {self.options.epochs}", after_step)

    def epoch(
        self, images: Tensor, labels: Tensor, loss: Loss, text: str, after_step: Callable[[], None] = lambda: None
    ) -> None:
        """Every image once, in an order of its own."""
        batches = self.batches(len(images))
        self.given.count(len(images))
        descend(
            lambda step: loss(*on_device_of(self.student, next(batches), images, labels)),
            self.parameters, self.optimizer, batches.epoch, self.given.progress, text, self._stretch, after_step,
            last=False,
        )  # fmt: skip

    def batches(self, count: int) -> EndlessBatches:
        """Of so many images. An epoch takes all of its own, so that the next one begins with a new order."""
        if count not in self._batches:
            self._batches[count] = EndlessBatches(count, self.options.train_batch_size, self.generator)
            self.kept.append(self._batches[count])
        return self._batches[count]


def on_device_of(model: nn.Module, chosen: Tensor, *data: Tensor) -> list[Tensor]:
    """The chosen ones of images, labels ..., which may lie on another device than the model."""
    return [some[chosen.to(some.device)].to(model_device(model, some.device)) for some in data]


def logits(model: nn.Module, images: Tensor) -> Tensor:
    """float [N, classes]"""
    return logits_of(model(images))


def cross_entropy(model: nn.Module) -> Loss:
    """The loss of classification."""

    def loss(images: Tensor, labels: Tensor) -> Tensor:
        found = logits(model, images)
        return F.cross_entropy(found, labels.to(found.device))

    return loss


def retained(given: Given) -> tuple[Tensor, Tensor]:
    """The retain images and their labels, for a method that needs them."""
    assert given.retain is not None
    return given.retain


def with_retain(given: Given, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """These and the retain images, if there are."""
    if given.retain is None:
        return images, labels
    return torch.cat([images, given.retain[0].to(images)]), torch.cat([labels, given.retain[1].to(labels)])


def check_floating(name: str, images: Tensor, method: str) -> None:
    if not images.is_floating_point():
        raise ValueError(f"{name}: method {method!r} needs floating-point images, got {images.dtype}")
