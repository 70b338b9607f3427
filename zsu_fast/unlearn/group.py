"""Processes that come to one decision: what they exchange, and how an error of one reaches all.

Every exchange begins with a word on how things stand, which has the same shape whatever follows. A process that raises
says so in the place of its next exchange, where all others are or will be: nobody waits for who has gone.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from zsu_fast.unlearn.signals import interrupts_wait

_Value = TypeVar("_Value")
_TOLD = 4096
"""Bytes of a message to the other processes."""
_KINDS: dict[str, type[BaseException]] = {
    kind.__name__: kind for kind in (ValueError, TypeError, OSError, MemoryError, KeyboardInterrupt)
}

_GONE = "zsu_fast: a process is gone"
"""What stands in the store of a group once one of its processes has found another one's connection closed."""
_LOOK = timedelta(seconds=1)


class Group:
    """One process that decides alone; the interface of several, all of which call every method, in one order."""

    rank, size = 0, 1

    def sum(self, values: Tensor) -> Tensor:
        """int64 of any shape, added up: the same in any order."""
        return values

    def largest(self, values: Tensor) -> Tensor:
        """int64 of any shape, the largest of each element."""
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """[n, ...] of each process -> all of them in the order of the processes; n may differ, or be 0."""
        return rows

    def first(self, value: _Value, of: int = 0) -> _Value:
        """What process `of` has, for all."""
        return value

    def same(self, value: object) -> bool:
        """Whether all processes have one value (one `repr`)."""
        return True


ALONE = Group()


