"""The smallest budget that forgets: measured on probes that had no part in choosing the neurons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Measure = Callable[[int], float]


def folds(labels: Tensor, count: int, seed: int) -> list[Tensor]:
    """Boolean masks [N] of `count` disjoint held-out parts, every class spread evenly (one full mask for one probe).

    A class with fewer probes than `count` lowers the number of parts, so that no part is chosen without its class.
    """
    generator = torch.Generator().manual_seed(seed)
    smallest = int(torch.bincount(labels.cpu()).clamp_min(0)[labels.cpu().unique()].min())
    parts = min(count, smallest)
    if parts < 2:
        return [torch.ones(len(labels), dtype=torch.bool)]
    number = torch.empty(len(labels), dtype=torch.int64)
    for label in labels.cpu().unique().tolist():
        members = (labels.cpu() == label).nonzero()[:, 0]
        shuffled = members[torch.randperm(len(members), generator=generator)]
        number[shuffled] = torch.arange(len(members)) % parts
    return [number == part for part in range(parts)]


@dataclass(frozen=True)
class Found:
    """Budget that first met the target (None if none did) and everything tried: (budget, forget accuracy)."""

    budget: int | None
    trace: tuple[tuple[int, float], ...]


def levels(largest: int, count: int = 24) -> list[int]:
    """At most `count` budgets from 1 to `largest`, evenly spaced in their logarithm."""
    if largest < 1:
        return []
    grid = torch.logspace(0, torch.log10(torch.tensor(float(largest))).item(), count)
    return sorted({min(largest, max(1, round(level))) for level in grid.tolist()})


def smallest(measure: Measure, largest: int, until: float, progress: Callable[[int, int], None]) -> Found:
    """The smallest budget in 1..largest with measure(budget) <= until.

    The grid of `levels` is walked upwards to the first budget that meets the target, then the gap below it is halved;
    this is exact when the accuracy falls with the budget, and near it when it wavers.
    """
    tried: dict[int, float] = {}

    def meets(budget: int) -> bool:
        tried[budget] = measure(budget)
        progress(len(tried), len(grid))
        return tried[budget] <= until

    grid = levels(largest)
    below = 0
    for budget in grid:
        if meets(budget):
            break
        below = budget
    else:
        return Found(None, tuple(sorted(tried.items())))
    while budget - below > 1:
        middle = (below + budget) // 2
        if meets(middle):
            budget = middle
        else:
            below = middle
    return Found(budget, tuple(sorted(tried.items())))


def accuracy_per_target(logits: Tensor, labels: Tensor, targets: Sequence[int]) -> float:
    """The largest accuracy over the target classes: several classes are forgotten when the best remembered one is."""
    right = (logits.argmax(1) == labels).float()
    return max(right[labels == target].mean().item() for target in targets)
