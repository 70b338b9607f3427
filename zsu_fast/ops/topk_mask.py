"""Masking in place by score: the elements of a weight that have the largest."""

from typing import Literal, overload

import torch
from torch import Tensor

from ..reference import masking as reference
from ._library import define
from .check import check_allowed, check_apart, check_value
from .memory import first_overlap, has_addresses, same_elements
from .selection import check_float, check_k

define(
    "topk_mask_(Tensor(a!) weight, Tensor scores, int k, bool absolute, float value, Tensor(b!)? saved_indices, "
    "Tensor(c!)? saved_values) -> ()",
    reference.topk_mask_,
    lambda *arguments: None,
    mutates=(0, 5, 6),
)


@overload
def topk_mask_(
    weight: Tensor,
    scores: Tensor,
    k: int,
    value: float = 0.0,
    *,
    absolute: bool = False,
    record: Literal[False] = False,
) -> Tensor: ...
@overload
def topk_mask_(
    weight: Tensor, scores: Tensor, k: int, value: float = 0.0, *, absolute: bool = False, record: Literal[True]
) -> tuple[Tensor, Tensor, Tensor]: ...
def topk_mask_(
    weight: Tensor, scores: Tensor, k: int, value: float = 0.0, *, absolute: bool = False, record: bool = False
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Set the elements of `weight` that have the k largest scores to `value`, in place.

    Ties go to the element of the lowest row-major index whatever the memory format, -0.0 equals +0.0, and NaN comes
    after every number: the result is the same on every device.

    Args:
        weight: float32, float64, float16 or bfloat16, any shape and strides without overlap.
        scores: Of the shape and device of `weight`, any of the same dtypes, any strides. May be `weight` itself.
        k: How many elements, 0 to weight.numel().
        value: What they become.
        absolute: Rank by |scores|.
        record: Return what was there, too, collected in the same pass.

    Returns:
        `weight`; with `record` (weight, indices, values): int64 [k] row-major indices, ascending, and [k] old values,
        so that `weight.view(-1)[indices] = values` undoes it bit for bit (for a contiguous weight).

    Raises:
        TypeError: a dtype that is not supported, `k` not an int.
        ValueError: shapes or devices differ; `k` out of range; `value` not representable in the dtype of `weight`;
            `weight` requires grad while grad mode is on, or its elements share memory. Nothing is changed then.
    """
    check_float("weight", weight)
    check_float("scores", scores)
    if scores.shape != weight.shape:
        raise ValueError(f"scores must have the shape of weight, {tuple(weight.shape)}, got {tuple(scores.shape)}")
    if scores.device != weight.device:
        raise ValueError(f"scores must be on the device of weight, {weight.device}, got {scores.device}")
    check_k(k, weight.numel(), "elements")
    value = check_value("value", value, weight.dtype)
    check_allowed("weight", weight)
    check_apart("weight", weight)
    if (
        has_addresses(weight)
        and has_addresses(scores)
        and not same_elements(weight, scores)
        and first_overlap([weight, scores])
    ):
        raise ValueError("scores must be weight itself or share no memory with it, got a partly overlapping view")
    indices = weight.new_empty(k, dtype=torch.int64) if record else None
    values = weight.new_empty(k) if record else None
    with torch.no_grad():
        torch.ops.zsu_fast.topk_mask_(weight, scores, k, bool(absolute), value, indices, values)
    if indices is None or values is None:
        return weight
    return weight, indices, values
