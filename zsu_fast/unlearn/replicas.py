"""Replicas of one model in several processes (DDP) must get the same edit, or none."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

_Result = TypeVar("_Result")


def agreed(model: nn.Module, work: Callable[[], _Result], decision: Callable[[_Result], object]) -> _Result:
    """`work()`; for a DDP model in several processes, only if all of them come to the same decision.

    Every process must call it. ValueError in all of them if one failed or decided otherwise (each on its own images,
    say): they would go on with different weights.
    """
    if not isinstance(model, DistributedDataParallel) or dist.get_world_size(model.process_group) == 1:
        return work()
    error: BaseException | None = None
    found: list[object] = [None] * dist.get_world_size(model.process_group)
    try:
        result = work()
        own: object = ("done", decision(result))
    except Exception as raised:
        error, own = raised, ("failed", f"{type(raised).__name__}: {raised}")
    dist.all_gather_object(found, own, group=model.process_group)
    if error is not None:
        raise error
    others = [other for other in found if other != own]
    if others:
        raise ValueError(
            "probes: the processes of this DDP model do not come to the same edit; give each the same probes, or "
            f"forget in one process and broadcast; another process: {str(others[0])[:200]}"
        )
    return result
