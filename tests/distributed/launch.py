"""Functions run on several ranks of one gloo group, each a process of this machine."""

from __future__ import annotations

import os
import pickle
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest
import torch
import torch.distributed as dist

IMPORTED = ["pytest", "sklearn", "torch._dynamo", "torch.distributed.fsdp", "torch.distributed.tensor", "zsu_fast"]
needs_gloo = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="no gloo")


class RankError(AssertionError):
    """What was raised, by rank; "no answer" of a rank that did not come back in time. answers: of the other ranks."""

    def __init__(self, text: str, answers: dict[int, Any]) -> None:
        super().__init__(text)
        self.answers = answers


class Ranks:
    """`world` processes with one process group, kept for many calls, since it is their start that takes long.

        with Ranks(2) as ranks:
            found = ranks.run(function, *arguments)  # what function(*arguments) returned on each rank, in their order

    `function` is one of a module's own, and is given what can be pickled; `dist.get_rank()` tells where it runs. If it
    raises on any rank, or is not back after `timeout` seconds, `run` raises RankError; the next call then starts anew.
    """

    def __init__(self, world: int) -> None:
        self.world = world
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._processes: list[Any] = []
        self._pipes: list[Connection] = []

    def __enter__(self) -> Ranks:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    def run(self, function: Callable[..., Any], *arguments: Any, timeout: float = 180.0) -> list[Any]:
        if not self._processes:
            self._start()
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps((function, arguments)))
        end = time.monotonic() + timeout
        answers = [_answer(pipe, end - time.monotonic()) for pipe in self._pipes]
        failed = {rank: text for rank, (done, text) in enumerate(answers) if not done}
        if failed:
            self._kill()
            others = {rank: value for rank, (done, value) in enumerate(answers) if done}
            text = "".join(f"\nrank {rank} of {self.world}: {text}" for rank, text in failed.items())
            raise RankError(text, others)
        return [value for _, value in answers]

    def close(self) -> None:
        """Let the processes go; those that do not are killed."""
        for pipe in self._pipes:
            pipe.send_bytes(pickle.dumps(None))
        for process in self._processes:
            process.join(20)
        self._kill()

    def _start(self) -> None:
        context = get_context("forkserver")  # a process that has imported these forks, so that not each must
        context.set_forkserver_preload(IMPORTED)
        self._folder = tempfile.TemporaryDirectory()
        for rank in range(self.world):
            here, there = context.Pipe()
            meet = Path(self._folder.name, "meet").as_uri()
            process = context.Process(target=_serve, args=(there, meet, rank, self.world), daemon=True)
            process.start()
            there.close()
            self._processes.append(process)
            self._pipes.append(here)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._processes, self._pipes = [], []
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _answer(pipe: Connection, seconds: float) -> tuple[bool, Any]:
    try:
        if not pipe.poll(max(seconds, 0)):
            return False, "no answer in time"
        answer: tuple[bool, Any] = pickle.loads(pipe.recv_bytes())
        return answer
    except (EOFError, OSError):
        return False, "the process has ended"


def _serve(pipe: Connection, meet: str, rank: int, world: int) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meet, rank=rank, world_size=world, timeout=timedelta(seconds=180))
    while (call := pickle.loads(pipe.recv_bytes())) is not None:
        function, arguments = call
        try:
            pipe.send_bytes(pickle.dumps((True, function(*arguments))))
        except BaseException:
            pipe.send_bytes(pickle.dumps((False, traceback.format_exc())))
            os._exit(1)  # the other ranks' collectives then fail at once, they do not wait for this one
    dist.barrier()
    # Not by way of the interpreter's end: a thread of gloo that still lets go of Python objects then aborts the process
    # (pytorch/pytorch#179291), now and then.
    os._exit(0)
