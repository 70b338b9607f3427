"""Classes forgotten by poisoning: the classifier tuned on kept features, beside a loop that runs the net every epoch.

    python -m bench.poisoning --data ../shared/data --json bench/results/poisoning.json --nets resnet20_cifar10

Learned from are the 5,500 training images of the data folder, judged are all 10,000 test images. The loop is that of
arXiv 2405.15662 re-expressed: the layers before the classifier frozen, but run on every mini-batch of every epoch. It
is measured for `LOOP` epochs, taken times `epochs / LOOP`, and must first give the classifier that kept features give.
Seconds are those of the processor, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zsu_fast
from bench import machine
from bench.report import insert_table
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn import ForgetClass
from zsu_fast.unlearn.methods.poison import PoisonOptions
from zsu_fast.unlearn.methods.poison.head import Rates, tuned
from zsu_fast.unlearn.structure import Head
from zsu_fast.unlearn.watch import classifier_inputs, trace_structure

NETS = ("resnet20_cifar10", "lenet_cifar10")
LOOP = 2
BATCH = 64
JUDGES = 100  # test images of the class that have the last word inside of the call
FORMS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "one label": {"labels": "targeted"},
    "one label and patch": {"labels": "targeted", "patch": "relevance"},
}
"""The default, the labels of the source, and its patches too, with the ablation."""
PAGE, BEGIN, END = Path("docs/concepts.md"), "<!-- poisoning: begin -->", "<!-- poisoning: end -->"
Row = dict[str, Any]


class Bench:
    """A net, the training images that it learned from, and the features of training and test images."""

    def __init__(self, data: Path, name: str) -> None:
        sys.path.insert(0, str(data))
        definitions = importlib.import_module("models")  # stands beside the weights
        self.name = name
        self.net, preprocess = definitions.load(name)
        pairs = [definitions.images(split) for split in ("cifar10_train_subset", "cifar10_test")]
        (self.x, self.y), (self.test_x, self.test_y) = [
            (preprocess(pixels), torch.as_tensor(labels).long()) for pixels, labels in pairs
        ]
        head = trace_structure(self.net, self.x[:1]).head
        assert isinstance(head, Head)
        self.head = head
        weight = Tensors(self.net).held(head.weight)
        self.train = classifier_inputs(self.net, weight, self.x.split(BATCH))[0]
        self.test = classifier_inputs(self.net, weight, self.test_x.split(BATCH))[0]

    def classifier(self, net: nn.Module) -> tuple[Tensor, Tensor | None]:
        tensors = Tensors(net)
        return tensors[self.head.weight], None if self.head.bias is None else tensors[self.head.bias]

    def accuracy(self, net: nn.Module, target: int) -> dict[str, float]:
        """Of the class and of the others, on the training and on the test images, from their features."""
        found: dict[str, float] = {}
        for split, features, labels in (("train", self.train, self.y), ("test", self.test, self.test_y)):
            right = F.linear(features, *self.classifier(net)).argmax(1) == labels
            own = labels == target
            found |= {split: float(right[own].float().mean()), f"{split}_others": float(right[~own].float().mean())}
        return found

    def forget(self, target: int, form: str) -> Row:
        """One call, as a user makes it."""
        options: dict[str, Any] = FORMS[form] | {"ablation": "patch" in FORMS[form]}
        net, own = copy.deepcopy(self.net), self.y == target
        judges = (self.test_y == target).nonzero()[:JUDGES, 0]
        started = time.process_time()
        result = zsu_fast.forget(
            net, ForgetClass(target, self.x[own]), method="poison", retain_probes=(self.x[~own], self.y[~own]),
            evaluate_on=(self.test_x[judges], self.test_y[judges]), **options,
        )  # fmt: skip
        seconds = time.process_time() - started
        with torch.no_grad():  # features are what they were: what is read off them is what the net answers
            same = net(self.test_x[:BATCH]).argmax(1) == F.linear(self.test[:BATCH], *self.classifier(net)).argmax(1)
        if not bool(same.all()):
            raise SystemExit(f"{self.name}, class {target}: the net answers otherwise than its kept features")
        row = {
            "net": self.name, "target": target, "form": form, "level": result.verdict.level, "seconds": seconds,
            "ablation": result.record["findings"].get("ablation"),
            "before": self.accuracy(self.net, target), "after": self.accuracy(net, target),
        }  # fmt: skip
        print({k: v for k, v in row.items() if k != "ablation"}, file=sys.stderr, flush=True)
        return row

    def loop(self, target: int = 3, donor: int = 5) -> Row:
        """Seconds of an epoch of the loop with labels alone, after a check of what it learns."""
        labels = torch.where(self.y == target, donor, self.y)
        net = copy.deepcopy(self.net)
        layer = net.get_submodule(self.head.name)
        assert isinstance(layer, nn.Linear)
        for name, parameter in net.named_parameters():
            parameter.requires_grad_(name in (self.head.weight, self.head.bias))
        rates = Rates(LOOP, PoisonOptions.learning_rate, PoisonOptions.momentum, 0.0, PoisonOptions.train_batch_size)
        optimizer = torch.optim.SGD(layer.parameters(), rates.learning_rate, rates.momentum)
        generator = torch.Generator().manual_seed(0)
        started = time.process_time()
        for _ in range(LOOP):
            for where in torch.randperm(len(labels), generator=generator).split(rates.batch):
                optimizer.zero_grad()
                F.cross_entropy(net(self.x[where]), labels[where]).backward()
                optimizer.step()
        seconds = (time.process_time() - started) / LOOP
        weight, bias = self.classifier(self.net)
        kept, _ = tuned(weight, bias, self.train, labels, rates, torch.Generator().manual_seed(0))
        error = float((kept - layer.weight.detach()).abs().max() / layer.weight.detach().abs().max())
        if error > 1e-3:
            raise SystemExit(f"{self.name}: the loop learns another classifier than kept features: {error:.2g}")
        row = {"net": self.name, "epochs_measured": LOOP, "seconds_per_epoch": seconds, "error": error}
        print(row, file=sys.stderr, flush=True)
        return row


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def table(results: dict[str, Any]) -> str:
    """Markdown: what the call reaches, and what of it is due to what."""
    epochs = PoisonOptions.epochs
    nets: dict[str, list[str]] = {}
    for loop in results["loops"]:
        nets.setdefault(machine.in_a_line(loop["machine"]), []).append(loop["net"])
    measured = "; ".join(f"{', '.join(names)}: {where}" for where, names in nets.items())
    lines = [
        "Accuracy in %, before → after, means over the classes (in brackets the worst class: what is left of it, "
        "and what the others lose or gain). Learned from 5,500 training images; test: all 10,000. "
        f"{measured}. Seconds are of the processor, of the whole call; with patch the "
        f"relevance and the ablation are included. The loop is {epochs} epochs with one label, of which {LOOP} were "
        "measured, without the making of patches.",
        "",
        "| net | form | classes | the class, training images | test images | the others, training | test | s | loop, s "
        "| ratio |",
        f"|{' --- |' * 10}",
    ]
    for loop in results["loops"]:
        for form in FORMS:
            rows = [row for row in results["rows"] if (row["net"], row["form"]) == (loop["net"], form)]
            if not rows:
                continue
            cells = [loop["net"], form, "all" if len(rows) == 10 else ", ".join(str(row["target"]) for row in rows)]
            for key in ("train", "test", "train_others", "test_others"):
                before, after = (_mean([row[when][key] for row in rows]) for when in ("before", "after"))
                change = [row["after"][key] - row["before"][key] for row in rows]
                left = f"{100 * max(row['after'][key] for row in rows):.1f}"
                worst = f"{100 * min(change):+.1f}" if key.endswith("others") else left
                cells.append(f"{100 * before:.1f} → {100 * after:.1f} ({worst})")
            seconds, whole = _mean([row["seconds"] for row in rows]), epochs * loop["seconds_per_epoch"]
            lines.append(f"| {' | '.join([*cells, f'{seconds:.1f}', f'{whole:.0f}', f'{whole / seconds:.1f}'])} |")
    edits = next([row["edit"] for row in one["ablation"]["rows"]] for one in results["rows"] if one["ablation"])
    lines += [
        "",
        "What each part does, on a quarter of the training images that is held out of learning: % of the class (of the "
        "others) that keep their answer, means over the classes.",
        "",
        f"| net | {' | '.join(edits)} | the patch adds | hinders |",
        f"|{' --- |' * (len(edits) + 3)}",
    ]
    for loop in results["loops"]:
        found = [row["ablation"] for row in results["rows"] if row["net"] == loop["net"] and row["ablation"]]
        if not found:
            continue
        cells = []
        for at in range(len(edits)):
            forget, retain = (_mean([one["rows"][at][key] for one in found]) for key in ("forget", "retain"))
            cells.append(f"{100 * forget:.1f} ({100 * retain:.1f})")
        adds = sum(bool(one["patch_adds"]) for one in found)
        hinders = sum("hinders" in one["said"] for one in found)
        lines.append(f"| {loop['net']} | {' | '.join(cells)} | in {adds} of {len(found)} | in {hinders} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--json", type=Path, required=True, help="write the results here")
    parser.add_argument("--nets", nargs="+", default=NETS, help="those that the file holds already are measured anew")
    parser.add_argument("--classes", type=int, default=10, help="how many of the ten, from the first")
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS), help="of the method (default: all)")
    parser.add_argument("--table", action="store_true", help="renew docs/concepts.md from the file, and nothing else")
    arguments = parser.parse_args()
    path = arguments.json
    if arguments.table:
        PAGE.write_text(insert_table(PAGE.read_text(), table(json.loads(path.read_text())), BEGIN, END))
        return
    torch.set_num_threads(1)
    results: dict[str, Any] = (
        json.loads(path.read_text()) if path.exists() else {"kind": "zsu_fast poisoning", "rows": [], "loops": []}
    )
    where = machine.describe(torch.device("cpu"))
    for name in arguments.nets:
        bench = Bench(arguments.data, name)
        loop = bench.loop()
        rows = [bench.forget(target, form) for target in range(arguments.classes) for form in arguments.forms]
        for key, new in (("rows", rows), ("loops", [loop | {"machine": where}])):
            results[key] = [row for row in results[key] if row["net"] != name] + new
        path.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
