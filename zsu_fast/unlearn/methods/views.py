"""Variants of few images, for methods that learn from them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

MEMORY = 2**29
SHIFT = 8  # an image is shifted by at most this part of its side


def views(images: Tensor, count: int, generator: torch.Generator, flips: Tensor | None = None) -> Tensor:
    """[N x count, ...]: of each image itself and `count` - 1 variants, fewer where `MEMORY` bytes do not hold them.

    Pictures [N, C, H, W] are shifted, mirrored at their borders, and by chance flipped where `flips` (bool [N]) lets
    them; other inputs [N, ...] are mixed, each with another one. Of integers (words, say) there are no variants:
    nothing lies between two of them.
    """
    fitting = max(1, MEMORY // max(1, images.nbytes)) if images.is_floating_point() else 1
    found, flips = [images], torch.zeros(len(images)).bool() if flips is None else flips
    for _ in range(min(count, fitting) - 1):
        found.append(_shifted(images, generator, flips) if images.dim() == 4 else _mixed(images, generator))
    return torch.cat(found)


def answered_alike_mirrored(forward: Callable[[Tensor], Tensor], images: Tensor) -> Tensor | None:
    """Bool [N], of pictures: whether the model answers their mirror images alike. A mirrored three is no three."""
    if images.dim() != 4 or not images.is_floating_point():
        return None
    answers, mirrored = forward(torch.cat([images, images.flip(3)])).argmax(1).chunk(2)
    return answers == mirrored


def _shifted(images: Tensor, generator: torch.Generator, flips: Tensor) -> Tensor:
    height, width = images.shape[2:]
    down, across = height // SHIFT, width // SHIFT
    padded = F.pad(images, (across, across, down, down), mode="reflect")
    chance = torch.rand(3, len(images), generator=generator)
    found = []
    for image, flipped, (flip, y, x) in zip(padded, flips.tolist(), chance.T.tolist(), strict=True):
        top, left = int(y * (2 * down + 1)), int(x * (2 * across + 1))
        part = image[:, top : top + height, left : left + width]
        found.append(part.flip(2) if flipped and flip < 0.5 else part)
    return torch.stack(found)


def _mixed(images: Tensor, generator: torch.Generator) -> Tensor:
    other = torch.randperm(len(images), generator=generator).to(images.device)
    share = torch.rand(len(images), *[1] * (images.dim() - 1), generator=generator).to(images)
    return images.lerp(images[other], share)
