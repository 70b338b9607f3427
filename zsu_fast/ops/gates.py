"""Activations under the identity rule: the modified gradient times act(x) / x."""

import torch
from torch import Tensor

from ..reference import gates as reference
from ..reference.layout import empty_dense
from .check import check_shape, check_tensors
from .constant import define_constant

ACTIVATIONS = reference.ACTIVATIONS

define_constant(
    "activation_gate(Tensor gradient, Tensor input, int activation) -> Tensor",
    reference.activation_gate,
    lambda gradient, input, activation: empty_dense(gradient),
)


def activation_gate(gradient: Tensor, input: Tensor, activation: str) -> Tensor:
    """gradient * act(input) / input, elementwise, with the limit of act(x) / x at x = 0 (AttnLRP, section 3.3).

    Finite for finite arguments, in every dtype: the gate is evaluated without the division.

    Args:
        gradient: c = R / act(x), any shape.
        input: x, the activation's input, of the shape, dtype and device of `gradient`.
        activation: "relu", "gelu" (erf), "gelu_tanh", "silu", "relu6", "hardswish", "tanh" or "identity".

    Returns:
        c at the activation's input, like `gradient`. A constant: gradients do not flow through this function.
    """
    if not isinstance(activation, str):
        raise TypeError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {type(activation).__name__}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be one of {', '.join(ACTIVATIONS)}, got {activation!r}")
    check_tensors(gradient=gradient, input=input)
    check_shape("input", input, f"{tuple(gradient.shape)}, the gradient's", input.shape == gradient.shape)
    return torch.ops.zsu_fast.activation_gate(gradient, input, ACTIVATIONS[activation])
