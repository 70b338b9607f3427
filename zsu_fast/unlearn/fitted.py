"""`batch_size="auto"` made a number before anything is run: one for the whole call, which the record then holds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.batch_size import customary, fitting, give_back
from zsu_fast.model.forward_errors import is_out_of_memory
from zsu_fast.model.shards import sharded_part
from zsu_fast.unlearn.group import Group
from zsu_fast.unlearn.methods import Method
from zsu_fast.unlearn.structure import Structure

_Result = TypeVar("_Result")


@dataclass
class Room:
    """For how many images at once there may be memory. size: what was found, where that was left to us."""

    most: int | None = None
    size: int | None = None

    def halved(self) -> bool:
        """Whether there is a smaller size to try."""
        self.most = None if self.size is None else self.size // 2
        return bool(self.most)


def fitted(
    method: Method, model: nn.Module, structure: Structure, view: nn.Module, few: Tensor, room: Room, processes: Group
) -> Method:
    """The method with a number for its `batch_size`: what there is memory for here, and in all of the processes.

    few: one image, or two where the view takes no single one. Of a model in parts nothing is measured.
    """
    if method.asked.batch_size != "auto":
        return method
    size = customary(few.device) if room.most is None else room.most
    if sharded_part(model) is None:
        size = fitting(view, few, size)
        if few.is_floating_point() and (heavier := method.heavier_pass(model, structure, view)) is not None:
            run, smaller = heavier
            size = min(size, smaller * fitting(run, few, max(1, size // smaller)))
    room.size = -int(processes.largest(torch.tensor(-size)))
    return type(method)(replace(method.asked, batch_size=room.size))


def with_room(work: Callable[[Room], _Result], repeatable: bool, device: torch.device) -> _Result:
    """`work(room)`; where memory runs out, anew with batches half as large, if their size was left to us.

    From the beginning, so that all is computed at one size: a later call with that size has the same bits. work: must
    leave nothing behind when it raises.
    """
    room = Room()
    while True:
        try:
            return work(room)
        except Exception as error:
            if not (repeatable and is_out_of_memory(error) and room.halved()):
                raise
        give_back(device)  # here, where nothing holds the error any more, nor it what was made
