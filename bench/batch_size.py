"""What `batch_size="auto"` costs a call of `forget`, beside the same call with the size that it finds.

    python -m bench.batch_size --json bench/results/batch_size.json

Processor seconds of both, in turn; the ratio is the median of pairs. The edited models must have the same bits.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import zsu_fast
from bench import machine, oracles
from bench.parts import run_parts
from zsu_fast.model.tensors import model_digest

NETS = {"lenet5_mnist": "mnist", "resnet20_cifar10": "cifar10_test", "vit_mnist": "mnist"}
METHODS = ("lra-npp", "channels")
TARGET, PROBES, RETAIN, PAIRS = 3, 36, 180, 9
PAGE, MARKERS = Path("docs/scale.md"), ("<!-- batch size: begin -->", "<!-- batch size: end -->")
Row = dict[str, Any]


def start(data: Path) -> tuple[tuple[Any], Row]:
    return (oracles.definitions(data),), {"probes": PROBES, "retain_probes": RETAIN, "pairs": PAIRS}


def measure(name: str, known: Any) -> Iterator[Row]:
    """A row for each method."""
    net, preprocess = known.load(name)
    pixels, labels = known.images(NETS[name], *(["test"] if NETS[name] == "mnist" else []))
    images, truth = preprocess(pixels[:2000]), torch.as_tensor(labels[:2000])
    own = truth == TARGET
    probes, retain = images[own][:PROBES], (images[~own][:RETAIN], truth[~own][:RETAIN])

    def seconds(method: str, size: int | str) -> tuple[float, str, int]:
        model = copy.deepcopy(net)
        given = None if method == "lra-npp" else retain
        begun = time.process_time()
        result = zsu_fast.forget(model, TARGET, probes, method=method, retain_probes=given, batch_size=size)
        return time.process_time() - begun, model_digest(model), result.record["request"]["batch_size"]

    for method in METHODS:
        _, bits, size = seconds(method, "auto")
        pairs = [(seconds(method, "auto"), seconds(method, size)) for _ in range(PAIRS)]
        if any(call[1] != bits for pair in pairs for call in pair):
            raise RuntimeError(f"{name}, {method}: not the same edit with the size that was found")
        ratios = sorted(auto[0] / given[0] for auto, given in pairs)
        low, _, high = statistics.quantiles(ratios, n=4)
        yield {
            "method": method, "size": size, "seconds": min(given[0] for _, given in pairs),
            "ratio": statistics.median(ratios), "quartiles": [low, high],
        }  # fmt: skip


def table(results: Row) -> str:
    """Markdown: a line for each net and method."""
    lines = [
        f'`forget` with `batch_size="auto"` ({results["probes"]} probes, {results["retain_probes"]} retain probes for '
        '"channels") in units of the same call with the size that it found, processor time, medians of '
        f"{results['pairs']} pairs with their quartiles. {machine.in_a_line(results['machine'])}.",
        "",
        "| net | method | size | seconds with it | auto |",
        f"|{' --- |' * 5}",
    ]
    for name, rows in results["parts"].items():
        for row in rows:
            low, high = row["quartiles"]
            lines.append(
                f"| {name} | {row['method']} | {row['size']} | {row['seconds']:.2g} | {row['ratio']:.2f} "
                f"[{low:.2f}, {high:.2f}] |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    run_parts(
        __doc__, "zsu_fast batch size", {name: partial(measure, name) for name in NETS}, start, table, PAGE, MARKERS
    )
