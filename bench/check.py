"""The gate before the clock: nothing is timed whose result is wrong."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from bench.registry import Case, Tolerance


def tensors_of(result: Any) -> Iterator[Tensor]:
    """The tensors of a nested result, in order."""
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, dict):
        for value in result.values():
            yield from tensors_of(value)
    elif isinstance(result, (tuple, list)):
        for value in result:
            yield from tensors_of(value)


def error(result: Any, expected: Any) -> float:
    """Largest difference over all tensors, relative to the largest magnitude of each; infinite if they do not compare.

    NaN equals NaN, and an infinity equals itself.
    """
    pairs = list(zip(tensors_of(result), tensors_of(expected), strict=False))
    if (
        not pairs
        or len(pairs) != sum(1 for _ in tensors_of(expected))
        or len(pairs) != sum(1 for _ in tensors_of(result))
    ):
        return math.inf
    return max(_tensor_error(a, b) for a, b in pairs)


def _tensor_error(result: Tensor, expected: Tensor) -> float:
    if result.shape != expected.shape:
        return math.inf
    a, b = result.detach().double(), expected.detach().to(result.device).double()
    same = (a == b) | (a.isnan() & b.isnan())
    if bool(same.all()):
        return 0.0
    difference = (a - b).abs()[~same].max().item()
    scale = b[b.isfinite()].abs().max().item() if bool(b.isfinite().any()) else 0.0
    return math.inf if math.isnan(difference) or scale == 0 else difference / scale


def check(case: Case, device: torch.device, dtype: torch.dtype) -> float:
    """The error of the case's result against its reference.

    Raises:
        AssertionError: it is larger than the case allows.
    """
    expected = case.reference(*case.gate_arguments(device, dtype))
    result = case.run(*case.gate_arguments(device, dtype))
    return _held(case, device, dtype, error(result, expected), case.tolerance)


def check_peer(case: Case, device: torch.device, dtype: torch.dtype, result: Any, ours: Any) -> float:
    """The error of a peer's `result` against `ours`.

    Raises:
        AssertionError: it is larger than the case allows.
    """
    tolerance = case.tolerance if case.peers_tolerance is None else case.peers_tolerance
    return _held(case, device, dtype, error(result, case.part(ours)), tolerance)


def _held(case: Case, device: torch.device, dtype: torch.dtype, found: float, tolerance: Tolerance) -> float:
    epsilons = tolerance[dtype] if isinstance(tolerance, Mapping) else tolerance
    allowed = epsilons * torch.finfo(dtype).eps
    if not found <= allowed:
        raise AssertionError(f"{case.name} ({dtype}, {device}): relative error {found:.3g}, allowed {allowed:.3g}")
    return found
