"""UNSIR: noise that the class's weights dislike most is learned as the class; then the others are repaired."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.given import check_int
from zsu_fast.evaluate.inference import model_device
from zsu_fast.unlearn.methods.base import RETAIN, Given
from zsu_fast.unlearn.methods.baselines.baseline import (
    Baseline,
    LearningOptions,
    Trainer,
    check_floating,
    cross_entropy,
    default,
    logits,
    retained,
)
from zsu_fast.unlearn.methods.training import descend, set_training
from zsu_fast.unlearn.options import check_positive, option


@dataclass(frozen=True)
class UnsirOptions(LearningOptions):
    epochs: int = default(LearningOptions, "epochs", 1)
    learning_rate: float = default(LearningOptions, "learning_rate", 0.02)
    optimizer: str = default(LearningOptions, "optimizer", "adam")
    repair_learning_rate: float = option("Of the repair; `learning_rate` is that of the impairment.", 0.01)
    noise_steps: int = option("Steps of Adam that make the noise.", 40)
    noise_learning_rate: float = option("Of these.", 0.1)
    noise_penalty: float = option("Of the noise's squares, against its growth.", 0.1)
    noise_batches: int = option("How often the mini-batch of noise of each class is among the images that impair.", 20)

    def check(self) -> None:
        super().check()
        for name in ("repair_learning_rate", "noise_learning_rate"):
            check_positive(name, getattr(self, name))
        check_positive("noise_penalty", self.noise_penalty, or_zero=True)
        for name in ("noise_steps", "noise_batches"):
            check_int(name, getattr(self, name), 1)


class Unsir(Baseline):
    """Impair and repair, with noise in place of the class's images.

    Noise N of a class c goes down -CE(f(N), c) + penalty mean(sum N^2). It is learned as c among the retain images
    (impair), then these are learned alone (repair). Needs retain images, of the class its index only. BatchNorm
    statistics are trained. Source: Tarun et al., "Fast yet effective machine unlearning" (arXiv 2111.08947).
    """

    name: ClassVar[str] = "unsir"
    options: ClassVar[type[UnsirOptions]] = UnsirOptions
    needs: ClassVar[frozenset[str]] = frozenset({RETAIN})
    train_mode: ClassVar[bool] = True
    resumable: ClassVar[bool] = True

    asked: UnsirOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        asked = self.asked
        images, labels = retained(given)
        check_floating("retain_probes", images, self.name)
        generator = torch.Generator().manual_seed(asked.seed)
        set_training(student, False)
        noise = [self.noise(student, given, target, images[:1], generator) for target in given.targets]
        set_training(student, True)
        repeated = [n.to(images).repeat(asked.noise_batches, *[1] * (n.dim() - 1)) for n in noise]
        named = [torch.full((len(n),), t).to(labels) for n, t in zip(repeated, given.targets, strict=True)]
        mixed = torch.cat([images, *repeated]), torch.cat([labels, *named])
        Trainer(student, given, asked).epochs(*mixed, cross_entropy(student), "unsir, impair")
        repair = Trainer(student, given, asked, asked.repair_learning_rate)
        repair.epochs(images, labels, cross_entropy(student), "unsir, repair")

    def noise(self, student: nn.Module, given: Given, target: int, image: Tensor, generator: torch.Generator) -> Tensor:
        """A mini-batch of noise [train_batch_size, ...] that the model takes for `target` least of all."""
        asked, device = self.asked, model_device(student, image.device)
        start = torch.randn(asked.train_batch_size, *image.shape[1:], generator=generator)
        noise = nn.Parameter(start.to(device, image.dtype))
        label = torch.full((len(noise),), target, device=device)

        def loss(step: int) -> Tensor:
            size = noise.square().flatten(1).sum(1).mean()
            return asked.noise_penalty * size - F.cross_entropy(logits(student, noise), label)

        optimizer = torch.optim.Adam([noise], asked.noise_learning_rate)
        text = f"unsir, noise of class {target}"
        stretch = given.stretch([noise, optimizer])
        descend(loss, [noise], optimizer, asked.noise_steps, given.progress, text, stretch)
        given.count(asked.noise_steps * len(noise))
        return noise.detach()
