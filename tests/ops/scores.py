"""Scores that are hard to rank, in layouts that are hard to walk, and a ranking that owes nothing to torch.sort."""

import math
import os
import threading

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
RUNS = int(os.environ.get("ZSU_FAST_TEST_RUNS", "50"))
"""How often is tried what is drawn or a matter of luck; less often where a checker or an emulator runs the kernels."""


def _random(shape, dtype):
    return torch.randn(shape).to(dtype)


def _few_values(shape, dtype):
    """Ties everywhere, zeros of both signs."""
    return (torch.randint(-1, 2, shape) * torch.where(torch.rand(shape) < 0.5, -1.0, 1.0)).to(dtype)


def _one_value(shape, dtype):
    return torch.full(shape, -0.75, dtype=dtype)


def _signed_zeros(shape, dtype):
    return torch.where(torch.rand(shape) < 0.5, 0.0, -0.0).to(dtype)


def _non_finite(shape, dtype):
    scores, kind = torch.randn(shape).to(dtype), torch.rand(shape)
    scores[kind < 0.3] = math.nan
    scores[(kind > 0.3) & (kind < 0.4)] = -math.nan
    scores[(kind > 0.4) & (kind < 0.5)] = math.inf
    scores[(kind > 0.5) & (kind < 0.6)] = -math.inf
    return scores


def _subnormal(shape, dtype):
    info = torch.finfo(dtype)
    return (torch.randint(-5, 6, shape).to(torch.float64) * info.smallest_normal * info.eps).to(dtype)


def _rectified(shape, dtype):
    return torch.randn(shape).relu().to(dtype)


SCORES = {
    "random": _random,
    "few_values": _few_values,
    "one_value": _one_value,
    "signed_zeros": _signed_zeros,
    "non_finite": _non_finite,
    "subnormal": _subnormal,
    "rectified": _rectified,
}


def _slice_of_larger(tensor):
    whole = torch.full([size + 3 for size in tensor.shape], 7.0, dtype=tensor.dtype, device=tensor.device)
    view = whole[tuple(slice(2, size + 2) for size in tensor.shape)]
    return view.copy_(tensor)


def _every_second(tensor):
    if tensor.dim() == 0:
        return tensor
    whole = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7.0, dtype=tensor.dtype, device=tensor.device)
    return whole[..., 1::2].copy_(tensor)


def _transposed(tensor):
    return tensor if tensor.dim() < 2 else tensor.transpose(0, -1).contiguous().transpose(0, -1)


def _channels_last(tensor):
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return tensor.contiguous(memory_format=formats[tensor.dim()]) if tensor.dim() in formats else tensor


LAYOUTS = {
    "contiguous": lambda tensor: tensor,
    "slice": _slice_of_larger,
    "every_second": _every_second,
    "transposed": _transposed,
    "channels_last": _channels_last,
}
"""Each returns a tensor of equal values (a copy where the layout changes)."""


def ranking(scores: list[float], absolute: bool) -> list[int]:
    """Indices from the largest score to the smallest; ties by index; NaN last. By Python's own floats."""

    def order(i: int) -> tuple[bool, float, int]:
        if math.isnan(scores[i]):
            return True, 0.0, i
        return False, -(abs(scores[i]) if absolute else scores[i]), i

    return sorted(range(len(scores)), key=order)


def bits(tensor: Tensor) -> Tensor:
    """The elements as integers: equal only if the same bit for bit, payloads of NaN and signs of zero included."""
    width = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.detach().contiguous().view(width[tensor.element_size()])


def assert_same_bits(a: Tensor, b: Tensor) -> None:
    assert a.dtype == b.dtype and a.shape == b.shape
    assert torch.equal(bits(a), bits(b))


def changing(scores):
    """RUNS times, while another thread writes small and large numbers to half of `scores`."""
    half = scores[len(scores) // 2 :]
    low, high, stop = torch.zeros_like(half), torch.full_like(half, 1e30), threading.Event()

    def write():
        while not stop.is_set():
            half.copy_(low)
            half.copy_(high)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield from range(RUNS)
    finally:
        stop.set()
        writer.join()
