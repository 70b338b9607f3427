"""Selection: how often each unit is among the most relevant."""

import torch
from torch import Tensor

from ..reference import selection as reference
from ._library import define

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)

define(
    "topk_count(Tensor relevance, int k, bool absolute) -> Tensor",
    reference.topk_count,
    lambda relevance, k, absolute: relevance.new_empty((relevance.shape[1],), dtype=torch.int64),
)


def check_float(label: str, tensor: Tensor) -> None:
    """`tensor` is a dense tensor of one of DTYPES."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{label} must be a Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in DTYPES or tensor.layout != torch.strided:
        raise TypeError(
            f"{label} must be a dense float32, float64, float16 or bfloat16 tensor, "
            f"got {tensor.dtype} ({tensor.layout})"
        )


def check_k(k: int, available: int, of: str) -> None:
    """`k` is an int in 0..available."""
    if isinstance(k, bool) or not isinstance(k, (int, torch.SymInt)):
        raise TypeError(f"k must be an int, got {type(k).__name__}")
    if not 0 <= k <= available:
        raise ValueError(f"k must be in 0..{available} (the number of {of}), got {k}")


@torch.no_grad()
def topk_count(relevance: Tensor, k: int, *, absolute: bool = False) -> Tensor:
    """For each unit, the number of samples in which it is one of the k most relevant ("neuronal occurrence frequency").

    Ties go to the unit of the lowest index, -0.0 equals +0.0, and NaN comes after every number: the result is the same
    on every device, whatever the layout and the number of threads.

    Args:
        relevance: [samples, units], float32, float64, float16 or bfloat16, any strides; either size may be 0.
        k: How many units each sample picks, 0 to units.
        absolute: Rank by |relevance|.

    Returns:
        int64 [units] on the device of `relevance`; sums to samples * k.

    Raises:
        TypeError: `relevance` is not a dense tensor of one of those dtypes, or `k` not an int.
        ValueError: `relevance` is not two-dimensional, or `k` out of range.

    Source: Chang et al., arXiv 2410.23693, eq. 7 and 8.
    """
    check_float("relevance", relevance)
    if relevance.dim() != 2:
        raise ValueError(f"relevance must have shape [samples, units], got {tuple(relevance.shape)}")
    check_k(k, relevance.shape[1], "units")
    return torch.ops.zsu_fast.topk_count(relevance, k, bool(absolute))
