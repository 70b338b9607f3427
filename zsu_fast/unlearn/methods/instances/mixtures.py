"""Images that look like no one in particular: what is known of them must stay where single images are forgotten."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 3 / 16
"""Largest shift, as a share of the side: pictures stay what they are."""


def mixtures(images: Tensor, count: int, generator: torch.Generator, flips: Tensor | None = None) -> Tensor:
    """[count, ...] t a + (1 - t) b of two of the images [N, ...], t uniform in [0, 1], a and b flipped and shifted.

    Pictures [N, C, H, W] are shifted around the edges, and mirrored half of the time where `flips` (bool [N]) lets
    them; images of other shapes are mixed as they are. The mixing is that of Zhang et al. 2018 (arXiv 1710.09412).
    """
    flips = torch.zeros(len(images), device=images.device).bool() if flips is None else flips
    pairs = torch.randint(len(images), (2, count), generator=generator).to(images.device)
    share = torch.rand(count, generator=generator, dtype=images.dtype).to(images.device)
    share = share.view(-1, *[1] * (images.dim() - 1))
    first, second = (_moved(images[chosen], flips[chosen], generator) for chosen in pairs)
    return share * first + (1 - share) * second


def _moved(images: Tensor, flips: Tensor, generator: torch.Generator) -> Tensor:
    if images.dim() != 4:
        return images
    chance = torch.rand(len(images), generator=generator)
    height, width = (int(side * SHIFT) for side in images.shape[2:])
    down = torch.randint(-height, height + 1, (len(images),), generator=generator).tolist()
    right = torch.randint(-width, width + 1, (len(images),), generator=generator).tolist()
    moved = [
        (image.flip(-1) if flipped and flip < 0.5 else image).roll((d, r), (1, 2))
        for image, flipped, flip, d, r in zip(images, flips.tolist(), chance.tolist(), down, right, strict=True)
    ]
    return torch.stack(moved)
