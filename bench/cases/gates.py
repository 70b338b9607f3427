"""The activation gates against the quotient as one writes it, and against the compiled reference."""

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.cases.lrp import DTYPES, compiled, operands, traffic
from bench.registry import Case, register
from zsu_fast.reference import gates as reference


def arguments(device: torch.device, dtype: torch.dtype, *, activation: int) -> tuple[Any, ...]:
    gradient, x = operands(device, dtype, (8, 197, 3072), False, 2)
    return gradient, x, activation


def eager(gradient: Tensor, x: Tensor, activation: int) -> Tensor:
    """act(x) / x, kept from dividing by zero as other libraries keep it."""
    activations: dict[int, Any] = {1: F.relu, 2: F.gelu, 4: F.silu}
    return gradient * (activations[activation](x) / (x + 1e-10))


for _name in ("relu", "gelu", "silu"):
    register(
        Case(
            name=f"activation_gate/{_name} 8x197x3072",
            make=partial(arguments, activation=reference.ACTIVATIONS[_name]),
            run=torch.ops.zsu_fast.activation_gate,
            reference=reference.activation_gate,
            bytes=traffic(1),
            peers={"eager": eager, "compiled": lambda *args: compiled(reference.activation_gate)(*args)},
            tolerance=16,
            peers_agree=False,  # the quotient is wrong at and next to x = 0
            dtypes=DTYPES,
        )
    )
