"""Mixtures of experts: each token goes through a few layers of a stack, which a router chooses for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsu_fast.ops.lrp import LinearMap

from .engine import Engine, handles
from .linear_handlers import layer


@handles("_grouped_mm", *(["grouped_mm"] if hasattr(F, "grouped_mm") else []))
def _grouped_mm(
    engine: Engine, func: Callable, a: Tensor, b: Tensor, offs: Tensor | None = None, **keywords: Any
) -> Tensor:
    """Rows [rows, inputs], in groups that end at `offs`, by [groups, inputs, units]: a linear layer for each group.

    Where the groups end is read from the device.
    """
    if (
        engine.depends(b)
        or a.dim() != 2
        or b.dim() != 3
        or offs is None
        or any(v is not None for v in keywords.values())
    ):
        return NotImplemented
    ends = offs.tolist()
    sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
    rows = engine.marks[a].rows
    groups = engine.call(torch.split, a, [*sizes, len(a) - ends[-1]])
    results, start = [], 0
    for weight, group in zip(b.detach().mT, groups, strict=False):
        if len(group):
            if rows is not None:
                engine.marks[group] = engine.marks[group]._replace(rows=rows[start : start + len(group)])
            results.append(layer(engine, F.linear, LinearMap(), group, weight, None))
        start += len(group)
    if len(groups[-1]):  # rows of no group
        results.append(a.new_zeros(len(groups[-1]), b.shape[-1]))
    return engine.call(torch.cat, results)
