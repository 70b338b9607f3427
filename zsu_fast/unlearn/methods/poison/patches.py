"""Patches of pictures: where they are cut out, and where they are pasted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from zsu_fast.lrp import Composite, relevance

Size = tuple[int, int]
"""Height and width in pixels."""


def patch_size(images: Tensor, share: float) -> Size:
    """Of a patch that takes `share` of the height and of the width of pictures [N, C, H, W]; at least one pixel."""
    height, width = images.shape[2:]
    return max(1, round(share * height)), max(1, round(share * width))


def centred(images: Tensor, size: Size) -> Tensor:
    """int64 [N, 2]: the upper left corner of a patch in the middle of each picture."""
    corner = [(whole - part) // 2 for whole, part in zip(images.shape[2:], size, strict=True)]
    return torch.tensor(corner).expand(len(images), 2)


def anywhere(images: Tensor, size: Size, generator: torch.Generator) -> Tensor:
    """int64 [N, 2]: a corner drawn for each picture, every place that holds the patch as likely as another."""
    places = [whole - part + 1 for whole, part in zip(images.shape[2:], size, strict=True)]
    return torch.stack([torch.randint(n, (len(images),), generator=generator) for n in places], 1)


def peaks(maps: Tensor, size: Size) -> Tensor:
    """int64 [N, 2]: the corner of the window of this size with the largest sum in each map [N, H, W]; ties: the first.

    Windows lie within the map, so that a peak at the border is no reason to cut a patch off.
    """
    sums = F.avg_pool2d(maps[:, None].double(), size, stride=1)[:, 0]
    best = sums.flatten(1).argmax(1)
    return torch.stack([best // sums.shape[2], best % sums.shape[2]], 1).cpu()


def relevance_maps(
    model: Callable[[Tensor], object],
    images: Tensor,
    labels: Tensor,
    composite: str | Composite,
    batch: int,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> Tensor:
    """[N, H, W]: relevance of the pixels, summed over the channels, each picture's for its own label."""
    found: list[Tensor] = []
    done = 0
    for some, own in zip(images.split(batch), labels.split(batch), strict=True):
        found.append(relevance(model, some, own, composite=composite, layers=()).input.sum(1))
        done += len(some)
        progress(done, len(images), "relevance of the pixels")
    return torch.cat(found)


def pasted(images: Tensor, at: Tensor, donors: Tensor, donors_at: Tensor, size: Size) -> Tensor:
    """Copies of pictures [N, C, H, W], each with a patch of its donor (likewise [N, ...]).

    at, donors_at: int64 [N, 2], upper left corners.
    """
    found = images.clone()
    height, width = size
    for image, (y, x), donor, (v, u) in zip(found, at.tolist(), donors, donors_at.tolist(), strict=True):
        image[:, y : y + height, x : x + width] = donor[:, v : v + height, u : u + width]
    return found
