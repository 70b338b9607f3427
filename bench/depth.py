"""How deep methods forget: attacks on nets of which some forgot a class, beside nets retrained without it.

    python -m bench.depth --data ../shared/data --json bench/results/depth.json --sets resnet20_pair lenet5_mnist

Sets: the ResNet-20 pair of the data folder (class 3, and others of which `bench.oracles` trained an oracle by the same
recipe), and nets that `bench.oracles` trains (or finds in its cache), all ten classes. Of the unseen test images some
are the attacker's lessons, others judge; the few images that a method gets (36 of the class, 20 of each other) are
among the lessons. Methods with "training images" get all that the net learned from instead, with the settings of their
papers. What stands in the file already is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import zsu_fast
from bench import cifar, oracles
from bench.report import insert_table
from bench.results_file import Rows
from zsu_fast.evaluate import Attacked, Attacker, Depth, compare
from zsu_fast.unlearn.methods import BASELINES

PAIR = "resnet20_pair"
METHODS: dict[str, dict[str, Any]] = {
    "lra-npp": {},
    "channels": {"scope": "global", "score": "contrastive", "until": 0.3},
    "deep": {},
    "scrub": {"epochs": 20},
    "ssd": {},
    "scrub, training images": {},
    "ssd, training images": {},
}
PROBES, RETAIN = 36, 20
LESSONS, TEST = 2000, 2500  # unseen images of all classes, apart
SHOWN = {
    "answers": "answers",
    "linear probe": "linear probe",
    "prototype row, 36 images": "prototype row",
    "10 neighbours": "10 neighbours",
    "relearning, 32 steps": "relearned",
}
PAGE, BEGIN, END = Path("docs/forgetting.md"), "<!-- depth: begin -->", "<!-- depth: end -->"


@dataclass(frozen=True)
class Case:
    """A net, one retrained without the class, images [N, ...] that neither saw, labelled, and those it learned from."""

    target: int
    original: nn.Module
    oracle: nn.Module
    lessons: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    training: Callable[[], tuple[Tensor, Tensor]]


def cases(name: str, known: Any, cache: Path, classes: Sequence[int] = range(10)) -> Iterator[Case]:
    if name == PAIR:
        pixels, labels = known.images("cifar10_test")
        original, preprocess = known.load("resnet20_pair_all_cifar10")
        parts = _parts(preprocess(pixels), torch.as_tensor(labels))

        def training() -> tuple[Tensor, Tensor]:
            images, labels = (some[: oracles.SEEN] for some in cifar.training_set(cache))
            return preprocess(images), torch.as_tensor(labels)

        for target in classes:
            if (oracle := _of_the_pair(target, known, cache)) is not None:
                yield Case(target, original, oracle, *parts, training)
        return
    data = oracles.data_of(oracles.MODELS[name], known, cache)
    parts = _parts(data.test_images, data.test_labels)

    def model(target: int | None) -> nn.Module:
        return oracles.trained(name, target, known, data, cache, lambda text: print(text, file=sys.stderr)).eval()

    for target in classes:
        if name != "resnet20_cifar10" or oracles.file_of(name, target, cache).exists():
            yield Case(target, model(None), model(target), *parts, lambda: (data.images, data.labels))


def _of_the_pair(target: int, known: Any, cache: Path) -> nn.Module | None:
    """The pair's own for class 3, else one trained by its recipe, where `bench.oracles` left one."""
    if target == 3:
        return known.load("resnet20_pair_without_cat_cifar10")[0]
    path = oracles.file_of("resnet20_cifar10", target, cache)
    if not path.exists():
        return None
    net = known.MODELS["resnet20_cifar10"][0]()
    net.load_state_dict(load_file(path))
    return net.eval()


