"""What is left to find after `forget`, on real trained models: relearning and membership inference.

    python -m bench.attacks --data ../shared/data --json bench/results/attacks.json

Each model is attacked as it was, after each method that finds an edit, and, where retraining is cheap (LeNet-5), beside
a control that never saw the class. Relearning is by Adam in mini-batches of 64, from 36 images of the class and 20 of
each other class, and from the latter alone. bench/results has LeNet-5: --models lenet5_mnist --classes 1,4,8.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

import zsu_fast
from bench import machine
from bench.real_models import METHODS, PROBES, RETAIN_PER_CLASS, Task, load_tasks, split
from zsu_fast.evaluate import evaluate, membership, relearn

# 1e-3, as in the literature, ruins the larger ones within a few steps.
LEARNING_RATES = {"resnet20_cifar10": 1e-4, "vit_p8_45k_cifar10": 1e-4, "lenet5_mnist": 1e-3}
WITH_CONTROL = "lenet5_mnist"
STEPS, TEST = 128, 1500


def control(target: int) -> nn.Module:
    """LeNet-5, trained for two epochs on the digits without the class."""
    definitions = importlib.import_module("models")  # stands beside the weights
    pixels, digits = definitions.images("mnist", "train")
    kept = pixels[digits != target]
    images, labels = definitions.load(WITH_CONTROL)[1](kept), torch.as_tensor(digits[digits != target])
    torch.manual_seed(0)
    model: nn.Module = definitions.LeNet5()
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(2):
        for batch in torch.randperm(len(labels)).split(128):
            optimizer.zero_grad()
            F.cross_entropy(model(images[batch]), labels[batch]).backward()
            optimizer.step()
    return model.eval()


@contextmanager
def edited(task: Task, target: int, method: str) -> Iterator[bool]:
    """Whether the method found an edit, which the model has for as long."""
    probes, retain, _, _ = split(task, target)
    extra = {"retain_probes": retain} if method == "channels" else {}
    result = zsu_fast.forget(task.model, target, probes, **METHODS[method], **extra)  # type: ignore[arg-type]
    try:
        yield result.reached
    finally:
        result.patch.revert(task.model)


def attack(model: nn.Module, task: Task, target: int, rate: float, reference: float | None) -> dict[str, Any]:
    """`reference`: accuracy of the original model on the class; None if this is the one."""
    _, _, judged, _ = split(task, target)
    images, labels = task.images[judged], task.labels[judged]
    test = images[:TEST], labels[:TEST]
    own = (task.fit_labels == target).nonzero()[:PROBES, 0]
    others = [(task.fit_labels == c).nonzero()[:RETAIN_PER_CLASS, 0] for c in task.classes if c != target]
    row: dict[str, Any] = {"before": evaluate(model, *test, target).to_dict()}
    reference = row["before"]["forget_accuracy"] if reference is None else reference
    for name, chosen in {"relearning": torch.cat([own, *others]), "retain_only": torch.cat(others)}.items():
        lessons = task.fit_images[chosen], task.fit_labels[chosen]
        curve = relearn(model, *lessons, target, test=test, steps=STEPS, learning_rate=rate, batch_size=64)
        row[name] = {"relearn_time": curve.relearn_time(reference)} | curve.to_dict()
    trained, unseen = task.fit_labels == target, labels == target
    members = task.fit_images[trained], task.fit_labels[trained]
    row["membership"] = membership(model, members, (images[unseen], labels[unseen])).to_dict()
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--models", default=",".join(LEARNING_RATES), help="names, separated by commas")
    parser.add_argument("--classes", default="1,4", help="the classes to forget, one after the other")
    parser.add_argument("--json", type=Path, help="write the results here")
    arguments = parser.parse_args()
    results: dict[str, Any] = {
        "kind": "zsu_fast attacks",
        "machine": machine.describe(torch.device("cpu")),
        "rows": [],
    }

    def note(name: str, target: int, edit: str, row: dict[str, Any]) -> None:
        results["rows"].append({"model": name, "target": target, "edit": edit} | row)
        back = {k: row[k]["relearn_time"] for k in ("relearning", "retain_only") if k in row}
        print(f"{name} class {target} {edit}: {back or 'no edit'}", file=sys.stderr, flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")

    for name, task in load_tasks(arguments.data, arguments.models.split(",")):
        rate = LEARNING_RATES[name]
        for target in map(int, arguments.classes.split(",")):
            original = attack(task.model, task, target, rate, None)
            reference = original["before"]["forget_accuracy"]
            note(name, target, "none", original)
            for method in METHODS:
                with edited(task, target, method) as reached:
                    found = attack(task.model, task, target, rate, reference) if reached else {}
                    note(name, target, method, {"reached": reached} | found)
            if name == WITH_CONTROL:
                row = attack(control(target), task, target, rate, reference)
                note(name, target, "retrained without the class", row)


if __name__ == "__main__":
    main()
