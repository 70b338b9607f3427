"""Single images forgotten by ResNet-20 (CIFAR-10): L2UL beside our method, and which weights should be free to change.

    python -m bench.instances --data ../shared/data --json bench/results/instances.json

The images are training images of the net. Of the test images some give the losses for the goal "unseen"; others judge
the damage and stand against the instances in the attack on membership. Seconds are those of the processor, which other
work on the machine does not lengthen. `--parts` renews some parts of the file.
"""

from __future__ import annotations

import copy
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zsu_fast
from bench.instance_masks import SCORES, masked
from bench.parts import measured_on, run_parts
from zsu_fast.evaluate import evaluate, membership
from zsu_fast.unlearn import ForgetInstances

NET = "resnet20_cifar10"
L2UL: dict[str, Any] = {
    "authors_compat": True,
    "pixel_mean": (0.485, 0.456, 0.406),
    "pixel_std": (0.229, 0.224, 0.225),
    "passes": 150,
}
GROWTH = 0.005  # where 64 instances are to go or a goal costs little: fewer steps
UNSEEN, TEST = 1000, 2000  # images of the test set, apart
PAGE, BEGIN, END = Path("docs/instances.md"), "<!-- instances: begin -->", "<!-- instances: end -->"
Row = dict[str, Any]
Pair = tuple[Tensor, Tensor]


class Bench:
    """A net, its training images, and unseen ones in two parts."""

    def __init__(self, data: Path, name: str = NET) -> None:
        self.data = data
        sys.path.insert(0, str(data))
        definitions = importlib.import_module("models")  # stands beside the weights
        self.net, preprocess = definitions.load(name)

        def pair(*name: str) -> Pair:
            pixels, labels = definitions.images(*name)
            return preprocess(pixels), torch.as_tensor(labels).long()

        if name.endswith("mnist"):
            self.members, (x, y) = pair("mnist", "train"), pair("mnist", "test")
        else:
            self.members, (x, y) = pair("cifar10_train_subset"), pair("cifar10_test")
        self.unseen, self.test = (x[:UNSEEN], y[:UNSEEN]), (x[-TEST:], y[-TEST:])

    def drawn(self, count: int, seed: int) -> Pair:
        """Training images."""
        x, y = self.members
        chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
        return x[chosen], y[chosen]

    def accuracy(self, net: nn.Module) -> float:
        return evaluate(net, *self.test, 0, batch_size=64).accuracy or 0.0

    def told(self, net: nn.Module, instances: Pair) -> dict[str, float]:
        """Area under the curve of the attack that takes the images with smaller losses for training images."""
        nets = {"before": self.net, "after": net}
        return {when: membership(some, instances, self.test, batch_size=64).loss_auc for when, some in nets.items()}

    def forget(
        self, net: nn.Module, request: ForgetInstances, method: str, seed: int, what: str = "", **options: Any
    ) -> Row:
        """One call on `net`; the edit stays, whatever it reached and cost. what: the row's name."""
        steps: list[str] = []
        started = time.process_time()
        result = zsu_fast.forget(
            net, request, method=method, seed=seed, budget=1,
            progress=lambda done, total, text: steps.append(text), **options,
        )  # fmt: skip
        seconds = time.process_time() - started
        row = {
            "what": what or f"`{method}`",
            "goal": request.goal, "count": len(request.x), "seed": seed,
            "level": result.verdict.level, "seconds": seconds, "steps": sum("loss" in text for text in steps),
            "before": result.before["forget_accuracy"], "after": result.after["forget_accuracy"],
            "test": self.accuracy(net),
        }  # fmt: skip
        print(row, file=sys.stderr, flush=True)
        return row


def masks(bench: Bench) -> Iterator[Row]:
    """What may change: all weights, or as many chosen in four ways."""
    for seed in range(5):
        request = ForgetInstances(*bench.drawn(16, seed))
        for share, by in [(1.0, "random")] + [(share, by) for share in (0.3, 0.05) for by in SCORES]:
            net, steps = masked(bench.net, request, seed, SCORES[by], share)
            with torch.no_grad():
                left = int((net(request.x).argmax(1) == request.y).sum())
            row = {"by": by, "share": share, "seed": seed, "steps": steps, "left": left, "test": bench.accuracy(net)}
            print(row, file=sys.stderr, flush=True)
            yield row


