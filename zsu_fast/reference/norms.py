"""Normalisation layers in modified-gradient form.

LayerNorm and RMSNorm: the backward with 1/sigma held constant (Ali et al. 2022; AttnLRP Prop. 3.4), under which the
layer is linear. BatchNorm in eval mode is linear already.
"""

import math

from torch import Tensor

from .layout import narrow, per_unit, widen


def _scaled(gradient: Tensor, weight: Tensor | None, rstd: Tensor, normalized_dims: int) -> tuple[Tensor, Tensor]:
    """(gradient * weight, rstd broadcast over the normalised dimensions), both widened."""
    scaled = widen(gradient)
    if weight is not None:
        scaled = scaled * widen(weight)
    kept = gradient.shape[: gradient.dim() - normalized_dims]
    return scaled, widen(rstd).reshape(*kept, *[1] * normalized_dims)


def layer_norm_gate(gradient: Tensor, weight: Tensor | None, rstd: Tensor, normalized_dims: int) -> Tensor:
    """(g - mean(g)) * rstd over the last `normalized_dims` dimensions, g = gradient * weight. Contiguous."""
    scaled, rstd = _scaled(gradient, weight, rstd, normalized_dims)
    dims = list(range(-normalized_dims, 0))
    size = math.prod(gradient.shape[-normalized_dims:])
    mean = scaled.sum(dims, keepdim=True) / max(size, 1)
    return narrow((scaled - mean) * rstd, gradient.contiguous())


def rms_norm_gate(gradient: Tensor, weight: Tensor | None, rstd: Tensor, normalized_dims: int) -> Tensor:
    """gradient * weight * rstd over the last `normalized_dims` dimensions. Contiguous."""
    scaled, rstd = _scaled(gradient, weight, rstd, normalized_dims)
    return narrow(scaled * rstd, gradient.contiguous())


def batch_norm_gate(gradient: Tensor, scale: Tensor, unit_dim: int) -> Tensor:
    """gradient * scale, `scale` [units] along `unit_dim`. Like `gradient`."""
    return narrow(widen(gradient) * per_unit(scale, unit_dim, gradient), gradient)
