"""Single images forgotten by ResNet-20 (CIFAR-10): L2UL beside our method, and which weights should be free to change.

    python -m bench.instances --data ../shared/data --json bench/results/instances.json

The images are training images of the net. Of the test images some give the losses for the goal "unseen"; others judge
the damage and stand against the instances in the attack on membership. Seconds are those of the processor, which other
work on the machine does not lengthen. `--parts` renews some parts of the file.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zsu_fast
from bench import machine
from bench.instance_masks import SCORES, masked
from bench.report import insert_table
from zsu_fast.evaluate import evaluate, membership
from zsu_fast.unlearn import ForgetInstances

NET = "resnet20_cifar10"
L2UL = {"authors_compat": True, "pixel_mean": (0.485, 0.456, 0.406), "pixel_std": (0.229, 0.224, 0.225), "passes": 150}
UNSEEN, TEST = 1000, 2000  # images of the test set, apart
PAGE, BEGIN, END = Path("docs/instances.md"), "<!-- instances: begin -->", "<!-- instances: end -->"
Row = dict[str, Any]
Pair = tuple[Tensor, Tensor]


class Bench:
    """The net, its training images, and unseen ones in two parts."""

    def __init__(self, data: Path) -> None:
        sys.path.insert(0, str(data))
        definitions = importlib.import_module("models")  # stands beside the weights
        self.net, preprocess = definitions.load(NET)

        def pair(name: str) -> Pair:
            pixels, labels = definitions.images(name)
            return preprocess(pixels), torch.as_tensor(labels).long()

        self.members, (x, y) = pair("cifar10_train_subset"), pair("cifar10_test")
        self.unseen, self.test = (x[:UNSEEN], y[:UNSEEN]), (x[-TEST:], y[-TEST:])

    def drawn(self, count: int, seed: int) -> Pair:
        """Training images."""
        x, y = self.members
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
        return x[chosen], y[chosen]

    def accuracy(self, net: nn.Module) -> float:
        return evaluate(net, *self.test, 0, batch_size=64).accuracy or 0.0

    def auc(self, net: nn.Module, instances: Pair) -> float:
        """Of the attack that takes the images with smaller losses for training images."""
        return membership(net, instances, self.test, batch_size=64).loss_auc

    def forget(self, net: nn.Module, request: ForgetInstances, method: str, seed: int, **options: Any) -> Row:
        """One call on `net`; whatever it costs the other images, the edit stays."""
        steps: list[str] = []
        started = time.process_time()
        result = zsu_fast.forget(
            net, request, method=method, seed=seed,
            progress=lambda done, total, text: steps.append(text), **options,
        )  # fmt: skip
        seconds = time.process_time() - started
        row = {
            "method": method, "goal": request.goal, "count": len(request.x), "seed": seed,
            "level": result.verdict.level, "seconds": seconds, "steps": sum("loss" in text for text in steps),
            "before": result.before["forget_accuracy"], "after": result.after["forget_accuracy"],
            "test": self.accuracy(net),
        }  # fmt: skip
        print(row, file=sys.stderr, flush=True)
        return row


def masks(bench: Bench) -> Iterator[Row]:
    """What may change: all weights, or as many chosen in four ways."""
    for seed in (0, 1):
        request = ForgetInstances(*bench.drawn(16, seed))
        for share, by in [(1.0, "random")] + [(share, by) for share in (0.3, 0.05) for by in SCORES]:
            net, steps = masked(bench.net, request, seed, SCORES[by], share)
            with torch.no_grad():
                left = int((net(request.x).argmax(1) == request.y).sum())
            row = {"by": by, "share": share, "seed": seed, "steps": steps, "left": left, "test": bench.accuracy(net)}
            print(row, file=sys.stderr, flush=True)
            yield row


def ours(bench: Bench) -> Iterator[Row]:
    for count, seeds in ((16, 3), (64, 3)):
        for seed in range(seeds):
            request = ForgetInstances(*bench.drawn(count, seed))
            yield bench.forget(copy.deepcopy(bench.net), request, "margin", seed)


def retained(bench: Bench) -> Iterator[Row]:
    """With unseen images to hold on to, which L2UL does without."""
    for seed in range(2):
        request = ForgetInstances(*bench.drawn(64, seed))
        yield bench.forget(
            copy.deepcopy(bench.net), request, "margin", seed, retain_probes=bench.unseen, utility_floor=0.0
        )


def l2ul(bench: Bench) -> Iterator[Row]:
    for seed in range(2):
        request = ForgetInstances(*bench.drawn(16, seed))
        yield bench.forget(copy.deepcopy(bench.net), request, "l2ul", seed, **L2UL)


def unseen(bench: Bench) -> Iterator[Row]:
    """How well the instances can be told from unseen images, before and after, by goal."""
    for seed in range(3):
        instances = bench.drawn(64, seed)
        before = bench.auc(bench.net, instances)
        for goal, given in (("unseen", bench.unseen), ("misclassify", None)):
            net = copy.deepcopy(bench.net)
            found = bench.forget(net, ForgetInstances(*instances, goal, unseen=given), "margin", seed)
            yield found | {"auc": {"before": before, "after": bench.auc(net, instances)}}


def row(bench: Bench) -> Iterator[Row]:
    """Four requests of 16 one after another, each with the images of those before it."""
    x, y = bench.drawn(64, 0)
    net = copy.deepcopy(bench.net)
    for last in (16, 32, 48, 64):
        found = bench.forget(net, ForgetInstances(x[:last], y[:last]), "margin", 0)
        with torch.no_grad():
            yield found | {"left": int((net(x[:last]).argmax(1) == y[:last]).sum())}


PARTS = {"masks": masks, "ours": ours, "l2ul": l2ul, "unseen": unseen, "row": row, "retained": retained}


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    raise NotImplementedError


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--json", type=Path, required=True, help="write the results here")
    parser.add_argument("--parts", default=",".join(PARTS), help="of the measurement; others stay in the file")
    parser.add_argument("--table", action="store_true", help="renew docs/instances.md from the file, and nothing else")
    arguments = parser.parse_args()
    path = arguments.json
    if arguments.table:
        PAGE.write_text(insert_table(PAGE.read_text(), table(json.loads(path.read_text())), BEGIN, END))
        return
    torch.set_num_threads(1)
    bench = Bench(arguments.data)
    results: dict[str, Any] = (
        json.loads(path.read_text()) if path.exists() else {"kind": "zsu_fast instances", "parts": {}}
    )
    results |= {"machine": machine.describe(torch.device("cpu")), "original": bench.accuracy(bench.net)}
    for part in arguments.parts.split(","):
        rows: list[Row] = []
        for found in PARTS[part](bench):
            rows.append(found)
            results["parts"][part] = rows
            path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
