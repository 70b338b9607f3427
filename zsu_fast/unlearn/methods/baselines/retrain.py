"""Training from scratch without the class: what all methods of forgetting are held against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR, LRScheduler, OneCycleLR

from zsu_fast.unlearn.methods.base import RETAIN, Given
from zsu_fast.unlearn.methods.baselines.baseline import (
    Baseline,
    LearningOptions,
    Trainer,
    cross_entropy,
    default,
    retained,
)
from zsu_fast.unlearn.options import option


@dataclass(frozen=True)
class RetrainOptions(LearningOptions):
    learning_rate: float = default(LearningOptions, "learning_rate", 0.1)
    weight_decay: float = default(LearningOptions, "weight_decay", 5e-4)
    schedule: str = option(
        "Of the learning rate: one-cycle (up to it and down to nothing) or constant.",
        "one-cycle",
        choices=("one-cycle", "constant"),
    )


class Retrain(Baseline):
    """All modules begin anew and learn the retain images alone, BatchNorm statistics included.

    Needs retain images: as many as the model was trained on, if it is to be as good; no image of the class. Every
    module that holds parameters must have `reset_parameters`. The images come as they are given, without augmentation.
    """

    name: ClassVar[str] = "retrain"
    options: ClassVar[type[RetrainOptions]] = RetrainOptions
    needs: ClassVar[frozenset[str]] = frozenset({RETAIN})
    train_mode: ClassVar[bool] = True
    resumable: ClassVar[bool] = True

    asked: RetrainOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        reset(student)
        trainer = Trainer(student, given, self.asked)
        images, labels = retained(given)
        steps = self.asked.epochs * -(-len(images) // self.asked.train_batch_size)
        schedule: LRScheduler = (
            # No cycle of the momentum: Adam has none.
            OneCycleLR(trainer.optimizer, self.asked.learning_rate, max(3, steps), cycle_momentum=False)
            if self.asked.schedule == "one-cycle"
            else ConstantLR(trainer.optimizer, 1.0)
        )
        trainer.kept.append(schedule)
        trainer.epochs(images, labels, cross_entropy(student), "retrain", schedule.step)


def reset(model: nn.Module) -> None:
    """New parameters and BatchNorm statistics, as each module draws its own."""
    for name, module in reversed(list(model.named_modules())):  # the outer ones last: they know their parts
        draw = getattr(module, "reset_parameters", getattr(module, "_reset_parameters", None))
        if draw is not None:
            draw()
        elif own := [key for key, _ in module.named_parameters(recurse=False)]:
            where = f"module {name!r}" if name else "it"
            raise ValueError(
                f"model: {where} holds {', '.join(own)} and has no reset_parameters() to draw them anew with"
            )
