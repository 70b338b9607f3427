"""Classes forgotten by probes synthesised from the model, beside the same edits chosen from real images.

    python -m bench.synthetic --data ../shared/data --json bench/results/synthetic.json --parts lenet5_mnist

For each net one synthesis, which serves all classes and methods. Real probes and retain images are those that a user
would have: unseen images, 36 of the class and 20 of each other. Judged is everything on other test images.
"""

from __future__ import annotations

import copy
import importlib
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import zsu_fast
from bench import machine
from bench.parts import run_parts
from zsu_fast.unlearn import SyntheticProbes, synthesise

NETS = {"lenet5_mnist": "mnist", "vit_p8_45k_cifar10": "cifar10_test", "resnet20_cifar10": "cifar10_test"}
CLASSES = (3, 8, 0, 5)
METHODS = ("lra-npp", "channels", "deep")
DEEP = (3, 8)  # classes that "deep" forgets: it trains
PROBES, RETAIN, JUDGES = 36, 20, 100  # real images of the class, of each other class; of each that judge
PAGE, MARKERS = Path("docs/probes.md"), ("<!-- synthetic: begin -->", "<!-- synthetic: end -->")
Row = dict[str, Any]
Pair = tuple[Tensor, Tensor]


def start(data: Path) -> tuple[tuple[Path], Row]:
    return (data,), {"real": {"probes": PROBES, "retain": RETAIN}, "judges": JUDGES}


def measure(name: str, data: Path) -> Iterator[Row]:
    """The synthesis, then a row of each class, method and kind of probes."""
    sys.path.insert(0, str(data))
    definitions = importlib.import_module("models")  # stands beside the weights
    net, preprocess = definitions.load(name)
    pixels, found = definitions.images(NETS[name], "test" if NETS[name] == "mnist" else None)
    y = torch.as_tensor(found)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    places = {c: order[y[order] == c] for c in range(10)}
    x = partial(_prepared, preprocess, pixels)
    judges = torch.cat([places[c][PROBES : PROBES + JUDGES] for c in range(10)])
    test = (x(judges), y[judges])
    shape = tuple(test[0].shape[1:])
    black, white = (preprocess(np.full((1, *shape[1:], shape[0]), v, np.uint8)) for v in (0, 255))
    settings = SyntheticProbes(shape, low=black.amin((0, 2, 3)).tolist(), high=white.amax((0, 2, 3)).tolist(), others=9)
    started = time.process_time()
    made = synthesise(net, CLASSES[0], settings)
    seconds = time.process_time() - started
    yield {"net": name, "seconds": seconds, "made": made.made, "before": [_accuracy(net, test, c) for c in CLASSES]}
    assert made.others is not None
    images, labels = torch.cat([made.probes, made.others[0]]), torch.cat([made.probe_labels, made.others[1]])
    for method in METHODS:
        for target in DEEP if method == "deep" else CLASSES:
            others = torch.cat([places[c][:RETAIN] for c in range(10) if c != target])
            own = labels == target
            given = {
                "synthesised": (images[own], (images[~own], labels[~own])),
                "real": (x(places[target][:PROBES]), (x(others), y[others])),
            }
            for kind, (probes, retain) in given.items():
                edited = copy.deepcopy(net)
                started = time.process_time()
                result = zsu_fast.forget(edited, target, probes, method=method, retain_probes=retain)
                row = {
                    "net": name, "target": target, "method": method, "probes": kind, "reached": result.reached,
                    "seconds": time.process_time() - started, "after": _accuracy(edited, test, target),
                }  # fmt: skip
                print(row, file=sys.stderr, flush=True)
                yield row


def _prepared(preprocess: Any, pixels: Any, where: Tensor) -> Tensor:
    images: Tensor = preprocess(pixels[where.numpy()])
    return images


def _accuracy(net: nn.Module, test: Pair, target: int) -> dict[str, float]:
    with torch.no_grad():
        right = torch.cat([net(batch).argmax(1) for batch in test[0].split(100)]) == test[1]
    own = test[1] == target
    return {"class": float(right[own].float().mean()), "others": float(right[~own].float().mean())}


def table(results: Row) -> str:
    """Markdown: what is left of each class on real images, and of the others."""
    lines = [
        f"Accuracy in % on {results['judges']} real test images of each class that had no part: of the class / of the "
        f"others. Real: {PROBES} unseen images of the class and {RETAIN} of each other; synthesised: "
        f"{SyntheticProbes.per_class} of each, {SyntheticProbes.steps} steps. {machine.in_a_line(results['machine'])}; "
        "seconds of processor time of the one synthesis of all ten classes.",
        "",
        "| net | synthesis, s | class | before | method | by synthesised probes | by real images |",
        f"|{' --- |' * 7}",
    ]
    for name, (first, *rows) in results["parts"].items():
        before = dict(zip(CLASSES, first["before"], strict=True))
        pairs = {(row["target"], row["method"]) for row in rows}
        for target, method in sorted(pairs, key=lambda pair: (CLASSES.index(pair[0]), METHODS.index(pair[1]))):
            cells = [name, f"{first['seconds']:.0f}", str(target), _shown(before[target]), method]
            for kind in ("synthesised", "real"):
                of = [r for r in rows if (r["target"], r["method"], r["probes"]) == (target, method, kind)]
                cells.append("".join(_shown(r["after"]) + ("" if r["reached"] else ", not reached") for r in of))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _shown(accuracy: dict[str, float]) -> str:
    return f"{100 * accuracy['class']:.1f} / {100 * accuracy['others']:.1f}"


if __name__ == "__main__":
    parts = {name: partial(measure, name) for name in NETS}
    run_parts(__doc__, "zsu_fast synthetic", parts, start, table, PAGE, MARKERS)