def _parts(images: Tensor, labels: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    return (images[:LESSONS], labels[:LESSONS]), (images[-TEST:], labels[-TEST:])


def few(labels: Tensor, target: int) -> Tensor:
    """Indices of 36 images of the class and 20 of each other, drawn."""
    generator = torch.Generator().manual_seed(0)
    chosen = []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero()[:, 0]
        chosen.append(own[torch.randperm(len(own), generator=generator)[: PROBES if label == target else RETAIN]])
    return torch.cat(chosen)


class Attacks:
    """On the nets of a case: on its original and its oracle once, when they are first asked for."""

    def __init__(self, case: Case, relearn_steps: int) -> None:
        self._case, self._steps = case, relearn_steps

    @cached_property
    def _beside(self) -> tuple[Attacker, Attacked, Attacked]:
        case = self._case
        attacker = Attacker(case.lessons, case.test, case.target, relearn_steps=self._steps)
        return attacker, attacker.attack(case.original), attacker.attack(case.oracle)

    def on(self, edited: nn.Module) -> Depth:
        attacker, original, oracle = self._beside
        return compare(attacker.attack(edited), original, oracle)


def measure(
    case: Case, name: str, options: dict[str, Any], few_images: tuple[Tensor, Tensor], attacks: Attacks
) -> dict[str, Any]:
    """One row, of a method of METHODS: it gets `few_images`, or where its name says so all training images."""
    method, _, from_training = name.partition(", ")
    images, labels = case.training() if from_training else few_images
    own = labels == case.target
    edited = copy.deepcopy(case.original)
    arguments: dict[str, Any] = {"method": method, "evaluate_on": case.test, **options}
    if method != "lra-npp":
        arguments["retain_probes"] = images[~own], labels[~own]
    if method in BASELINES:
        arguments["budget"] = 1  # whatever comes out is measured
    start = time.process_time()
    result = zsu_fast.forget(edited, case.target, images[own], **arguments)
    seconds = time.process_time() - start
    found = attacks.on(edited).to_dict()
    return {"verdict": result.verdict.to_dict(), "cpu_seconds": round(seconds, 1), "depth": found}


def table(results: dict[str, Any]) -> str:
    """Markdown: for each set and method the mean over its classes of every attack."""
    lines = [
        "% of unseen images of the class that the attack has back (of the other classes, it or the model gets right), "
        "means over the classes; in brackets the share of the way from the original to the retrained net. Methods get "
        "36 images of the class and 20 of each other that the net never saw, but for those with all its training "
        "images. "
        "Holds: for how many classes prototype rows, linear probe and relearning have back no more than from the "
        "retrained net (95 % upper bound), and the others lose at most two points. Relearned: after 32 mini-batches, "
        "by the strongest of several ways.",
        "",
        f"| net | method | classes | {' | '.join(SHOWN.values())} | CPU s | holds |",
        f"| --- | --- | --- | {' | '.join('---' for _ in SHOWN)} | --- | --- |",
    ]
    for name in dict.fromkeys(row["set"] for row in results["rows"]):
        of_set = [row for row in results["rows"] if row["set"] == name]
        for who in ("original", "oracle"):
            cells = [_cell(_once(of_set), attack, who) for attack in SHOWN]
            label = "original" if who == "original" else "retrained without it"
            lines.append(f"| {name} | *{label}* | {len(_once(of_set))} | {' | '.join(cells)} | | |")
        for method in dict.fromkeys(row["method"] for row in of_set):
            rows = [row for row in of_set if row["method"] == method]
            cells = [_cell(rows, attack, "edited") for attack in SHOWN]
            seconds = sum(row["cpu_seconds"] for row in rows) / len(rows)
            holds = f"{sum(bool(row['depth']['holds']) for row in rows)} of {len(rows)}"
            lines.append(f"| {name} | {method} | {len(rows)} | {' | '.join(cells)} | {seconds:.0f} | {holds} |")
    return "\n".join(lines)


def _once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each class."""
    return list({row["class"]: row for row in rows}.values())


def _cell(rows: list[dict[str, Any]], attack: str, who: str) -> str:
    of = [row["depth"]["attacks"][attack] for row in rows]
    forget, retain, original, oracle = (
        sum(a[part][model] for a in of) / len(of)
        for part, model in (("forget", who), ("retain", who), ("forget", "original"), ("forget", "oracle"))
    )
    share = f" [{(original - forget) / (original - oracle):.2f}]" if who == "edited" and oracle < original else ""
    return f"{100 * forget:.1f} ({100 * retain:.1f}){share}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--cache", type=Path, default=oracles.CACHE, help="folder of bench.oracles (%(default)s)")
    parser.add_argument("--sets", nargs="+", choices=[PAIR, *oracles.MODELS], default=[PAIR])
    parser.add_argument("--classes", nargs="+", type=int, default=list(range(10)), help="only these")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--relearn-steps", type=int, default=32, help="0: no relearning, and none holds (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the results here, after every row; go on from what is there")
    parser.add_argument("--table", type=Path, help="renew docs/forgetting.md from such a file, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(insert_table(PAGE.read_text(), table(json.loads(arguments.table.read_text())), BEGIN, END))
        return
    warnings.filterwarnings("ignore", category=UserWarning)  # probes that stop at their limit of epochs
    rows = Rows("zsu_fast depth", arguments.json)
    known = oracles.definitions(arguments.data)
    for name in arguments.sets:
        for case in cases(name, known, arguments.cache, arguments.classes):
            some = few(case.lessons[1], case.target)
            given = case.lessons[0][some], case.lessons[1][some]
            attacks = Attacks(case, arguments.relearn_steps)
            for method in arguments.methods:
                row = {"set": name, "class": case.target, "method": method}
                if not rows.holds(row):
                    rows.add(row, measure(case, method, METHODS[method], given, attacks))
    print(table(rows.content))


if __name__ == "__main__":
    main()
