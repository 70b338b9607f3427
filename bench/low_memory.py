"""What memory="low" saves of `relevance`, and costs: a vision transformer of depth 12 beside its plain input gradient.

    python -m bench.low_memory --json bench/results/low_memory.json

Memory is what torch's allocator held above what it held before, time that of the processor, the fastest of several
calls in turn. The plain gradient is that of a model as it comes, whose parameters require gradients, so that their
layers keep their inputs too, and that of one whose parameters are frozen. "low" must have the bits of "normal", or
there is no row.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zsu_fast
from bench import machine
from bench.memory import peak_memory
from bench.models import ViT, natural, settle
from bench.parts import run_parts

WIDTHS = {"192": (192, 3, 4), "384": (384, 6, 2)}  # heads, images
COMPOSITES = ("epsilon", "attnlrp", "attnlrp_gamma")
RUNS = 5
PAGE, MARKERS = Path("docs/scale.md"), ("<!-- low memory: begin -->", "<!-- low memory: end -->")
Row = dict[str, Any]


def start(_: Path) -> tuple[tuple[()], Row]:
    return (), {"runs": RUNS, "composites": list(COMPOSITES)}


def measure(width: int, heads: int, count: int) -> Iterator[Row]:
    """A row for the plain gradient, and one for each composite and kind of memory."""
    torch.manual_seed(0)
    images = natural(count, 224, torch.device("cpu"))
    model = settle(ViT(width, heads=heads), images).eval()
    calls: dict[str, Callable[[], object]] = {
        "gradient": partial(_gradient, model, images, True),
        "gradient, frozen": partial(_gradient, model, images, False),
    }
    for composite in COMPOSITES:
        both = [partial(zsu_fast.relevance, model, images, 0, composite=composite, memory=m) for m in ("normal", "low")]
        _check_equal(*(call() for call in both))
        calls |= dict(zip((composite, f"{composite}, low"), both, strict=True))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(RUNS):
        for name, call in calls.items():
            begun = time.process_time()
            call()
            seconds[name].append(time.process_time() - begun)
    for name, call in calls.items():
        peak = peak_memory(call, images.device)
        yield {"call": name, "images": count, "seconds": min(seconds[name]), "peak_mib": peak / 2**20}


def _gradient(model: nn.Module, images: Tensor, of_parameters: bool) -> Tensor:
    model.requires_grad_(of_parameters)
    leaf = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
    model.requires_grad_(True)
    return gradient


def _check_equal(normal: zsu_fast.lrp.Relevance, low: zsu_fast.lrp.Relevance) -> None:
    same = [torch.equal(normal.input, low.input), normal.neurons.keys() == low.neurons.keys()]
    same += [torch.equal(units, low.neurons[name]) for name, units in normal.neurons.items()]
    if not all(same):
        raise RuntimeError('memory="low" does not give the bits of "normal"')


def table(results: Row) -> str:
    """Markdown: memory and time in units of the plain gradient's."""
    lines = [
        "Peak memory and time of one call in units of the plain input gradient of the model as it comes; in brackets "
        "the peak in units of that of a model with frozen parameters. ViT of depth 12, float32; equal bits. "
        f"{machine.in_a_line(results['machine'])}.",
        "",
        "| width, images | rules | memory | peak in MiB | memory | time |",
        f"|{' --- |' * 6}",
    ]
    for width, rows in results["parts"].items():
        plain, frozen, *others = rows
        for row in others:
            rules, _, low = row["call"].partition(", ")
            cells = (
                f"{width}, {row['images']}", rules, low or "normal", f"{row['peak_mib']:.0f}",
                f"{row['peak_mib'] / plain['peak_mib']:.2f} ({row['peak_mib'] / frozen['peak_mib']:.2f})",
                f"{row['seconds'] / plain['seconds']:.2f}",
            )  # fmt: skip
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parts = {name: partial(measure, *sizes) for name, sizes in WIDTHS.items()}
    run_parts(__doc__, "zsu_fast low memory", parts, start, table, PAGE, MARKERS)
