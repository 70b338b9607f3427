"""What the methods that forget single images share: which requests they take, and when they stop."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.inference import inference_mode
from zsu_fast.unlearn.instances import ForgetInstances
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.baselines.baseline import logits
from zsu_fast.unlearn.methods.training import LearningMethod
from zsu_fast.unlearn.options import Options


class InstanceMethod(LearningMethod):
    """Trains a copy until the images of the request are at its goal, and no further."""

    takes: ClassVar[frozenset[str]] = frozenset({ForgetInstances.kind})
    until: ClassVar[float] = 0.0
    folds: int = 1

    asked: Options

    def reached(self, student: nn.Module, given: Given, images: Tensor) -> bool:
        """Whether enough of the images are at the goal, with BatchNorm as it will be used. NaN is no goal."""
        with inference_mode(student):
            found = torch.cat([logits(student, batch) for batch in self.asked.batches(images)])
        left = ~(request_of(given).margins(found, torch.arange(len(images), device=images.device)) < 0)
        return int(left.sum()) <= (self.until if self.asked.until is None else self.asked.until) * len(images)


def request_of(given: Given) -> ForgetInstances:
    assert isinstance(given.request, ForgetInstances)
    return given.request
