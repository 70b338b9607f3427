"""Relevance per neuron against eager and compiled PyTorch."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.cases.lrp import DTYPES, SHAPES, compiled, operands, traffic
from bench.registry import Case, register
from zsu_fast.reference import neurons as reference


def arguments(
    device: torch.device, dtype: torch.dtype, *, shape: tuple[int, ...], unit_dim: int, channels_last: bool
) -> tuple[Any, ...]:
    gradient, activation = operands(device, dtype, shape, channels_last, 2)
    return gradient, activation.abs(), unit_dim, True


def eager(gradient: Tensor, activation: Tensor, unit_dim: int, per_sample: bool) -> Tensor:
    rest = [d for d in range(1, gradient.dim()) if d != unit_dim]
    return (gradient * activation).sum(rest, dtype=torch.float32)


for _label, _shape, _unit_dim, _channels_last in SHAPES:
    register(
        Case(
            name=f"neuron_relevance/{_label}",
            make=partial(arguments, shape=_shape, unit_dim=_unit_dim, channels_last=_channels_last),
            run=torch.ops.zsu_fast.neuron_relevance,
            reference=reference.neuron_relevance,
            bytes=traffic(0),
            peers={"eager": eager, "compiled": lambda *args: compiled(reference.neuron_relevance)(*args)},
            tolerance=64,
            peers_agree=False,  # eager rounds every product to the dtype
            dtypes=DTYPES,
        )
    )
