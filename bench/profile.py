"""Where the time of a call goes: which kernels take it, and what is left for everything around them."""

import re

import torch
from torch.profiler import ProfilerActivity, profile

from bench.measure import Contender

GEMMS, PASSES, OTHERS = "GEMMs", "passes", "other kernels"
_GEMM = re.compile(r"conv|mm$|matmul|linear|attention")


def kernel_seconds(call: Contender, device: torch.device, calls: int = 3) -> dict[str, float]:
    """Seconds per call in GEMMs, convolutions and attention, in the passes of zsu_fast, and in all other kernels.

    On CUDA it is the time of the device.
    """
    on_cuda = device.type == "cuda"
    call()
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * on_cuda
    with profile(activities=activities) as profiler:
        for _ in range(calls):
            call()
    seconds = {GEMMS: 0.0, PASSES: 0.0, OTHERS: 0.0}
    for event in profiler.key_averages():
        library, _, name = event.key.partition("::")
        if library not in ("aten", "zsu_fast") or event.device_type.name != "CPU":
            continue  # autograd's own, Python, and kernels that are counted with the functions that launch them
        kind = GEMMS if _GEMM.search(name) else PASSES if library == "zsu_fast" else OTHERS
        time = event.self_device_time_total if on_cuda else event.self_cpu_time_total
        seconds[kind] += time * 1e-6 / calls
    return seconds
