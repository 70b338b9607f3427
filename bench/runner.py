"""Check, then measure."""

import fnmatch
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bench.check import check
from bench.measure import copy_of, time_interleaved
from bench.registry import Arguments, Case, all_cases

OURS = "zsu_fast"
COPY = "copy"


def selected(pattern: str | None) -> list[Case]:
    """The cases whose name contains `pattern` or matches it as a shell pattern; all of them for None."""
    cases = all_cases()
    return cases if pattern is None else [c for c in cases if pattern in c.name or fnmatch.fnmatch(c.name, pattern)]


def run_case(case: Case, device: torch.device, dtype: torch.dtype, seconds: float) -> dict[str, Any]:
    """One row of results (JSON-able).

    Raises:
        AssertionError: the result is wrong; nothing was timed.
    """
    with torch.no_grad():
        error = check(case, device, dtype)
        arguments = case.arguments(device, dtype)
        traffic = case.traffic(arguments)
        contenders: dict[str, Callable[[], object]] = {OURS: _bind(case.run, arguments)}
        absent: dict[str, str] = {}
        for name, peer in case.peers.items():
            try:
                if case.peers_agree:
                    check(case, device, dtype, peer)
                else:
                    peer(*case.arguments(device, dtype))
            except (ImportError, pytest.skip.Exception) as reason:
                absent[name] = str(reason)
            except AssertionError as wrong:  # worth knowing, and no reason to keep our figures back
                absent[name] = f"its result differs: {wrong}"
            else:
                contenders[name] = _bind(peer, case.arguments(device, dtype))
        contenders[COPY] = copy_of(traffic, device)
        timings = time_interleaved(contenders, device, seconds)
    return {
        "case": case.name,
        "device": device.type,
        "dtype": str(dtype).removeprefix("torch."),
        "error": error,
        "bytes": traffic,
        "seconds": {name: timing.to_dict() for name, timing in timings.items()},
        "absent": absent,
    }


def run(pattern: str | None, device: torch.device, seconds: float) -> Iterator[dict[str, Any]]:
    """Rows, one after the other; a case that fails its check yields a row with "failed" and no times."""
    for case in selected(pattern):
        if device.type not in case.devices:
            continue
        for dtype in case.dtypes:
            try:
                yield run_case(case, device, dtype, seconds)
            except AssertionError as wrong:
                name = str(dtype).removeprefix("torch.")
                yield {"case": case.name, "device": device.type, "dtype": name, "failed": str(wrong)}


def _bind(function: Callable[..., Any], arguments: Arguments) -> Callable[[], object]:
    return lambda: function(*arguments)
