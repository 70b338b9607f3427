"""How much memory a device has left for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

GROUPS = Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Bytes; None where that cannot be told.

    Of a CUDA device what the driver has free and what torch's allocator holds unused. Of the host, on Linux, what the
    kernel says is available, or what limits of the process and of its control groups (containers, jobs) leave of it.
    """
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type != "cpu":
        return None
    return min((max(0, left) for left in _left_on_the_host()), default=None)


def _left_on_the_host() -> Iterator[int]:
    for line in _read(Path("/proc/meminfo")).splitlines():
        if line.startswith("MemAvailable:"):
            yield 1024 * int(line.split()[1])
    for line in _read(Path("/proc/self/cgroup")).splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":  # version 2; limits of the groups above hold, too
            for parent in (folder := GROUPS / group.lstrip("/"), *folder.parents):
                yield from _left_of_group(parent, "memory.max", "memory.current")
                if parent == GROUPS:
                    break
        elif "memory" in controllers.split(","):
            inside = GROUPS / "memory"
            for folder in (inside / group.lstrip("/"), inside):
                yield from _left_of_group(folder, "memory.limit_in_bytes", "memory.usage_in_bytes")
    try:
        import resource  # not on Windows
    except ImportError:
        return
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and (pages := _read(Path("/proc/self/statm")).split()):
        yield limit - int(pages[0]) * os.sysconf("SC_PAGE_SIZE")


def _left_of_group(folder: Path, limit: str, used: str) -> Iterator[int]:
    """What a limit leaves. Files that the kernel keeps in memory as long as nobody wants it are not in the way."""
    most, now = _read(folder / limit).strip(), _read(folder / used).strip()
    if most.isdecimal() and now.isdecimal():
        kept = dict(line.split() for line in _read(folder / "memory.stat").splitlines())
        yield int(most) - int(now) + int(kept.get("total_inactive_file", kept.get("inactive_file", 0)))


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