class Processes(Group):
    """The processes of a torch.distributed group, for one call that all of them make.

    Raises:
        ValueError: this process is not in the group.
    """

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise ValueError("group: this process is not in it")
        self._group = group
        self._store = dist.distributed_c10d._get_process_group_store(group)
        # NCCL and its like know no tensors of the host.
        on_host = "gloo" in str(dist.get_backend(group)) or "mpi" in str(dist.get_backend(group))
        self._device = torch.device("cpu") if on_host else torch.device("cuda", torch.cuda.current_device())
        self.over = False
        """Whether the others have left: an error was told or heard, or the connection broke."""

    def sum(self, values: Tensor) -> Tensor:
        return self._reduced(1, values, dist.ReduceOp.SUM)

    def largest(self, values: Tensor) -> Tensor:
        return self._reduced(2, values, dist.ReduceOp.MAX)

    def gather(self, rows: Tensor) -> Tensor:
        with self._exchange(3):
            counts = torch.zeros(self.size, dtype=torch.int64, device=self._device)
            counts[self.rank] = len(rows)
            self._wait(dist.all_reduce(counts, group=self._group, async_op=True))
            most = int(counts.max())
            if not most:
                return rows
            # As bytes: not every backend knows every dtype.
            own = rows.new_zeros((most, *rows.shape[1:]))
            own[: len(rows)] = rows
            sent = own.to(self._device).contiguous().flatten().view(torch.uint8)
            found = [torch.empty_like(sent) for _ in range(self.size)]
            self._wait(dist.all_gather(found, sent, group=self._group, async_op=True))
        parts = [
            part.view(rows.dtype).view(most, *rows.shape[1:])[:n]
            for part, n in zip(found, counts.tolist(), strict=True)
        ]
        return torch.cat(parts).to(rows.device)

    def first(self, value: _Value, of: int = 0) -> _Value:
        with self._exchange(4):
            own = bytearray(pickle.dumps(value)) if self.rank == of else bytearray()
            length = torch.tensor([len(own)], device=self._device)
            self._wait(dist.broadcast(length, group=self._group, group_src=of, async_op=True))
            sent = torch.zeros(int(length), dtype=torch.uint8)
            if own:
                sent.copy_(torch.frombuffer(own, dtype=torch.uint8))
            sent = sent.to(self._device)
            self._wait(dist.broadcast(sent, group=self._group, group_src=of, async_op=True))
        return value if own else pickle.loads(sent.cpu().numpy().tobytes())

    def same(self, value: object) -> bool:
        digest = hashlib.sha256(repr(value).encode()).digest()
        words = torch.tensor([int.from_bytes(digest[i : i + 4], "big") for i in range(0, 32, 4)])
        both = self.largest(torch.cat([words, -words]))
        return bool((both[:8] == -both[8:]).all())

    def meet(self) -> None:
        """Wait until all are here; raises in all what one has told."""
        with self._exchange(0):
            pass

    def tell(self, error: BaseException) -> None:
        """Say to all others, wherever they are, that this process gives up."""
        with interrupts_wait():
            self.over = True
            first, _, _ = self._stand(self.size - self.rank, 0)
            self._message(self.size - first, error)

    @contextmanager
    def _exchange(self, step: int) -> Iterator[None]:
        """Inside, all processes are at this step and none has failed. Ctrl-C waits: half an exchange is none."""
        with interrupts_wait():
            try:
                self._meet(step)
                yield
            except BaseException:
                self.over = True  # told, or the connection broke: there is nobody to tell anything
                raise

    def _meet(self, step: int) -> None:
        first, high, low = self._stand(0, step)
        if first:
            rank = self.size - first
            kind, text = self._message(rank, None)
            raise _KINDS.get(kind, RuntimeError)(f"rank {rank} of {self.size}: {text}")
        if high != -low:
            raise RuntimeError("group: the processes do not do the same; is it called with the same arguments in all?")

    def _stand(self, failed: int, step: int) -> list[int]:
        """How all stand: the first process that has failed, counted from the end (0: none); the steps they are at."""
        word = torch.tensor([failed, step, -step], device=self._device)
        self._wait(dist.all_reduce(word, dist.ReduceOp.MAX, self._group, async_op=True))
        return word.tolist()

    def _message(self, rank: int, own: BaseException | None) -> tuple[str, str]:
        """Kind and text of the error of `rank`."""
        sent = torch.zeros(_TOLD, dtype=torch.uint8)
        if rank == self.rank and own is not None:
            kind = next((k for k, of in _KINDS.items() if isinstance(own, of)), "")
            text = str(own) if kind in ("ValueError", "TypeError") else f"{type(own).__name__}: {own}".rstrip(": ")
            told = json.dumps([kind, text[: _TOLD // 8]]).encode()  # a letter may be written as six bytes
            sent[: len(told)] = torch.frombuffer(bytearray(told), dtype=torch.uint8)
        sent = sent.to(self._device)
        self._wait(dist.broadcast(sent, group=self._group, group_src=rank, async_op=True))
        kind, text = json.loads(bytes(sent.tolist()).rstrip(b"\0"))
        return kind, text

    def _reduced(self, step: int, values: Tensor, how: dist.ReduceOp.RedOpType) -> Tensor:
        with self._exchange(step):
            # A copy: what the caller has stays as it is.
            found = values.to(self._device, torch.int64, copy=True).contiguous()
            self._wait(dist.all_reduce(found, how, self._group, async_op=True))
        return found.to(values.device)

    def _wait(self, work: Any) -> None:
        """Until a collective has come to its end. Of a process that is gone gloo tells its neighbours alone, at once;
        they put a word into the store of the group, so that the others need not wait for the time-out."""
        if self._device.type != "cpu":
            work.wait()
            return
        try:
            while not work.is_completed():
                with suppress(RuntimeError):  # after a second, or what follows raises again
                    work.wait(_LOOK)
                if not work.is_completed() and self._store.check([_GONE]):
                    raise RuntimeError("another process has found a connection closed")
            work.wait()
        except RuntimeError as error:  # the store is not there, either, where the process that held it is gone
            with suppress(RuntimeError):
                self._store.set(_GONE, "")
            said = str(error).partition("\n")[0]  # a time-out reads otherwise than a closed connection
            raise RuntimeError(f"group: one of its processes has ended, or cannot be reached ({said})") from error


def together(group: Group, work: Callable[[], _Value]) -> _Value:
    """`work()` in all processes of the group; if it raises in one, something is raised in all of them.

    The others raise the same kind of error, with its message, at their next exchange. Ends when all have come to the
    end.
    """
    if not isinstance(group, Processes):
        return work()
    done = []
    try:
        result = work()
        with interrupts_wait():
            group.meet()
            done.append(True)
        return result
    except BaseException as error:
        if not done and not group.over:
            with suppress(Exception):  # the connection is broken: the others see that themselves
                group.tell(error)
        raise
