"""Where the time of a call goes: which kernels take it, and what is left for all around them."""

import re
import time

import torch
from torch.profiler import ProfilerActivity, profile

from bench.measure import Contender

GEMMS, PASSES, OTHERS, REST = "GEMMs", "passes", "other kernels", "all else"
_GEMM = re.compile(r"conv|mm$|matmul|linear|attention")


def kernel_seconds(call: Contender, device: torch.device, calls: int = 3) -> dict[str, float]:
    """Seconds per call in GEMMs, convolutions and attention, in the passes of zsu_fast, in all other kernels, and what
    of the clock's time is left: Python, and the profiler's own work.

    On CUDA the time of kernels is the device's, which works beside Python: what is left can be less than nothing.
    """
    on_cuda = device.type == "cuda"
    synchronize = torch.cuda.synchronize if on_cuda else lambda: None
    call()
    synchronize()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        for _ in range(calls):
            call()
        synchronize()
        wall = (time.perf_counter() - start) / calls
    seconds = {GEMMS: 0.0, PASSES: 0.0, OTHERS: 0.0}
    for event in profiler.key_averages():
        library, _, name = event.key.partition("::")
        if library not in ("aten", "zsu_fast") or event.device_type.name != "CPU":
            continue  # autograd's own, Python, and kernels that are counted with the functions that launch them
        kind = GEMMS if _GEMM.search(name) else PASSES if library == "zsu_fast" else OTHERS
        microseconds = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        seconds[kind] += microseconds * 1e-6 / calls
    return seconds | {REST: wall - sum(seconds.values())}
