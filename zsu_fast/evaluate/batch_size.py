"""`batch_size="auto"`: as many images as are customary, or as the memory has room for, as one or two of them tell."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor, UntypedStorage
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zsu_fast.evaluate.free_memory import free_memory
from zsu_fast.evaluate.given import check_int
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.model.forward_errors import is_out_of_memory

BatchSize = int | Literal["auto"]
SHARE = 0.5
"""Of the memory that is free is taken at most: what is measured is not all that is used, and others are there too."""
_Found = TypeVar("_Found")
_Part = TypeVar("_Part")


def check_batch_size(batch_size: object) -> None:
    """TypeError or ValueError for what is neither "auto" nor an integer above 0."""
    if not (isinstance(batch_size, str) and batch_size == "auto"):
        check_int("batch_size", batch_size, 1)


def customary(device: torch.device) -> int:
    """Images in a batch where memory is no question: on a CPU larger batches cost memory and gain nothing."""
    return 16 if device.type == "cpu" else 64


def fitting(run: Callable[[Tensor], object], images: Tensor, most: int) -> int:
    """How many images `run` can be given at once: `most`, or the largest power of two that fits, 1 at least.

    images: one, or two: the second is for what takes no single one; with none nothing is measured. It is run on one (or
    two), and on twice as many where there is doubt: what further images take is the difference. On CUDA this is the
    peak of torch's allocator (whose statistics are reset), elsewhere the bytes of all results of torch's operations
    that are alive at once.
    """
    free = free_memory(images.device)
    if free is None or most <= 1 or not len(images):
        return most
    room, count = SHARE * free, 1

    def taken(batch: Tensor) -> int:
        return peak_memory(run, batch) + batch.nbytes

    with torch.random.fork_rng([images.device] if images.is_cuda else []), compiled_parts_as_written():
        try:
            alone = taken(images[:1])
        except Exception as error:
            if len(images) == 1 or is_out_of_memory(error):
                raise
            count = 2
            alone = taken(images[:2])
        if alone * most <= room * count:
            return most
        try:
            each = max(1, taken(torch.cat([images[:count]] * 2)) - alone) / count
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return 1
    fits = int(max(1, (room - alone) // each + count))
    return most if fits >= most else 1 << (fits.bit_length() - 1)


def peak_memory(run: Callable[[_Part], object], images: _Part) -> int:
    """Bytes that `run(images)` holds at most, above what is held before."""
    if isinstance(images, Tensor) and images.is_cuda:
        device = images.device
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run(images)
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with _Alive() as alive:
        run(images)
    return alive.peak


def halving(run: Callable[[Tensor], _Found], batches: Iterator[Tensor] | Sequence[Tensor]) -> Iterator[_Found]:
    """`run` of each batch; where memory runs out, of this one and all that follow in parts half as large, and so on.

    The error is raised where a single image is too much.
    """
    most: int | None = None
    for batch in batches:
        waiting = [batch] if most is None else list(batch.split(most))
        while waiting:
            found = None
            try:
                found = [run(waiting[0])]
            except Exception as error:
                if not is_out_of_memory(error) or len(waiting[0]) == 1:
                    raise
            if found is None:  # outside of the handler: the error holds what the run has made
                most = -(-len(waiting[0]) // 2)
                waiting = list(torch.cat(waiting).split(most)) if len(waiting) > 1 else list(waiting[0].split(most))
                give_back(batch.device)
                continue
            waiting.pop(0)
            yield found.pop()


def give_back(device: torch.device) -> None:
    """After memory ran out: what only reference cycles hold is freed, what the allocator holds unused is returned."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


class _Held(weakref.ref[UntypedStorage]):
    """A storage that may be freed, by which key it is known, and how many bytes it counts."""

    __slots__ = ("count", "key")
    key: int
    count: int


class _Alive(TorchDispatchMode):
    """Counts the bytes of what operations make, as long as it lives; what they are given was there before."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.peak = 0
        self._seen: dict[int, _Held] = {}
        # What is freed is put here by a function of C: Python swallows a Ctrl-C that arrives in a callback of its own.
        self._freed: list[weakref.ref[UntypedStorage]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler at the first operation, for seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self._note((args, kwargs), False)
        found = func(*args, **kwargs)
        self._note(found, True)
        return found

    def _note(self, values: object, made: bool) -> None:
        while self._freed:
            freed = cast(_Held, self._freed.pop())
            del self._seen[freed.key]
            self.held -= freed.count
        for value in tree_leaves(values):
            if type(value) not in (Tensor, torch.nn.Parameter) or value.layout != torch.strided or value.is_meta:
                continue
            storage = value.untyped_storage()
            if id(storage) in self._seen:
                continue
            held = _Held(storage, self._freed.append)
            held.key, held.count = id(storage), storage.nbytes() if made else 0
            self._seen[held.key] = held
            self.held += held.count
            self.peak = max(self.peak, self.held)
