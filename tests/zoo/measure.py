"""Time and memory of a relevance call as a ratio to those of the plain gradient of the same logit."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd.profiler import profile

from tests.zoo.checks import RULES, TARGET, logits_of
from zsu_fast.lrp import relevance

MEASURED = ("epsilon, AttnLRP", "z+")


def cost_ratios(model: nn.Module, images: Tensor, repeats: int = 2) -> dict[str, tuple[float, float]]:
    """(time, peak memory) by family of rules, over those of forward and input gradient with frozen weights.

    Peak memory is that of the first call, which prepares and keeps weights for its rule: what is allocated during the
    call, above the model and the images. Time is that of later calls; all take turns, the fastest of `repeats` counts.
    """

    def plain_gradient() -> None:
        leaf = images.detach().requires_grad_()
        torch.autograd.grad(logits_of(model(leaf))[:, TARGET].sum(), leaf)

    model.requires_grad_(False)
    calls: dict[str, Callable[[], object]] = {"": plain_gradient}
    for name in MEASURED:
        calls[name] = lambda rules=RULES[name]: relevance(model, images, TARGET, composite=rules)
    peaks = {name: peak_memory(call) for name, call in calls.items()}
    times = {name: min(column) for name, column in zip(calls, _rounds(calls, repeats), strict=True)}
    return {name: (times[name] / times[""], peaks[name] / peaks[""]) for name in MEASURED}


def _rounds(calls: dict[str, Callable[[], object]], repeats: int) -> list[list[float]]:
    seconds: list[list[float]] = [[] for _ in calls]
    for _ in range(repeats):
        for column, call in zip(seconds, calls.values(), strict=True):
            start = time.perf_counter()
            call()
            column.append(time.perf_counter() - start)
    return seconds


def peak_memory(call: Callable[[], object]) -> int:
    """The most bytes that torch's CPU allocator had given out at a time during `call`, above what it had before."""
    with profile(profile_memory=True) as profiler:
        call()
    events = [event for event in profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