def ours(bench: Bench) -> Iterator[Row]:
    """With 64, also how well the instances can be told from unseen images."""
    for count, seeds in ((16, 3), (64, 1)):
        for seed in range(seeds):
            net, chosen = copy.deepcopy(bench.net), bench.drawn(count, seed)
            found = bench.forget(net, ForgetInstances(*chosen), "margin", seed)
            yield found | ({"auc": bench.told(net, chosen)} if count == 64 else {})


def unseen(bench: Bench) -> Iterator[Row]:
    for seed in range(3):
        net, chosen = copy.deepcopy(bench.net), bench.drawn(64, seed)
        request = ForgetInstances(*chosen, "unseen", unseen=bench.unseen)
        found = bench.forget(net, request, "margin", seed, growth=GROWTH)
        yield found | {"auc": bench.told(net, chosen)}


def nets(bench: Bench, cases: tuple[tuple[str, int, int], ...]) -> Iterator[Row]:
    """Other nets, and more instances at once; both goals. cases: net, instances, seeds."""
    for name, count, seeds in cases:
        other = bench if name == NET else Bench(bench.data, name)
        accuracy = other.accuracy(other.net)
        for goal in ("misclassify", "unseen"):
            for seed in range(seeds):
                net, chosen = copy.deepcopy(other.net), other.drawn(count, seed)
                given: dict[str, Any] = {"unseen": other.unseen} if goal == "unseen" else {}
                growth: dict[str, Any] = {"growth": GROWTH} if count > 16 or goal == "unseen" else {}
                found = other.forget(net, ForgetInstances(*chosen, goal, **given), "margin", seed, **growth)
                yield found | {"net": name, "original": accuracy, "auc": other.told(net, chosen)}


NETS = {
    "nets": ((NET, 128, 1), ("resnet56_45k_cifar10", 16, 2)),
    "vit": (("vit_p8_45k_cifar10", 16, 5),),
    "mnist": (("lenet5_mnist", 16, 2),),
}


def retained(bench: Bench) -> Iterator[Row]:
    """With unseen images to hold on to, which L2UL does without."""
    request = ForgetInstances(*bench.drawn(64, 0))
    yield bench.forget(
        copy.deepcopy(bench.net), request, "margin", 0, "`margin`, 1,000 retain images", retain_probes=bench.unseen
    )


def l2ul(bench: Bench, rate: float = 1e-3) -> Iterator[Row]:
    """At the rate of the authors' script, which is slow, and (`l2ul10`) at that of their program's default."""
    request = ForgetInstances(*bench.drawn(16, 0))
    yield bench.forget(
        copy.deepcopy(bench.net), request, "l2ul", 0, f"`l2ul`, rate {rate:g}", learning_rate=rate, **L2UL
    )


def l2ul10(bench: Bench) -> Iterator[Row]:
    yield from l2ul(bench, 1e-2)


def row(bench: Bench) -> Iterator[Row]:
    """Four requests of 16 one after another, each with the images of those before it."""
    x, y = bench.drawn(64, 0)
    net = copy.deepcopy(bench.net)
    for last in (16, 32, 48, 64):
        found = bench.forget(net, ForgetInstances(x[:last], y[:last]), "margin", 0, growth=GROWTH)
        with torch.no_grad():
            yield found | {"left": int((net(x[:last]).argmax(1) == y[:last]).sum())}


PARTS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "ours": ours, **{part: partial(nets, cases=cases) for part, cases in NETS.items()}, "retained": retained,
    "l2ul": l2ul, "l2ul10": l2ul10, "unseen": unseen, "row": row, "masks": masks,
}  # fmt: skip


