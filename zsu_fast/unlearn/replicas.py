"""Replicas of one model in several processes (DDP), or its parts (FSDP2), must get the same edit, or none."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from zsu_fast.evaluate.images import ImageStream
from zsu_fast.model.shards import group_of_parts
from zsu_fast.model.tensors import tensor_digest
from zsu_fast.model.wrapped import with_wrappers
from zsu_fast.unlearn.group import ALONE, Group, Processes

_Result = TypeVar("_Result")


def processes_of(model: object, group: object) -> Group:
    """Those of `group`; without one, those that hold the replicas of a DDP model, or the parts of an FSDP2 model.

    Raises:
        TypeError, ValueError: what is no group, or one without this process.
    """
    if isinstance(group, Group):
        return group
    if group is None:
        own = _own_group(model)
        return Processes(own) if own is not None and dist.get_world_size(own) > 1 else ALONE
    if not dist.is_available() or not isinstance(group, dist.ProcessGroup):
        if group == dist.GroupMember.NON_GROUP_MEMBER:
            raise ValueError("group: this process is not in it")
        raise TypeError(f"group: expected a torch.distributed.ProcessGroup, got {type(group).__name__}")
    return Processes(group)


def check_replicas(replicas: Group, given: dict[str, Any]) -> None:
    """ValueError in all processes, before any work, if they were not given the same: their replicas would diverge."""
    for name, value in given.items() if replicas is not ALONE else ():
        if not replicas.same(digest_of(value)):
            raise ValueError(
                f"{name}: not the same in all processes of this model, which would diverge; for one decision on what "
                "replicas (DDP) bring, give group=torch.distributed.group.WORLD"
            )


def agreed(group: Group, work: Callable[[], _Result], decision: Callable[[_Result], object]) -> _Result:
    """`work()`, if all processes come to the same decision; else ValueError in all of them."""
    result = work()
    if not group.same(decision(result)):
        raise ValueError("model: the processes do not come to the same edit; none was made")
    return result


def digest_of(value: Any) -> str:
    """Of what can be told apart in every process: of other objects only the type counts."""
    if isinstance(value, Tensor):
        return tensor_digest(value)
    if isinstance(value, ImageStream) and not value.once:
        return value.digest()
    if isinstance(value, (str, int, float, type(None))):
        return repr(value)
    parts: list[Any] = []
    if isinstance(value, (tuple, list)):
        parts = list(value)
    elif isinstance(value, dict):
        parts = sorted(value.items(), key=lambda item: repr(item[0]))
    elif is_dataclass(value) and not isinstance(value, (type, nn.Module)):
        parts = [getattr(value, f.name) for f in fields(value)]
    digest = hashlib.sha256(type(value).__name__.encode())
    for part in parts:
        digest.update(digest_of(part).encode() + b"\0")
    return digest.hexdigest()


def _own_group(model: object) -> dist.ProcessGroup | None:
    """The processes that a model is in."""
    held = with_wrappers(model) if isinstance(model, nn.Module) else []
    for wrapper in held:
        if isinstance(wrapper, DistributedDataParallel):
            return wrapper.process_group
    return group_of_parts(held[-1]) if held else None
