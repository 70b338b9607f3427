"""Targeted adversarial examples: images near given ones that a model takes for another class."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def targeted_pgd(
    logits: Callable[[Tensor], Tensor],
    images: Tensor,
    targets: Tensor,
    *,
    radius: float,
    step: float,
    steps: int,
    generator: torch.Generator,
) -> Tensor:
    """[N, ...] images in [0, 1] at most `radius` away (L2, each) that descend the cross entropy of their targets.

    d <- P(d - step g / |g|), g the gradient at x + d, P first onto the ball and then into [0, 1]; the start is random,
    on the sphere. Source: Madry et al. 2018 (arXiv 1706.06083), for the L2 norm.
    """
    start = torch.randn(images.shape, generator=generator, dtype=images.dtype).to(images.device)
    found = projected(images, images + radius * unit(start), radius)
    for _ in range(steps):
        found = found.detach().requires_grad_()
        loss = F.cross_entropy(logits(found), targets, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, found)
        found = projected(images, found.detach() - step * unit(gradient), radius)
    return found


def unit(vectors: Tensor) -> Tensor:
    """[N, ...] each divided by its L2 norm; 0 stays 0."""
    return vectors / _norms(vectors).clamp(min=1e-12)


def projected(centres: Tensor, images: Tensor, radius: float) -> Tensor:
    """Onto the ball of each centre, then into [0, 1], which brings none farther from a centre that lies in there."""
    offset = images - centres
    return (centres + offset * (radius / _norms(offset).clamp(min=1e-12)).clamp(max=1)).clamp(0, 1)


def _norms(vectors: Tensor) -> Tensor:
    return vectors.flatten(1).norm(dim=1).view(-1, *[1] * (vectors.dim() - 1))
