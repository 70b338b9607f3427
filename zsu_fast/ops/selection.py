"""Selection: which units are the most relevant, and how often each is among them."""

from collections.abc import Sequence
from typing import overload

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
define(
    "topk_indices(Tensor[] scores, int[] k, bool absolute) -> Tensor",
    reference.topk_indices,
    lambda scores, k, absolute: scores[0].new_empty((sum(k),), dtype=torch.int64),
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


def check_k(k: object, available: int, of: str) -> None:
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


@overload
def topk_indices(scores: Tensor, k: int, *, absolute: bool = False) -> Tensor: ...
@overload
def topk_indices(scores: Sequence[Tensor], k: int | Sequence[int], *, absolute: bool = False) -> list[Tensor]: ...
@torch.no_grad()
def topk_indices(
    scores: Tensor | Sequence[Tensor], k: int | Sequence[int], *, absolute: bool = False
) -> Tensor | list[Tensor]:
    """Where the k largest scores are, of one vector or, in one call, of many: the neurons of every layer of a network.

    Ties go to the lowest index, -0.0 equals +0.0, and NaN comes after every number: the result is the same on every
    device. On a GPU nothing is waited for: `mask_neurons_` takes the result with `check=False`.

    Args:
        scores: [units], or a sequence of such vectors of any lengths, of one dtype (float32, float64, float16 or
            bfloat16) on one device. Any strides.
        k: How many, 0 to units; for a sequence also one per vector.
        absolute: Rank by |scores|.

    Returns:
        int64 [k] on the device of `scores`, ascending; a list of those for a sequence.

    Raises:
        TypeError: scores that are no dense tensors of one of those dtypes, `k` not an int.
        ValueError: scores that are not one-dimensional, or differ in dtype or device; `k` out of range, or not one per
            vector.
    """
    single = isinstance(scores, Tensor)
    if not single and (not isinstance(scores, Sequence) or isinstance(scores, str)):
        raise TypeError(f"scores must be a Tensor or a sequence of Tensors, got {type(scores).__name__}")
    vectors = [scores] if isinstance(scores, Tensor) else list(scores)
    counts = list(k) if not single and isinstance(k, Sequence) else [k] * len(vectors)
    if len(counts) != len(vectors):
        raise ValueError(f"k must be an int or one for each of the {len(vectors)} vectors, got {len(counts)}")
    for i, (vector, count) in enumerate(zip(vectors, counts, strict=True)):
        label = "scores" if single else f"scores[{i}]"
        check_float(label, vector)
        if vector.dim() != 1:
            raise ValueError(f"{label} must be one-dimensional, got shape {tuple(vector.shape)}")
        if vector.dtype != vectors[0].dtype or vector.device != vectors[0].device:
            raise ValueError(
                f"scores must have one dtype and device, got {vectors[0].dtype} on {vectors[0].device} and, for "
                f"{label}, {vector.dtype} on {vector.device}"
            )
        check_k(count, vector.shape[0], "units" if single else f"units of {label}")
    if not vectors:
        return []
    indices = torch.ops.zsu_fast.topk_indices(vectors, counts, bool(absolute))
    return indices if single else list(indices.split(counts))
