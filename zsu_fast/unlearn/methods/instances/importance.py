"""How much a model's answers on some images depend on each of its parameters: memory-aware synapses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zsu_fast.unlearn.methods.baselines.baseline import logits


def synapse_importance(
    model: nn.Module, images: Tensor, parameters: Sequence[nn.Parameter], batch: int = 1
) -> list[Tensor]:
    """Mean of abs(d |f(x)|_2 / d parameter) over the images. With a larger batch, of the gradient of its mean.

    Source: Aljundi et al. 2018 (arXiv 1711.09601), with the norm and not its square.
    """
    sums = [torch.zeros_like(parameter) for parameter in parameters]
    for some in images.split(batch):
        found = torch.autograd.grad(logits(model, some).norm(dim=1).mean(), parameters, allow_unused=True)
        for total, gradient in zip(sums, found, strict=True):
            if gradient is not None:
                total += gradient.abs() * len(some)
    return [total / len(images) for total in sums]


def unimportance(importance: Tensor) -> Tensor:
    """1 - importance scaled to [0, 1] within its tensor; 1 everywhere where all of it is alike."""
    low, high = importance.min(), importance.max()
    return 1 - (importance - low) / (high - low) if bool(high > low) else torch.ones_like(importance)
