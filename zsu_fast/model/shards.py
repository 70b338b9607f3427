"""Tensors of which each process holds a part: DTensors of FSDP2 (`fully_shard`) and of tensor parallelism."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

from torch import nn

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Whether it is a DTensor. Where nothing has imported them, which takes long, there are none."""
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_gathered(module: nn.Module) -> TypeGuard[FSDPModule]:
    """Whether `fully_shard` was called on it: it then has whole parameters while it runs."""
    package: Any = sys.modules.get("torch.distributed.fsdp")
    return package is not None and isinstance(module, package.FSDPModule)


def sharded_part(model: nn.Module) -> str | None:
    """What says that each process holds a part of the model: in words, with the name; None if nothing does."""
    for name, module in model.named_modules():
        if is_gathered(module):
            return f"{f'module {name!r}' if name else 'it'} is sharded (fully_shard)"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_sharded(tensor):
            return f"{name} is a DTensor (tensor parallel)"
    return None


def offset_of(size: int, parts: int, part: int) -> int:
    """Where part number `part` of a dimension of `size` begins, split as `torch.chunk` does, and DTensors are."""
    return min(part * -(-size // parts), size)
