"""Tensors of which each process holds a part: DTensors of FSDP2 (`fully_shard`) and of tensor parallelism."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.tensor import DTensor


def is_sharded(tensor: object) -> TypeGuard[DTensor]:
    """Whether it is a DTensor. Where nothing has imported them, which takes long, there are none; nor in a graph."""
    if torch.compiler.is_compiling():
        return False
    module: Any = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def is_gathered(module: nn.Module) -> bool:
    """Whether `fully_shard` was called on it: it then has whole parameters while it runs."""
    package: Any = sys.modules.get("torch.distributed.fsdp")
    return package is not None and isinstance(module, package.FSDPModule)


def written_class(module: nn.Module) -> type[nn.Module]:
    """The class of a module as it is written: `fully_shard` puts a class of its own before it."""
    kind: Any = type(module)
    return kind.__bases__[-1] if is_gathered(module) else kind


def sharded_part(model: nn.Module) -> str | None:
    """What says that each process holds a part of the model: in words, with the name; None if nothing does."""
    for name, module in model.named_modules():
        if is_gathered(module):
            return f"{f'module {name!r}' if name else 'it'} is sharded (fully_shard)"
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if is_sharded(tensor):
            return f"{name} is a DTensor (tensor parallel)"
    return None


def group_of_parts(model: nn.Module) -> ProcessGroup | None:
    """The processes that hold an FSDP2 model, root and all, in slices of dimension 0 or another; None for any other.

    On a mesh of several dimensions (HSDP: slices, of which several processes hold each) these must be all there are.
    """
    held = [*model.parameters()] if is_gathered(model) else []
    parts = [tensor for tensor in held if is_sharded(tensor)]
    meshes = {tensor.device_mesh for tensor in parts}
    if len(parts) != len(held) or len(meshes) != 1:
        return None
    import torch.distributed as dist
    from torch.distributed.tensor import Replicate, Shard

    (mesh,) = meshes
    if not all(type(placement) in (Replicate, Shard) for tensor in parts for placement in tensor.placements):
        return None
    if mesh.ndim == 1:
        return mesh.get_group()
    return dist.group.WORLD if mesh.size() == dist.get_world_size() else None


def offset_of(size: int, parts: int, part: int) -> int:
    """Where part number `part` of a dimension of `size` begins, split as `torch.chunk` does, and DTensors are."""
    return min(part * -(-size // parts), size)


def place_of(tensor: DTensor, dim: int) -> tuple[int, int]:
    """(first, one past the last) of this process's part of dimension `dim`. ValueError for parts that are no slices."""
    from torch.distributed.tensor import Replicate, Shard

    mesh, at, first, size = tensor.device_mesh, tensor.device_mesh.get_coordinate(), 0, tensor.shape[dim]
    for k, placement in enumerate(tensor.placements):
        if type(placement) not in (Replicate, Shard) or at is None:
            raise ValueError(f"a DTensor placed as {placement} cannot be written to, only Shard and Replicate can")
        if isinstance(placement, Shard) and placement.dim == dim:
            start, end = (offset_of(size, mesh.size(k), at[k] + more) for more in (0, 1))
            first, size = first + start, end - start
    return first, first + size


def local_part(tensor: DTensor) -> Tensor:
    """What this process holds, the very memory, detached. FSDP2 has to have freed the whole, see `reshard`."""
    detached: Any = tensor.detach()
    local: Tensor = detached.to_local()
    return local


def whole_of(tensor: DTensor) -> Tensor:
    """All of it, as a copy in each process, detached. All processes must ask."""
    detached: Any = tensor.detach()
    whole: Tensor = detached.full_tensor()
    return whole.clone()  # also where one process holds all


def scatter_(tensor: DTensor, whole: Tensor) -> None:
    """Write to the shards what stands in `whole`, of the shape of all of it. Each process does its own part."""
    part = whole.detach()
    for dim in range(whole.dim()):
        first, end = place_of(tensor, dim)
        part = part.narrow(dim, first, end - first)
    local_part(tensor).copy_(part)


def reshard(model: nn.Module) -> None:
    """Free the whole parameters that FSDP2 has kept in modules after they ran: what is written to those is lost."""
    module: Any
    for module in model.modules():
        if is_gathered(module):
            module.reshard()
