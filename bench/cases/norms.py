"""The norm gates against eager and compiled PyTorch, and against LayerNorm's ordinary backward."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.cases.lrp import DTYPES, SHAPES, compiled, operands, traffic
from bench.registry import Case, register
from zsu_fast.reference import norms as reference


def row_arguments(device: torch.device, dtype: torch.dtype, *, size: int) -> tuple[Any, ...]:
    (gradient,) = operands(device, dtype, (8 * 1024, size), False, 1)
    weight = torch.rand(size, device=device) + 0.5
    return gradient, weight, torch.rand(8 * 1024, device=device) + 0.5, 1


def eager_layer_norm(gradient: Tensor, weight: Tensor, rstd: Tensor, dims: int) -> Tensor:
    scaled = gradient * weight.to(gradient.dtype)
    return (scaled - scaled.mean(-1, keepdim=True)) * rstd[:, None].to(gradient.dtype)


def plain_backward(gradient: Tensor, weight: Tensor, rstd: Tensor, dims: int) -> Tensor:
    """LayerNorm's own input gradient, which has one reduction more."""
    shape, weight, rstd = [gradient.shape[1]], weight.to(gradient.dtype), rstd.to(gradient.dtype)[:, None]
    mean = torch.zeros_like(rstd)
    return torch.ops.aten.native_layer_norm_backward(
        gradient, gradient, shape, mean, rstd, weight, None, [True, False, False]
    )[0]


def eager_rms_norm(gradient: Tensor, weight: Tensor, rstd: Tensor, dims: int) -> Tensor:
    return gradient * weight.to(gradient.dtype) * rstd[:, None].to(gradient.dtype)


for _size in (192, 768):
    for _op, _peers in (
        ("layer_norm_gate", {"eager": eager_layer_norm, "plain backward": plain_backward}),
        ("rms_norm_gate", {"eager": eager_rms_norm}),
    ):
        _twin = getattr(reference, _op)
        register(
            Case(
                name=f"{_op}/8192x{_size}",
                make=partial(row_arguments, size=_size),
                run=getattr(torch.ops.zsu_fast, _op),
                reference=_twin,
                bytes=traffic(1),
                peers={**_peers, "compiled": lambda *args, _twin=_twin: compiled(_twin)(*args)},
                tolerance=16,
                peers_agree=False,  # eager rounds after every step; the plain backward is another function
                dtypes=DTYPES,
            )
        )


def unit_arguments(
    device: torch.device, dtype: torch.dtype, *, shape: tuple[int, ...], unit_dim: int, channels_last: bool
) -> tuple[Any, ...]:
    (gradient,) = operands(device, dtype, shape, channels_last, 1)
    return gradient, torch.rand(shape[unit_dim], device=device) + 0.5, unit_dim


def eager_batch_norm(gradient: Tensor, scale: Tensor, unit_dim: int) -> Tensor:
    shape = [-1 if d == unit_dim else 1 for d in range(gradient.dim())]
    return gradient * scale.view(shape).to(gradient.dtype)


for _label, _shape, _unit_dim, _channels_last in SHAPES:
    register(
        Case(
            name=f"batch_norm_gate/{_label}",
            make=partial(unit_arguments, shape=_shape, unit_dim=_unit_dim, channels_last=_channels_last),
            run=torch.ops.zsu_fast.batch_norm_gate,
            reference=reference.batch_norm_gate,
            bytes=traffic(1),
            peers={"eager": eager_batch_norm},
            tolerance=4,
            dtypes=DTYPES,
        )
    )
