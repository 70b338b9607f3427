"""Memory formats and units: what every reference op (and every fake) assumes about its operands.

A *unit* is a neuron: a channel of a convolution, an output of a linear layer. `unit_dim` is its dimension. Dimension 0
always counts samples.
"""

import torch
from torch import Tensor

_CHANNELS_LAST = {4: torch.channels_last, 5: torch.channels_last_3d}


def memory_format(tensor: Tensor) -> torch.memory_format | None:
    """The format that `tensor` is dense in: contiguous, channels_last(_3d), or None for any other strides."""
    if tensor.is_contiguous():
        return torch.contiguous_format
    channels_last = _CHANNELS_LAST.get(tensor.dim())
    if channels_last is not None and tensor.is_contiguous(memory_format=channels_last):
        return channels_last
    return None


def dense(tensor: Tensor) -> Tensor:
    """`tensor` itself if it is contiguous or channels_last, otherwise a contiguous copy."""
    return tensor if memory_format(tensor) is not None else tensor.contiguous()


def empty_dense(tensor: Tensor) -> Tensor:
    """Uninitialised output for a pass whose first operand is `tensor`."""
    return torch.empty_like(dense(tensor))


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the arithmetic: float64 for float64, float32 for float32, bfloat16 and float16."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def widen(tensor: Tensor) -> Tensor:
    return tensor.to(accumulate_dtype(tensor.dtype))


def narrow(result: Tensor, first: Tensor) -> Tensor:
    """`result` rounded to the dtype of the first operand and laid out as every backend lays it out."""
    return empty_dense(first).copy_(result)


def per_unit(vector: Tensor, unit_dim: int, like: Tensor) -> Tensor:
    """View of a [units] vector that broadcasts over `like` along `unit_dim`, in the dtype of the arithmetic."""
    shape = [1] * like.dim()
    shape[unit_dim] = -1
    return vector.to(accumulate_dtype(like.dtype)).view(shape)


def sum_per_unit(values: Tensor, unit_dim: int) -> Tensor:
    """[N, units]: sum of `values` over every dimension but the samples' and the units'."""
    rest = [d for d in range(1, values.dim()) if d != unit_dim]
    return values.sum(rest) if rest else values.clone()
