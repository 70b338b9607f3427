"""What a measurement was taken on."""

import datetime
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import zsu_fast


def describe(device: torch.device) -> dict[str, Any]:
    """JSON-able facts: hardware, versions, commit, libraries."""
    facts: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": _commit(),
        "cpu": _cpu_model(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "zsu_fast": _build_facts(),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        facts["gpu"] = properties.name
        facts["gpu_memory_bytes"] = properties.total_memory
        facts["cuda"] = torch.version.cuda
    return facts


def in_a_line(facts: dict[str, Any]) -> str:
    """What `describe` found, in a line: of a CPU or of a GPU."""
    threads = f"{facts['threads']} thread{'' if facts['threads'] == 1 else 's'}"
    where = facts.get("gpu") or f"{facts['cpu']}, {threads}"
    return f"{where}, torch {facts['torch']}, {facts['date'][:10]}, commit {facts['commit']}"


def _build_facts() -> dict[str, Any]:
    """`build_info` without the paths of this machine, which are nobody's business in a published result."""
    facts = zsu_fast.build_info()
    for library in facts["libraries"].values():
        library.pop("path", None)
    return facts


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    root = Path(__file__).resolve().parent.parent
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()