def grouped(rows: list[Row], *keys: str) -> list[tuple[list[str], list[Row]]]:
    """The rows with the same values of these keys, in their order."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for some in rows:
        found.setdefault(tuple(str(some[key]) for key in keys), []).append(some)
    return [(list(values), some) for values, some in found.items()]


def each(rows: list[Row], form: str, key: str) -> str:
    """One value for each seed."""
    return ", ".join(form.format(some[key]) for some in rows)


def section(title: str, columns: list[str], lines: list[list[str]]) -> list[str]:
    """A table, if there is anything to show."""
    if not lines:
        return []
    head = ["", title, "", f"| {' | '.join(columns)} |", f"|{' --- |' * len(columns)}"]
    return head + [f"| {' | '.join(cells)} |" for cells in lines]


def table(results: dict[str, Any]) -> str:
    """Markdown: a table for each part that was measured."""
    parts: dict[str, list[Row]] = {part: results["parts"].get(part, []) for part in PARTS}
    rows = [found for part in ("ours", "retained", "l2ul", "l2ul10") for found in parts[part]]
    told = parts["unseen"] + [found for found in parts["ours"] if "auc" in found]
    test = "accuracy on the test images"
    lines = [
        f"ResNet-20, CIFAR-10, training images; {TEST} test images, of which the net as it was gets "
        f"{results['original']:.4f} right. One value for each seed. {measured_on(results)}; seconds "
        f"of processor time. L2UL is variant adv+imp as its authors have it, 20 examples of each instance by 100 steps "
        f"of PGD, but at most {L2UL['passes']} passes of their 1,000."
    ]
    lines += section(
        "Another answer for every instance:",
        ["method", "instances", "left of them", test, "steps", "seconds"],
        [
            [name, count, each(some, "{:.0%}", "after"), each(some, "{:.4f}", "test"), each(some, "{}", "steps"),
             each(some, "{:.0f}", "seconds")]
            for (name, count), some in grouped(rows, "what", "count")
        ],
    )  # fmt: skip
    lines += section(
        "The attack on membership, area under the curve (0.5: the instances cannot be told from test images by their "
        "losses; less: they stand out by larger ones), 64 instances:",
        ["goal", "before", "after", "left of them", test],
        [
            [goal, *(", ".join(f"{found['auc'][when]:.3f}" for found in some) for when in ("before", "after")),
             each(some, "{:.0%}", "after"), each(some, "{:.4f}", "test")]
            for (goal,), some in grouped(told, "goal")
        ],
    )  # fmt: skip
    lines += section(
        "Other nets, and more instances at once (`margin`):",
        ["net", "goal", "instances", "left of them", "membership before", "after", "accuracy before", "after", "steps",
         "seconds"],
        [
            [name, goal, count, each(some, "{:.0%}", "after"),
             *(", ".join(f"{found['auc'][when]:.3f}" for found in some) for when in ("before", "after")),
             f"{some[0]['original']:.4f}", each(some, "{:.4f}", "test"), each(some, "{}", "steps"),
             each(some, "{:.0f}", "seconds")]
            for (name, goal, count), some in grouped([r for part in NETS for r in parts[part]], "net", "goal", "count")
        ],
    )  # fmt: skip
    lines += section(
        "Requests of 16 in a row, each with the images of those before it (`margin`):",
        ["instances so far", "of them with their old answer", test],
        [[str(found["count"]), str(found["left"]), f"{found['test']:.4f}"] for found in parts["row"]],
    )
    lines += section(
        "Only a share of the weights free to change, chosen in four ways, with the same loss, rate, anchors and draws; "
        "16 instances:",
        ["free", "chosen by", "left of them", test, "steps"],
        [
            [f"{float(share):.0%}", "" if share == "1.0" else by, each(some, "{}", "left"),
             each(some, "{:.4f}", "test"), each(some, "{}", "steps")]
            for (share, by), some in grouped(parts["masks"], "share", "by")
        ],
    )  # fmt: skip
    return "\n".join(lines)


def main() -> None:
    def start(data: Path) -> tuple[tuple[Bench], dict[str, Any]]:
        bench = Bench(data)
        return (bench,), {"original": bench.accuracy(bench.net)}

    run_parts(__doc__, "zsu_fast instances", PARTS, start, table, PAGE, (BEGIN, END))


if __name__ == "__main__":
    main()
