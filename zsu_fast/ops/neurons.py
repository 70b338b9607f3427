"""Relevance per neuron."""

import torch
from torch import Tensor

from ..reference import neurons as reference
from ..reference.layout import accumulate_dtype
from .check import check_shape, check_tensors, check_unit_dim
from .constant import define_constant


def _fake(gradient: Tensor, activation: Tensor, unit_dim: int, per_sample: bool) -> Tensor:
    units = gradient.shape[unit_dim]
    shape = (gradient.shape[0], units) if per_sample else (units,)
    return gradient.new_empty(shape, dtype=accumulate_dtype(gradient.dtype))


define_constant(
    "neuron_relevance(Tensor gradient, Tensor activation, int unit_dim, bool per_sample) -> Tensor",
    reference.neuron_relevance,
    _fake,
)


def neuron_relevance(gradient: Tensor, activation: Tensor, unit_dim: int = 1, per_sample: bool = True) -> Tensor:
    """Sum of gradient * activation over every dimension but the units': the relevance R = c * a of each neuron.

    Args:
        gradient: c, [N, ...] with the units along `unit_dim`: 1 for channels-first (contiguous or channels_last
            memory), -1 for tokens [N, T, units].
        activation: a, of the shape, dtype and device of `gradient`.
        per_sample: Keep the samples apart.

    Returns:
        [N, units], or [units] summed over the samples; float32 (float64 for float64). The sum is the same bit for bit
        from run to run and for any number of threads. A constant: gradients do not flow through this function.
    """
    check_tensors(gradient=gradient, activation=activation)
    unit_dim = check_unit_dim(gradient, unit_dim)
    check_shape(
        "activation", activation, f"{tuple(gradient.shape)}, the gradient's", activation.shape == gradient.shape
    )
    if not isinstance(per_sample, bool):
        raise TypeError(f"per_sample must be a bool, nothing else, got {type(per_sample).__name__}")
    return torch.ops.zsu_fast.neuron_relevance(gradient, activation, unit_dim, per_sample)
