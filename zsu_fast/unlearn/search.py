"""How large an edit must be: measured on probes that had no part in choosing the neurons."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Meets = Callable[[int], bool]
LEVELS = 24


def folds(labels: Tensor, count: int, seed: int) -> list[Tensor]:
    """Boolean masks [N] of `count` disjoint held-out parts, every class spread evenly (one full mask for one probe).

    A class with fewer probes than `count` lowers the number of parts, so that no part is chosen without its class.
    """
    generator = torch.Generator().manual_seed(seed)
    smallest = int(labels.unique(return_counts=True)[1].min())
    parts = min(count, smallest)
    if parts < 2:
        return [torch.ones(len(labels), dtype=torch.bool)]
    number = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.cpu().unique().tolist():
        members = (labels.cpu() == label).nonzero()[:, 0]
        shuffled = members[torch.randperm(len(members), generator=generator)]
        number[shuffled] = torch.arange(len(members)) % parts
    return [number == part for part in range(parts)]


def levels(largest: int, count: int = LEVELS) -> list[int]:
    """At most `count` budgets from 1 to `largest`, evenly spaced in their logarithm."""
    if largest < 1:
        return []
    grid = torch.logspace(0, torch.log10(torch.tensor(float(largest))).item(), count)
    return sorted({min(largest, max(1, round(level))) for level in grid.tolist()})


def smallest(meets: Meets, largest: int) -> int | None:
    """The smallest budget in 1..largest that meets the aim, to three per cent; None if the largest does not.

    The largest is looked at first, then the grid of `levels` is bisected, then the gap below: this finds the smallest
    when what a budget meets a larger one meets too, and one near it when that wavers.
    """
    grid = levels(largest)
    if not grid or not meets(largest):
        return None
    low, high = -1, len(grid) - 1  # grid[high] meets the aim
    while high - low > 1:
        middle = (low + high) // 2
        if meets(grid[middle]):
            high = middle
        else:
            low = middle
    below, budget = (0 if low < 0 else grid[low]), grid[high]
    while budget - below > max(1, budget // 32):
        middle = (below + budget) // 2
        if meets(middle):
            budget = middle
        else:
            below = middle
    return budget


def margins(logits: Tensor, labels: Tensor) -> Tensor:
    """[N] by how much each image's class leads the best other logit; above 0 it is the answer. NaN stays NaN."""
    own = logits.gather(1, labels[:, None])[:, 0].float()
    others = logits.float().scatter(1, labels[:, None], -torch.inf).amax(1)
    return own - others
