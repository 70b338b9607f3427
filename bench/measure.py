"""Clocks. All contenders take turns in one process, so that a change of the machine's speed hits them alike."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

FLUSH_BYTES = 256 * 2**20  # more than the last-level cache of any current GPU

Contender = Callable[[], object]


@dataclass(frozen=True)
class Samples:
    """Seconds per call, one sample per round: on the clock of what computes, the processor's or the GPU's. On the CPU
    also of all threads together; on CUDA also until the call had come back to its caller, the kernels still running."""

    wall: tuple[float, ...]
    process: tuple[float, ...] = ()
    caller: tuple[float, ...] = ()

    def to_dict(self) -> dict[str, float]:
        low, median, high = quartiles(self.wall)
        summary = {"median": median, "minimum": min(self.wall), "low": low, "high": high, "samples": len(self.wall)}
        beside = {"process": self.process, "caller": self.caller}
        return summary | {name: statistics.median(seconds) for name, seconds in beside.items() if seconds}


def quartiles(values: Sequence[float]) -> list[float]:
    """The first, the median and the third."""
    return [values[0]] * 3 if len(values) == 1 else statistics.quantiles(values, n=4, method="inclusive")


def time_interleaved(
    contenders: Mapping[str, Contender], device: torch.device, seconds: float, at_least: int = 5
) -> dict[str, Samples]:
    """Time each of the contenders again and again, in turn, for about `seconds` per contender.

    On CUDA every sample is a call for its caller's time, then one between two events on the stream, after a write that
    empties the caches and a kernel that keeps the GPU waiting while the call is enqueued: the time is the GPU's, not
    Python's. On the CPU a sample is as many calls as take about 2 ms; contenders see to it that these do not find their
    operands in the cache (`rotating`).
    """
    sample = _cuda_sampler(device) if device.type == "cuda" else _cpu_sample
    calls = {}
    for name, contender in contenders.items():
        once, _ = sample(contender, 1)  # allocations, compilation, autotuning
        if once < 0.1:
            once, _ = sample(contender, 1)
        calls[name] = 1 if device.type == "cuda" else max(1, round(0.002 / max(once, 1e-7)))
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    deadline = time.perf_counter() + seconds * len(contenders)
    while time.perf_counter() < deadline or len(next(iter(times.values()))) < at_least:
        for name, contender in contenders.items():
            times[name].append(sample(contender, calls[name]))
    found = {}
    for name, pairs in times.items():
        wall, beside = zip(*pairs, strict=True)
        found[name] = Samples(wall, caller=beside) if device.type == "cuda" else Samples(wall, process=beside)
    return found


def rotating(function: Callable[..., object], arguments: Sequence[tuple]) -> Contender:
    """Calls `function` with one set of arguments after the other."""
    turns = itertools.cycle(arguments)
    return lambda: function(*next(turns))


def rotations(traffic: int, device: torch.device) -> int:
    """How many sets of operands of `traffic` bytes it takes to fill the last-level cache twice; 1 on CUDA, where the
    caches are emptied before every call."""
    return 1 if device.type == "cuda" else max(1, min(64, -(-2 * cache_bytes() // max(1, traffic))))


def cache_bytes() -> int:
    """Size of the last-level cache of this processor; 32 MiB where it does not say."""
    sizes = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    text = [path.read_text().strip() for path in sizes]
    return max((int(t[:-1]) * 2**10 for t in text if t.endswith("K") and t[:-1].isdigit()), default=32 * 2**20)


def copies(traffic: int, device: torch.device) -> Contender:
    """Copies that read traffic / 2 bytes and write as many: the ceiling for a pass with that traffic."""
    pairs = []
    for _ in range(rotations(traffic, device)):
        source = torch.zeros(max(1, traffic // 2), dtype=torch.uint8, device=device)
        pairs.append((torch.ones_like(source), source))  # written once, so that every page is there before the clock
    return rotating(torch.Tensor.copy_, pairs)


GEMM_SIZE = {"cpu": 1536, "cuda": 8192}


def gemm(device: torch.device, dtype: torch.dtype) -> tuple[Contender, int]:
    """A large matrix product, the ceiling for what is made of GEMMs, and its floating point operations."""
    size = GEMM_SIZE[device.type]
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return lambda: torch.mm(a, b), 2 * size**3


def _cpu_sample(contender: Contender, calls: int) -> tuple[float, float]:
    start, process = time.perf_counter(), time.process_time()
    for _ in range(calls):
        contender()
    return (time.perf_counter() - start) / calls, (time.process_time() - process) / calls


LONGEST_WAIT = 0.25  # seconds that the GPU is kept waiting at most, should a call take its caller that long


def _cuda_sampler(device: torch.device) -> Callable[[Contender, int], tuple[float, float]]:
    flush = torch.empty(FLUSH_BYTES, dtype=torch.uint8, device=device)
    cycles = 10_000_000
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda._sleep(cycles)  # the first also loads the kernel
    start.record()
    torch.cuda._sleep(cycles)
    end.record()
    end.synchronize()
    rate = cycles / (start.elapsed_time(end) / 1000)

    def sample(contender: Contender, calls: int) -> tuple[float, float]:
        torch.cuda.synchronize(device)
        before = time.perf_counter()
        for _ in range(calls):
            contender()
        caller = time.perf_counter() - before
        flush.zero_()
        torch.cuda._sleep(round(min(2 * caller, LONGEST_WAIT) * rate))
        start.record()
        for _ in range(calls):
            contender()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1000 / calls, caller / calls

    return sample
