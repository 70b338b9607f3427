"""Just in time: the class's images are smoothed out, so that the model says nothing sharp about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.given import check_int
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.baselines.baseline import (
    Baseline,
    LearningOptions,
    Trainer,
    check_floating,
    default,
    logits,
)
from zsu_fast.unlearn.options import check_positive, option


@dataclass(frozen=True)
class JitOptions(LearningOptions):
    epochs: int = default(LearningOptions, "epochs", 1)
    learning_rate: float = default(LearningOptions, "learning_rate", 3e-4)
    copies: int = option("Noisy copies of each image.", 25)
    noise: float = option("Standard deviation of the noise, in units of the model-ready images.", 0.5)

    def check(self) -> None:
        super().check()
        check_int("copies", self.copies, 1)
        check_positive("noise", self.noise)


class Jit(Baseline):
    """Down the mean over n noisy copies of |f(x) - f(x + e)| / |e|, an estimate of the Lipschitz constant at x.

    Needs images of the class alone, no labels. BatchNorm statistics stay. Source: Foster et al., "Zero-shot machine
    unlearning at scale via Lipschitz regularization" (arXiv 2402.01401).
    """

    name: ClassVar[str] = "jit"
    options: ClassVar[type[JitOptions]] = JitOptions
    resumable: ClassVar[bool] = True

    asked: JitOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        check_floating("probes", images, self.name)
        trainer = Trainer(student, given, self.asked)

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            clean, found = logits(student, images), []
            for _ in range(self.asked.copies):
                noise = self.asked.noise * torch.randn(images.shape, generator=trainer.generator).to(images)
                found.append(sharpness(clean, logits(student, images + noise), noise))
            return torch.stack(found).mean()

        trainer.epochs(images, labels, loss, "jit")


def sharpness(clean: Tensor, noisy: Tensor, noise: Tensor) -> Tensor:
    """Mean over images of |clean - noisy| / |noise|, L2 norms of logits [N, classes] and of noise [N, ...]."""
    return ((clean - noisy).norm(dim=1) / noise.flatten(1).norm(dim=1)).mean()
