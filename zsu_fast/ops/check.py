"""Checks of tensor arguments that the ops share; every message names the argument, what came and what was expected."""

import torch
from torch import Tensor

from ..reference.layout import accumulate_dtype


def check_tensors(*optional: str, **tensors: Tensor | None) -> None:
    """All are floating-point tensors with the dtype and device of the first; those named `optional` may be None."""
    first_name, first = next((name, tensor) for name, tensor in tensors.items() if name not in optional)
    for label, tensor in tensors.items():
        if tensor is None and label in optional:
            continue
        if not isinstance(tensor, Tensor) or first is None:
            raise TypeError(f"{label} must be a Tensor, got {type(tensor).__name__}")
        if not tensor.is_floating_point():
            raise TypeError(f"{label} must be a floating-point tensor, got {tensor.dtype}")
        if tensor.layout != torch.strided:
            raise TypeError(f"{label} must be a dense tensor, got one of layout {tensor.layout}")
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise TypeError(
                f"{label} must be {first.dtype} on {first.device} like {first_name}, "
                f"got {tensor.dtype} on {tensor.device}"
            )


def check_shape(label: str, tensor: Tensor, expected: str, right: bool) -> None:
    if not right:
        raise ValueError(f"{label} must have shape {expected}, got {tuple(tensor.shape)}")


def check_unit_dim(tensor: Tensor, unit_dim: int) -> int:
    """`unit_dim` counted from the front; dimension 0 counts samples and cannot be it."""
    if isinstance(unit_dim, bool) or not isinstance(unit_dim, int):
        raise TypeError(f"unit_dim must be an int, got {type(unit_dim).__name__}")
    positive = unit_dim + tensor.dim() if unit_dim < 0 else unit_dim
    if not 1 <= positive < tensor.dim():
        raise ValueError(
            f"unit_dim must be 1 to {tensor.dim() - 1} (dimension 0 counts samples) for shape {tuple(tensor.shape)}, "
            f"got {unit_dim}"
        )
    return positive


def check_vector(label: str, tensor: Tensor | None, like: Tensor) -> None:
    """A parameter beside `like`: floating, on its device, in its dtype or (mixed precision) a wider one."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{label} must be a Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in (like.dtype, accumulate_dtype(like.dtype)) or tensor.device != like.device:
        raise TypeError(
            f"{label} must be {like.dtype} or {accumulate_dtype(like.dtype)} on {like.device}, "
            f"got {tensor.dtype} on {tensor.device}"
        )
