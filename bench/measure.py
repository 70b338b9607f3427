"""Clocks. All contenders take turns in one process, so that a change of the machine's speed hits them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch

FLUSH_BYTES = 256 * 2**20  # more than the last-level cache of any current GPU


@dataclass(frozen=True)
class Timing:
    """Seconds per call."""

    median: float
    minimum: float
    samples: int

    def to_dict(self) -> dict[str, float]:
        return asdict(self)


def time_interleaved(
    contenders: Mapping[str, Callable[[], object]], device: torch.device, seconds: float, at_least: int = 5
) -> dict[str, Timing]:
    """Time each of the contenders again and again, in turn, for about `seconds` per contender.

    On CUDA every sample is one call between two events on the stream, after a write that empties the caches and
    keeps the GPU busy while the call is enqueued: the time is the GPU's, not Python's. On the CPU a sample is as many
    calls as take about 2 ms, on warm caches.
    """
    sample = _cuda_sampler(device) if device.type == "cuda" else _cpu_sample
    calls = {}
    for name, contender in contenders.items():
        contender()  # allocations, compilation, autotuning
        once = sample(contender, 1)
        calls[name] = 1 if device.type == "cuda" else max(1, round(0.002 / max(once, 1e-7)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    deadline = time.perf_counter() + seconds * len(contenders)
    while time.perf_counter() < deadline or len(next(iter(times.values()))) < at_least:
        for name, contender in contenders.items():
            times[name].append(sample(contender, calls[name]))
    return {name: Timing(statistics.median(t), min(t), len(t)) for name, t in times.items()}


def copy_of(traffic: int, device: torch.device) -> Callable[[], object]:
    """A copy that reads traffic / 2 bytes and writes as many: the ceiling for a pass with that traffic."""
    source = torch.zeros(max(1, traffic // 2), dtype=torch.uint8, device=device)
    target = torch.ones_like(source)  # written once, so that every page is there before the clock starts
    return lambda: target.copy_(source)


def _cpu_sample(contender: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        contender()
    return (time.perf_counter() - start) / calls


def _cuda_sampler(device: torch.device) -> Callable[[Callable[[], object], int], float]:
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)

    def sample(contender: Callable[[], object], calls: int) -> float:
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        flush.zero_()
        start.record()
        for _ in range(calls):
            contender()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / calls

    return sample
