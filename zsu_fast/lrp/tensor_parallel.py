"""Functions of DTensors, which tensor parallelism makes of a module's inputs and weights.

A linear layer runs on its shards. Split by output units (Colwise) each process has the relevance of its own units, and
what they send to the input is summed. Split by inputs (Rowwise) the outputs are sums over processes, and so is every
denominator: relevance is shared out by the whole of z, not by a process's part of it. All other functions of DTensors
run on the whole tensors, in each process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from zsu_fast.model.shards import is_sharded, offset_of
from zsu_fast.ops.lrp import LinearMap

from .collector import Unit
from .engine import HANDLERS, Engine
from .linear_handlers import layer

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def _run(engine: Engine, func: Callable, args: tuple, kwargs: dict[str, Any]) -> Any:
    """A function some of whose arguments are DTensors, under the rules."""
    from torch.distributed.tensor import DTensor, Replicate

    if engine.collector.ledger is not None:
        raise ValueError("conservation: no books are kept of models with DTensors (tensor parallelism)")
    if func is F.linear and (result := _on_shards(engine, *args, **kwargs)) is not None:
        return result
    meshes = []

    def whole(value: Any) -> Any:
        if is_sharded(value):
            meshes.append(value.device_mesh)
            everywhere = [Replicate()] * value.device_mesh.ndim
            if engine.depends(value):
                return value.redistribute(placements=everywhere).to_local()
            copy = value.full_tensor().detach()
            engine.names.note_copy(copy, value)
            return copy
        if type(value) in (tuple, list):
            return type(value)(whole(v) for v in value)
        return {k: whole(v) for k, v in value.items()} if type(value) is dict else value

    def shared(value: Any) -> Any:
        if isinstance(value, Tensor):
            return DTensor.from_local(value, meshes[0], [Replicate()] * meshes[0].ndim, run_check=False)
        return type(value)(shared(v) for v in value) if type(value) in (tuple, list) else value

    args, kwargs = whole(tuple(args)), whole(kwargs)
    return shared(engine.call(func, *args, **kwargs))


HANDLERS[is_sharded] = _run


def _on_shards(engine: Engine, input: Any, weight: Any, bias: Any = None) -> DTensor | None:
    """A linear layer without gathering its weight; None where that cannot be, or a rule looks at the inputs alone."""
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard

    if engine.carries or engine.follows_patterns or engine.depends(weight) or not engine.depends(input):
        return None
    if input.dim() < 2 or not is_sharded(input) or not is_sharded(weight) or weight.device_mesh.ndim != 1:
        return None
    mesh, (units, inputs), name = weight.device_mesh, weight.shape, engine.names.of(weight)
    if name is None or (bias is not None and not is_sharded(bias)):
        return None
    (split,) = weight.placements
    if split == Shard(0) and (bias is None or bias.placements == (Shard(0),)):
        if offset_of(units, mesh.size(), mesh.size() - 1) >= units:
            return None  # some process has no unit
        x = input.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
        w, b = weight.to_local().detach(), None if bias is None else bias.to_local().detach()
        unit = Unit(name, w.shape[0], offset_of(units, mesh.size(), mesh.get_local_rank()), units)
        engine.collector.spread[name] = mesh.get_group()
        local = layer(engine, F.linear, LinearMap(), x, w, b, unit=unit)
        shape = torch.Size((*local.shape[:-1], units))
        placements = [Shard(local.dim() - 1)]
        return DTensor.from_local(local, mesh, placements, run_check=False, shape=shape, stride=_strides(shape))
    if split == Shard(1) and (bias is None or bias.placements == (Replicate(),)):
        if offset_of(inputs, mesh.size(), mesh.size() - 1) >= inputs:
            return None
        x = input.redistribute(placements=[Shard(input.dim() - 1)]).to_local()
        w, b = weight.to_local().detach(), None if bias is None else bias.to_local().detach()
        map = Rowwise(group=mesh.get_group())
        local = layer(engine, map.forward, map, x, w, b, unit=Unit(name, units, 0, units))
        return DTensor.from_local(local, mesh, [Replicate()], run_check=False)
    return None


def _strides(shape: torch.Size) -> tuple[int, ...]:
    return torch.empty(shape, device="meta").stride()


@dataclass(frozen=True)
class Rowwise(LinearMap):
    """A linear map of which each process has some of the inputs: what it puts out is the sum over all of them."""

    group: dist.ProcessGroup | None = field(default=None, compare=False)

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        y = F.linear(x, weight)
        dist.all_reduce(y, group=self.group)
        return y if bias is None else y + bias
