"""Images that look like no one in particular: what is known of them must stay where single images are forgotten."""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = 3 / 16
"""Largest shift, as a share of the side: pictures stay what they are."""


def mixtures(images: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count, ...] t a + (1 - t) b of two of the images [N, ...], t uniform in [0, 1], a and b flipped and shifted.

    Pictures [N, C, H, W] are mirrored half of the time and shifted around the edges; images of other shapes are mixed
    as they are. The mixing is that of Zhang et al. 2018 (arXiv 1710.09412).
    """
    pairs = torch.randint(len(images), (2, count), generator=generator).to(images.device)
    share = torch.rand(count, generator=generator, dtype=images.dtype).to(images.device)
    share = share.view(-1, *[1] * (images.dim() - 1))
    first, second = (_moved(images[chosen], generator) for chosen in pairs)
    return share * first + (1 - share) * second


def _moved(images: Tensor, generator: torch.Generator) -> Tensor:
    if images.dim() != 4:
        return images
    flips = (torch.rand(len(images), generator=generator) < 0.5).tolist()
    height, width = (int(side * SHIFT) for side in images.shape[2:])
    down = torch.randint(-height, height + 1, (len(images),), generator=generator).tolist()
    right = torch.randint(-width, width + 1, (len(images),), generator=generator).tolist()
    moved = [
        (image.flip(-1) if flip else image).roll((d, r), (1, 2))
        for image, flip, d, r in zip(images, flips, down, right, strict=True)
    ]
    return torch.stack(moved)
