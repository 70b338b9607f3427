"""Checks of tensor arguments that the ops share; every message names the argument, what came and what was expected."""

import math

import torch
from torch import Tensor

from ..reference.layout import accumulate_dtype
from .memory import overlaps_itself


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


def check_allowed(label: str, tensor: Tensor) -> None:
    """`tensor` may be written to in the modes that are on."""
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{label} requires grad: masking in place is not differentiable, wrap it in torch.no_grad()")
    # Tracing cannot ask for inference mode.
    if not torch.compiler.is_compiling() and tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(f"{label} is an inference tensor: write to it under torch.inference_mode(), or clone it")


def check_apart(label: str, tensor: Tensor) -> None:
    """Every element of `tensor` has an address of its own."""
    if overlaps_itself(tensor):
        raise ValueError(
            f"{label} must have every element at an address of its own, got shape {tuple(tensor.shape)} with strides "
            f"{tensor.stride()} (expanded or overlapping): clone it first"
        )


def check_number(label: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{label} must be a float, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{label} must be a float, got an integer beyond its range") from None


def check_value(label: str, value: float, dtype: torch.dtype) -> float:
    """`value` is a number that `dtype` can hold, if perhaps not exactly."""
    value = check_number(label, value)
    if math.isfinite(value) and abs(value) > torch.finfo(dtype).max:
        raise ValueError(f"{label} {value} cannot be held by {dtype}")
    return value
