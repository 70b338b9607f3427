"""What is left is what the kernel says, or less where a limit stands before it."""

import os
import sys

import pytest
import torch

from zsu_fast.evaluate import free_memory as module
from zsu_fast.evaluate.free_memory import free_memory

CPU = torch.device("cpu")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the files of Linux")
def test_of_this_machine():
    found = free_memory(CPU)
    assert found is not None and 0 < found <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 8000 * 1024),
        ({"proc/self/cgroup": "0::/a/b\n", "a/b/memory.max": "max\n", "a/b/memory.current": "5"}, 8000 * 1024),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "a/b/memory.max": "max\n",
                "a/memory.max": "5000000",
                "a/memory.current": "3000000",
                "a/memory.stat": "anon 7\ninactive_file 400000\n",
            },
            2_400_000,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu:/x\n4:memory:/job\n0::/\n",
                "memory/job/memory.limit_in_bytes": "2000",
                "memory/job/memory.usage_in_bytes": "3000",
            },
            0,
        ),
    ],
)
def test_limits_of_groups(monkeypatch, files, expected):
    given = {"/proc/meminfo": "MemTotal: 9000 kB\nMemAvailable:    8000 kB\n"}
    given |= {f"/{name}" if name.startswith("proc") else f"{module.GROUPS}/{name}": t for name, t in files.items()}
    monkeypatch.setattr(module, "_read", lambda path: given.get(str(path), ""))
    assert free_memory(CPU) == expected


def test_what_cannot_be_told(monkeypatch):
    monkeypatch.setattr(module, "_read", lambda path: "")
    assert free_memory(CPU) is None and free_memory(torch.device("meta")) is None
