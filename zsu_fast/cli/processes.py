"""A command under torchrun: each process reads its part of the images; the first one speaks, and writes the files."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch
import torch.distributed as dist
import typer

from zsu_fast.cli.console import tell_error
from zsu_fast.cli.images import ImageSet
from zsu_fast.unlearn.group import ALONE, Group, Processes, together

_current: list[Group] = [ALONE]


def current() -> Group:
    """The processes that run this command."""
    return _current[-1]


def part(images: ImageSet) -> ImageSet:
    """Those that this process reads: consecutive ones; none, where there are fewer images than processes."""
    group, count = current(), len(images)
    first, last = (-(-count * rank // group.size) for rank in (group.rank, group.rank + 1))
    return images.take(range(first, last))


def in_all_processes(command: Callable[..., None]) -> Callable[..., None]:
    """The command in every process that torchrun has started, with one outcome; without torchrun as it is.

    The command must have keywords ``device``, ``as_json`` and ``quiet``.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> None:
        if not dist.is_available() or not dist.is_torchelastic_launched():
            return command(*args, **kwargs)

        def work() -> int:
            try:
                command(*args, **kwargs)
            except typer.Exit as ended:
                return ended.exit_code
            return 0

        device = kwargs["device"]
        if device == "cuda":
            kwargs["device"] = device = f"cuda:{os.environ['LOCAL_RANK']}"
            torch.cuda.set_device(device)
        with _joined("nccl" if device.startswith("cuda") else "gloo") as group:
            if group.rank:
                kwargs |= {"quiet": True, "as_json": False}
            try:
                code = together(group, work)
            except BaseException as error:
                if kwargs.get("debug") or not group.over:
                    raise
                code = tell_error(error, quiet=group.rank > 0)
                with suppress(Exception):
                    dist.barrier()  # torchrun ends all as soon as one has ended: not before it is said
        raise typer.Exit(code)

    return run


@contextmanager
def _joined(backend: str) -> Iterator[Processes]:
    dist.init_process_group(backend)
    assert dist.group.WORLD is not None
    _current.append(group := Processes(dist.group.WORLD))
    try:
        yield group
    finally:
        _current.pop()
        dist.destroy_process_group()
