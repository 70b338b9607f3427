"""Replicas of one model in several processes (DDP), or its parts (FSDP2), must get the same edit, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from zsu_fast.model.shards import group_of_parts
from zsu_fast.model.wrapped import bare_model

_Result = TypeVar("_Result")


def agreed(model: nn.Module, work: Callable[[], _Result], decision: Callable[[_Result], object]) -> _Result:
    """`work()`; for a model in several processes, only if all of them come to the same decision.

    Every process must call it. ValueError in all of them if one failed or decided otherwise (each on its own images,
    say): they would go on with different weights.
    """
    group = _group_of(model)
    if group is None or dist.get_world_size(group) == 1:
        return work()
    error: BaseException | None = None
    found: list[object] = [None] * dist.get_world_size(group)
    try:
        result = work()
        own: object = ("done", decision(result))
    except Exception as raised:
        error, own = raised, ("failed", f"{type(raised).__name__}: {raised}")
    dist.all_gather_object(found, own, group=group)
    if error is not None:
        raise error
    others = [other for other in found if other != own]
    if others:
        raise ValueError(
            "probes: the processes of this model do not come to the same edit; give each the same probes, or "
            f"forget in one process and broadcast; another process: {str(others[0])[:200]}"
        )
    return result


def check_same(model: nn.Module, given: Callable[[], object]) -> None:
    """ValueError in all processes that hold an FSDP2 model if `given()` is not the same in them: each runs all layers,
    and they would wait for each other in vain."""
    group = group_of_parts(bare_model(model))
    if group is None:
        return
    found: list[object] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, given(), group=group)
    if any(other != found[0] for other in found):
        raise ValueError("probes: expected the same in all processes that hold parts of the model, got others")


def _group_of(model: nn.Module) -> dist.ProcessGroup | None:
    return model.process_group if isinstance(model, DistributedDataParallel) else group_of_parts(bare_model(model))
