"""Which scores are the k largest: one total order for every op that selects.

Larger first; equal scores (-0.0 equals +0.0) in the order of their index, lowest first; NaN after every number. So the
k first are the same set on every backend, for any layout and any number of threads.
"""

import math

import torch
from torch import Tensor


def descending(scores: Tensor, absolute: bool) -> Tensor:
    """int64 indices along the last dimension of `scores` (or of |scores|), the largest first."""
    scores = (scores.abs() if absolute else scores) + 0.0  # -0.0 + 0.0 is +0.0
    nan = scores.isnan()
    by_value = scores.masked_fill(nan, -math.inf).sort(dim=-1, descending=True, stable=True).indices
    nan_last = nan.gather(-1, by_value).to(torch.uint8).sort(dim=-1, stable=True).indices
    return by_value.gather(-1, nan_last)


def topk_count(relevance: Tensor, k: int, absolute: bool) -> Tensor:
    """int64 [units]: in how many rows of `relevance` [samples, units] each unit is among the k first."""
    picked = descending(relevance, absolute)[:, :k].flatten()
    counts = torch.zeros(relevance.shape[1], dtype=torch.int64, device=relevance.device)
    return counts.index_add_(0, picked, torch.ones_like(picked))


def topk_indices(scores: list[Tensor], k: list[int], absolute: bool) -> Tensor:
    """int64 [sum(k)]: of each vector the indices of its k first, ascending, one vector after the other."""
    return torch.cat([descending(each, absolute)[:count].sort().values for each, count in zip(scores, k, strict=True)])
