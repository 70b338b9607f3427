"""Normalisation layers in modified-gradient form: LayerNorm and RMSNorm with 1/sigma held constant, eval BatchNorm."""

import torch
from torch import Tensor

from ..reference import norms as reference
from ..reference.layout import empty_dense
from .check import check_shape, check_tensors, check_unit_dim, check_vector
from .constant import define_constant

define_constant(
    "layer_norm_gate(Tensor gradient, Tensor? weight, Tensor rstd, int normalized_dims) -> Tensor",
    reference.layer_norm_gate,
    lambda gradient, weight, rstd, normalized_dims: torch.empty_like(gradient.contiguous()),
)
define_constant(
    "rms_norm_gate(Tensor gradient, Tensor? weight, Tensor rstd, int normalized_dims) -> Tensor",
    reference.rms_norm_gate,
    lambda gradient, weight, rstd, normalized_dims: torch.empty_like(gradient.contiguous()),
)
define_constant(
    "batch_norm_gate(Tensor gradient, Tensor scale, int unit_dim) -> Tensor",
    reference.batch_norm_gate,
    lambda gradient, scale, unit_dim: empty_dense(gradient),
)


def layer_norm_gate(gradient: Tensor, weight: Tensor | None, rstd: Tensor, normalized_dims: int = 1) -> Tensor:
    """(g - mean(g)) * rstd with g = gradient * weight: LayerNorm's backward with 1/sigma constant (AttnLRP, Prop. 3.4).

    Args:
        gradient: c at the layer's output, [*, *normalized].
        weight: [*normalized] or None.
        rstd: 1/sigma of the forward pass, one per normalised slice: [*] (or with trailing ones).
        normalized_dims: How many trailing dimensions are normalised together.

    `weight` and `rstd` may be in the gradient's dtype or wider (float32 beside float16 and bfloat16).

    Returns:
        c at the layer's input, contiguous. A constant: gradients do not flow through this function.
    """
    _check_norm(gradient, weight, rstd, normalized_dims)
    return torch.ops.zsu_fast.layer_norm_gate(gradient, weight, rstd, normalized_dims)


def rms_norm_gate(gradient: Tensor, weight: Tensor | None, rstd: Tensor, normalized_dims: int = 1) -> Tensor:
    """gradient * weight * rstd: RMSNorm's backward with its 1/rms constant. Arguments as for `layer_norm_gate`."""
    _check_norm(gradient, weight, rstd, normalized_dims)
    return torch.ops.zsu_fast.rms_norm_gate(gradient, weight, rstd, normalized_dims)


def batch_norm_gate(gradient: Tensor, scale: Tensor, unit_dim: int = 1) -> Tensor:
    """gradient * scale, per unit: the backward of a BatchNorm in eval mode, scale = weight / sqrt(running_var + eps).

    Args:
        gradient: c at the layer's output, units along `unit_dim` (1 for channels-first, -1 for tokens).
        scale: [units], in the gradient's dtype or wider.

    Returns:
        c at the layer's input, like `gradient`. A constant: gradients do not flow through this function.
    """
    check_tensors(gradient=gradient)
    unit_dim = check_unit_dim(gradient, unit_dim)
    check_vector("scale", scale, gradient)
    check_shape(
        "scale", scale, f"({gradient.shape[unit_dim]},)", scale.shape == gradient.shape[unit_dim : unit_dim + 1]
    )
    return torch.ops.zsu_fast.batch_norm_gate(gradient, scale, unit_dim)


def _check_norm(gradient: Tensor, weight: Tensor | None, rstd: Tensor, normalized_dims: int) -> None:
    check_tensors(gradient=gradient)
    if isinstance(normalized_dims, bool) or not isinstance(normalized_dims, int):
        raise TypeError(f"normalized_dims must be an int, got {type(normalized_dims).__name__}")
    if not 1 <= normalized_dims <= gradient.dim():
        raise ValueError(f"normalized_dims must be 1 to {gradient.dim()}, gradient.dim(), got {normalized_dims}")
    kept, normalized = gradient.shape[:-normalized_dims], gradient.shape[-normalized_dims:]
    if weight is not None:
        check_vector("weight", weight, gradient)
        check_shape("weight", weight, str(tuple(normalized)), weight.shape == normalized)
    check_vector("rstd", rstd, gradient)
    check_shape("rstd", rstd, str(tuple(kept)), rstd.shape in (kept, kept + (1,) * normalized_dims))
