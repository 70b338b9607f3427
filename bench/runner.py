"""Check, then measure."""

import fnmatch
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from bench.check import check, check_peer
from bench.flops import flops
from bench.measure import Contender, Samples, copies, gemm, quartiles, rotating, rotations, time_interleaved
from bench.memory import peak_memory
from bench.profile import kernel_seconds
from bench.registry import Arguments, Case, all_cases

OURS = "zsu_fast"
COPY, GEMM = "copy", "gemm"
Wanted = Callable[[str], bool]
ONE_TARGET = "one target"
"""A floor that is the same work for a target less: from both comes what a further target costs."""


def selected(pattern: str | None, without: str | None = None) -> list[Case]:
    """The cases whose name contains `pattern` or matches it as a shell pattern (None: all), but for those that
    `without` matches."""

    def matches(name: str, pattern: str) -> bool:
        return pattern in name or fnmatch.fnmatch(name, pattern)

    return [
        case
        for case in all_cases()
        if (pattern is None or matches(case.name, pattern)) and not (without and matches(case.name, without))
    ]


def every_peer(name: str) -> bool:
    return True


def run_case(
    case: Case, device: torch.device, dtype: torch.dtype, seconds: float, wanted: Wanted = every_peer
) -> dict[str, Any]:
    """One row of results (JSON-able), with the peers that are `wanted`.

    Raises:
        AssertionError: the result is wrong; nothing was timed.
    """
    torch.compiler.reset()  # a function that is compiled for one case after the other reaches the compiler's limit
    with torch.no_grad():
        error = check(case, device, dtype)
        contenders, absent = _contenders(case, device, dtype, wanted)
        row: dict[str, Any] = {
            "case": case.name,
            "device": device.type,
            "dtype": str(dtype).removeprefix("torch."),
            "error": error,
            "floors": list(case.floors),
            "absent": absent,
        }
        if case.is_model:
            contenders[GEMM], row["gemm_flops"] = gemm(device, dtype)
            counted = (OURS, *case.floors)
            row["flops"] = {name: flops(contenders[name]) for name in counted}
            row["peak_bytes"] = {name: peak_memory(contenders[name], device) for name in counted}
            row["kernels"] = {name: kernel_seconds(contenders[name], device) for name in counted}
        else:
            row["bytes"] = case.traffic(case.arguments(device, dtype))
            contenders[COPY] = copies(row["bytes"], device)
        timings = time_interleaved(contenders, device, seconds)
    row["seconds"] = {name: samples.to_dict() for name, samples in timings.items()}
    row["ratios"] = {
        name: quartiles([theirs / ours for theirs, ours in zip(samples.wall, timings[OURS].wall, strict=True)])
        for name, samples in timings.items()
        if name not in (OURS, COPY, GEMM)
    }
    if ONE_TARGET in timings:
        row["further_target"] = _further_target(case, timings)
    return row


def _contenders(
    case: Case, device: torch.device, dtype: torch.dtype, wanted: Wanted
) -> tuple[dict[str, Contender], dict[str, str]]:
    """What takes part, ready to call, and why the others do not. Peers that give something else do not."""
    arguments = case.arguments(device, dtype)
    turns = 1 if case.is_model else rotations(case.traffic(arguments), device)

    def fresh() -> Arguments:
        return arguments if case.is_model else case.arguments(device, dtype)  # models are large, and not written to

    def ready(function: Callable[..., Any]) -> Contender:
        return rotating(function, [fresh() for _ in range(turns)])

    contenders = {OURS: ready(case.run), **{name: ready(floor) for name, floor in case.floors.items()}}
    absent: dict[str, str] = {}
    ours = case.run(*case.gate_arguments(device, dtype))
    for name, peer in case.peers.items():
        if not wanted(name):
            continue
        try:
            result = peer(*case.gate_arguments(device, dtype))
            if case.peers_agree:
                check_peer(case, device, dtype, result, ours)
        except (ImportError, pytest.skip.Exception) as reason:
            absent[name] = str(reason)
        except AssertionError as wrong:  # worth knowing, and no reason to keep our figures back
            absent[name] = f"its result differs: {wrong}"
        else:
            contenders[name] = ready(peer)
    return contenders, absent


def _further_target(case: Case, timings: dict[str, Samples]) -> list[float]:
    """Quartiles of what the last target costs, in units of the first floor."""
    unit = next(iter(case.floors))
    rounds = zip(*(timings[name].wall for name in (OURS, ONE_TARGET, unit)), strict=True)
    return quartiles([(all_targets - one) / plain for all_targets, one, plain in rounds])


def run(
    pattern: str | None,
    device: torch.device,
    seconds: float,
    without: str | None = None,
    wanted: Wanted = every_peer,
) -> Iterator[dict[str, Any]]:
    """Rows, one after the other; a case that fails its check yields a row with "failed" and no times."""
    for case in selected(pattern, without):
        if device.type not in case.devices:
            continue
        for dtype in case.dtypes:
            try:
                yield run_case(case, device, dtype, seconds, wanted)
            except AssertionError as wrong:
                name = str(dtype).removeprefix("torch.")
                yield {"case": case.name, "device": device.type, "dtype": name, "failed": str(wrong)}
