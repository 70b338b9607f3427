"""How much memory `forget` takes by a loader and by tensors, for a thousand images and a hundred thousand.

    python -m bench.streams --json bench/results/streams.json

Each call is made in a process of its own, whose peak is what the kernel counted. The images are scikit-learn's digits,
enlarged to 3 x 32 x 32 and each with noise of its own, made batch by batch from its number; the net is trained on them
first. The edit must have the same bits by loader and by tensors, or there is no row.
"""

from __future__ import annotations

import copy
import resource
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zsu_fast
from bench import machine
from bench.isolated import isolated
from bench.parts import run_parts
from zsu_fast.model.tensors import model_digest

COUNTS = (1_000, 100_000)
SHARES = {"probes": 0.02, "retain_probes": 0.38, "evaluate_on": 0.6}
METHODS: dict[str, dict[str, Any]] = {"lra-npp": {}, "channels": {"budget": 0.1, "batch_size": 256}}
TARGET = 3
PAGE, MARKERS = Path("docs/scale.md"), ("<!-- streams: begin -->", "<!-- streams: end -->")
Row = dict[str, Any]


class Digits:
    """A loader of `count` digits of some classes, in batches of `size`; images are made as they are read."""

    def __init__(self, count: int, classes: list[int], seed: int, size: int = 250, labelled: bool = True) -> None:
        from sklearn.datasets import load_digits  # of the optional packages, and the table needs none

        x, y = load_digits(return_X_y=True)
        own = torch.isin(torch.tensor(y), torch.tensor(classes))
        self.x = torch.tensor(x, dtype=torch.float32).view(-1, 1, 8, 8)[own] / 16
        self.y, self.count, self.seed, self.size, self.labelled = torch.tensor(y)[own], count, seed, size, labelled

    def __iter__(self) -> Iterator[Any]:
        for start in range(0, self.count, self.size):
            which = torch.arange(start, min(start + self.size, self.count)) % len(self.x)
            noise = torch.randn(len(which), 3, 32, 32, generator=torch.Generator().manual_seed(self.seed + start))
            images = F.interpolate(self.x[which], scale_factor=4).expand(-1, 3, -1, -1) + 0.1 * noise
            yield (images, self.y[which]) if self.labelled else images

    def tensors(self) -> Any:
        batches = list(self)
        return tuple(map(torch.cat, zip(*batches, strict=True))) if self.labelled else torch.cat(batches)


def net_for(images: Tensor, labels: Tensor) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 16, 4, 4), nn.ReLU(), nn.Conv2d(16, 32, 3, 2), nn.ReLU(), nn.Flatten(), nn.Linear(288, 64),
        nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(8):
        for batch, truth in zip(images.split(64), labels.split(64), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(net(batch), truth).backward()
            optimizer.step()
    return net.eval()


def start(_: Path) -> tuple[tuple[nn.Module], Row]:
    net = net_for(*Digits(1797, list(range(10)), seed=1).tensors())
    return (net,), {"image": [3, 32, 32]}


def measure(method: str, net: nn.Module) -> Iterator[Row]:
    """A row for each number of images."""
    for count in COUNTS:
        row: Row = {"images": count}
        for kind in ("loader", "tensors"):
            found, wrong = isolated(partial(_forget, net, method, count, kind), 3600)
            if wrong is not None:
                raise RuntimeError(wrong)
            row[kind] = found
        if row["loader"]["model"] != row["tensors"]["model"] or not row["loader"]["edited"]:
            raise RuntimeError(f"{method}, {count} images: not the same edit by loader and by tensors: {row}")
        print(method, row, file=sys.stderr, flush=True)
        yield row


def _forget(net: nn.Module, method: str, count: int, kind: str) -> Row:
    others = [c for c in range(10) if c != TARGET]
    classes = {"probes": [TARGET], "retain_probes": others, "evaluate_on": list(range(10))}
    given: Row = {
        name: Digits(round(share * count), classes[name], seed, labelled=name != "probes")
        for seed, (name, share) in zip((10**6, 10**7, 10**8), SHARES.items(), strict=True)
    }
    begun = time.process_time()
    if kind == "tensors":
        given = {name: loader.tensors() for name, loader in given.items()}
    edited = copy.deepcopy(net)
    result = zsu_fast.forget(edited, TARGET, method=method, **METHODS[method], **given)
    return {
        "edited": len(result.patch.entries), "model": model_digest(edited), "verdict": result.verdict.level,
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "seconds": time.process_time() - begun,
    }  # fmt: skip


def table(results: Row) -> str:
    """Markdown: the peak of each process, and its seconds."""
    first, last = COUNTS
    lines = [
        f"Peak of the whole process in MiB, and seconds of processor time, of `forget` with {first:,} and {last:,} "
        f"images in all (probes, retain probes and evaluate_on; 3 x 32 x 32, made as they are read); the edited models "
        f"are equal bit for bit. {machine.in_a_line(results['machine'])}.",
        "",
        f"| method | images from | {first:,} images | {last:,} images | more | seconds |",
        f"|{' --- |' * 6}",
    ]
    for method, (small, large) in results["parts"].items():
        for kind in ("loader", "tensors"):
            low, high = small[kind]["peak_mib"], large[kind]["peak_mib"]
            cells = (method, kind, f"{low:.0f}", f"{high:.0f}", f"{high - low:.0f}", f"{large[kind]['seconds']:.0f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    run_parts(__doc__, "zsu_fast streams", {m: partial(measure, m) for m in METHODS}, start, table, PAGE, MARKERS)
