"""What a graph of `torch.export` calls, as one writes it: ATen's operators as torch's functions of the same name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._ops import OpOverload

_SPACES = (torch, Tensor, torch._C._nn, F)


def as_written(func: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[Callable, Sequence[Any], dict]:
    """The call as one writes it in a forward; what torch has no such function for stays as it is."""
    if type(func) is not OpOverload or func.namespace != "aten":
        return func, args, kwargs
    name = func._schema.name.partition("::")[2]
    if name == "slice":
        return torch.Tensor.__getitem__, _slice(*args, **kwargs), {}
    if name in _NORMS:
        given = dict(zip([argument.name for argument in func._schema.arguments], args, strict=False)) | kwargs
        rest = {k: v for k, v in given.items() if k not in ("input", "cudnn_enabled", "cudnn_enable")}
        return _NORMS[name], (given["input"],), rest
    return _function(name) or func, args, kwargs


# Python's functions of these names take their arguments in another order.
_NORMS: dict[str, Callable] = {
    "batch_norm": F.batch_norm, "instance_norm": F.instance_norm, "group_norm": F.group_norm,
    "layer_norm": F.layer_norm, "rms_norm": F.rms_norm,
}  # fmt: skip


@lru_cache
def _function(name: str) -> Callable | None:
    return next((getattr(space, name) for space in _SPACES if hasattr(space, name)), None)


def _slice(x: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1) -> tuple:
    return x, (slice(None),) * (dim % x.dim()) + (slice(start, end, step),)
