"""A command under torchrun: each process reads its part of the images; the first one speaks, and writes the files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch.distributed as dist

from zsu_fast.cli.images import ImageSet
from zsu_fast.unlearn.group import ALONE, Group, Processes

_current: list[Group] = [ALONE]


def current() -> Group:
    """The processes that run this command."""
    return _current[-1]


def part(images: ImageSet) -> ImageSet:
    """Those that this process reads: consecutive ones; none, where there are fewer images than processes."""
    group, count = current(), len(images)
    first, last = (-(-count * rank // group.size) for rank in (group.rank, group.rank + 1))
    return images.take(range(first, last))


@contextmanager
def joined(backend: str) -> Iterator[Processes]:
    """The group of all of them, while they work."""
    dist.init_process_group(backend)
    assert dist.group.WORLD is not None
    _current.append(group := Processes(dist.group.WORLD))
    try:
        yield group
    finally:
        _current.pop()
        dist.destroy_process_group()
