"""`forget` on real trained models: forget and retain accuracy, linear probe, time and memory, before and after.

    python -m bench.real_models --data ../shared/data --json bench/results/real_models.json

For every class of the CIFAR-10 and MNIST models, and for the ImageNet models the five classes of which unseen images
are at hand, plus fifteen of which there is one photograph only. Probes are images that the model was not trained on;
they are kept apart from the images that judge. Rows with `unseen_images` 0 are judged on other crops of the one
photograph: they show what the edit costs the other classes, not how well it forgets.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import zsu_fast
from bench import machine
from bench.report import insert_table
from zsu_fast.evaluate.probe import features, linear_probe
from zsu_fast.unlearn import model_digest

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- real models: begin -->", "<!-- real models: end -->"
IMAGES, FIT_IMAGES = 4000, 3000  # that judge a model, and that a linear probe is fitted on
PROBES = 36
RETAIN_PER_CLASS = 20
METHODS = {
    "lra-npp": {"method": "lra-npp"},
    "channels": {"method": "channels", "scope": "global", "score": "contrastive"},
}
CIFAR = ("resnet20_cifar10", "resnet56_45k_cifar10", "lenet_cifar10", "vit_p8_45k_cifar10")
MNIST = ("lenet5_mnist", "vit_mnist")
IMAGENET = ("deit_tiny_imagenet", "efficientnet_lite0_imagenet")


@dataclass
class Task:
    """Images that the model was not trained on, and images to fit linear probes with."""

    model: nn.Module
    images: Tensor
    labels: Tensor
    fit_images: Tensor
    fit_labels: Tensor
    classes: list[int]
    single: dict[int, Tensor] = field(default_factory=dict)  # class -> crops of its one photograph


def peak_memory(run: Callable[[], Any]) -> tuple[Any, float, float]:
    """(result, seconds, MiB above the start): the kernel's own high-water mark of resident memory."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(key: str) -> float:
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith(key)) / 1024

    clear.write_text("5")
    start = read("VmRSS")
    begin = time.perf_counter()
    result = run()
    return result, time.perf_counter() - begin, max(0.0, read("VmHWM") - start)


def load_tasks(data: Path, names: list[str]) -> Iterator[tuple[str, Task]]:
    sys.path.insert(0, str(data))
    definitions = importlib.import_module("models")  # stands beside the weights
    images, load = definitions.images, definitions.load

    for name in names:
        net, preprocess = load(name)
        if name in CIFAR:
            (x, y), (fit_x, fit_y) = images("cifar10_test"), images("cifar10_train_subset")
        elif name in MNIST:
            x, y = images("mnist", "test")
            fit_x, fit_y = images("mnist", "train")
        else:
            (x, y), (fit_x, fit_y) = images("imagenette160_a", "ilsvrc_val"), images("imagenette160_a", "ilsvrc_train")
        if name not in IMAGENET:
            x, y, fit_x, fit_y = x[:IMAGES], y[:IMAGES], fit_x[:FIT_IMAGES], fit_y[:FIT_IMAGES]
        task = Task(
            net, preprocess(x), torch.as_tensor(y), preprocess(fit_x), torch.as_tensor(fit_y), sorted(set(y.tolist()))
        )
        if name in IMAGENET:
            photographs, labels = images("imagenet_sample")
            photographs, labels = photographs[::2], labels[::2]
            add_single_photographs(task, photographs, torch.as_tensor(labels), preprocess)
        yield name, task


def add_single_photographs(task: Task, photographs: list, labels: Tensor, preprocess: Callable) -> None:
    """Fifteen further classes, 12 crops of one photograph each; the whole sample also judges the retained classes."""
    whole = preprocess(photographs)
    with torch.no_grad():
        answers = torch.cat([task.model(batch).argmax(1) for batch in whole.split(50)])
    known = [i for i in range(len(labels)) if answers[i] == labels[i] and int(labels[i]) not in task.classes]
    generator = np.random.default_rng(0)
    for i in known[:: max(1, len(known) // 15)][:15]:
        image = photographs[i]
        crops = []
        for _ in range(12):
            share = generator.uniform(0.8, 1.0)
            width, height = int(image.width * share), int(image.height * share)
            left, top = generator.integers(image.width - width + 1), generator.integers(image.height - height + 1)
            crop = image.crop((left, top, left + width, top + height))
            crops.append(crop.transpose(0) if generator.random() < 0.5 else crop)
        task.single[int(labels[i])] = preprocess(crops)
    # One photograph a class; the classes of the unseen images have theirs there already.
    others = ~torch.isin(labels, torch.tensor(task.classes))
    task.images = torch.cat([task.images, whole[others]])
    task.labels = torch.cat([task.labels, labels[others]])


def split(task: Task, target: int) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor, Tensor]:
    """(probes, retain probes, mask [N] of the images that judge, further judging images of the class)."""
    generator = torch.Generator().manual_seed(target)
    held = torch.zeros(len(task.labels), dtype=torch.bool)
    retain = torch.zeros_like(held)
    if target in task.single:
        probes, extra = task.single[target][:9], task.single[target][9:]
        held |= task.labels == target
    else:
        own = (task.labels == target).nonzero()[:, 0]
        chosen = own[torch.randperm(len(own), generator=generator)[: min(PROBES, len(own) * 3 // 5)]]
        held[chosen] = True
        probes, extra = task.images[chosen], task.images[:0]
    few = len(task.labels.unique()) > 100  # one photograph of most classes: every fourth class gives a retain probe
    for label in task.labels.unique().tolist():
        if label == target or (few and label % 16 and label not in task.classes):
            continue
        own = ((task.labels == label) & ~held).nonzero()[:, 0]
        retain[own[torch.randperm(len(own), generator=generator)[:RETAIN_PER_CLASS]]] = True
    return probes, (task.images[retain], task.labels[retain]), ~(held | retain), extra


@dataclass
class Unedited:
    """What the unedited model answers and knows, measured once for all classes: answers [N], features [N, D]."""

    answers: Tensor
    features: Tensor
    fit_features: Tensor

    @classmethod
    def of(cls, task: Task) -> Unedited:
        return cls(
            answers(task.model, task.images), features(task.model, task.images), features(task.model, task.fit_images)
        )


def answers(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([model(batch).argmax(1) for batch in images.split(256)])


def run_class(task: Task, target: int, keywords: dict[str, Any], unedited: Unedited) -> dict[str, Any]:
    """One request on one model, judged before and after, and undone."""
    probes, retain, judged, extra = split(task, target)
    if keywords["method"] == "channels":
        keywords = keywords | {"retain_probes": retain}
    digest = model_digest(task.model)
    before_extra = answers(task.model, extra) if len(extra) else task.labels[:0]
    known = torch.isin(task.labels, task.fit_labels.unique()) & judged

    def judge(given: Tensor, given_extra: Tensor, seen: Tensor, fit: Tensor) -> dict[str, float | None]:
        """Accuracy of answers, and of a linear probe fitted on features `fit` and judged on features `seen`."""
        labels = torch.cat([task.labels[judged], torch.full((len(extra),), target)])
        right = torch.cat([given, given_extra]) == labels
        probe = None
        if not len(extra):
            probe = linear_probe(fit, task.fit_labels, seen, task.labels[known], target).forget_accuracy
        return {
            "forget_accuracy": right[labels == target].float().mean().item(),
            "retain_accuracy": right[labels != target].float().mean().item(),
            "probe_forget_accuracy": probe,
        }

    before = judge(unedited.answers[judged], before_extra, unedited.features[known], unedited.fit_features)
    cpu = time.process_time()
    result, seconds, memory = peak_memory(lambda: zsu_fast.forget(task.model, target, probes, **keywords))
    cpu = time.process_time() - cpu
    after = dict(before)
    if result.patch.entries:
        seen, fit = unedited.features[known], unedited.fit_features
        if not all(name.endswith(".input") for name in result.picks):  # more than the classifier was edited
            seen, fit = features(task.model, task.images[known]), features(task.model, task.fit_images)
        after_extra = answers(task.model, extra) if len(extra) else task.labels[:0]
        after = judge(answers(task.model, task.images[judged]), after_extra, seen, fit)
    result.patch.revert(task.model)
    assert model_digest(task.model) == digest, "the model did not come back bit for bit"
    return {
        "target": target,
        "reached": result.reached,
        "verdict": result.verdict.level,
        "mode": result.record["mode"],
        "budget": result.budget,
        "picks": {name: len(units) for name, units in result.picks.items()},
        "unseen_images": 0 if len(extra) else int((task.labels[judged] == target).sum()),
        "probes": len(probes),
        "before": before,
        "after": after,
        "seconds": round(seconds, 3),
        "cpu_seconds": round(cpu, 3),
        "peak_memory_mib": round(memory, 1),
    }


def mean(rows: list[dict[str, Any]], when: str, key: str) -> float | None:
    values = [row[when][key] for row in rows if row[when][key] is not None]
    return sum(values) / len(values) if values else None


def summarise(name: str, method: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    full = [row for row in rows if row["unseen_images"]]
    summary: dict[str, Any] = {
        "model": name,
        "method": method,
        "classes": len(full),
        "single_photograph": len(rows) - len(full),
    }
    for key in ("forget_accuracy", "retain_accuracy", "probe_forget_accuracy"):
        summary[key] = [mean(full, "before", key), mean(full, "after", key)]
    single = [row for row in rows if not row["unseen_images"]]
    if single:
        summary["single_retain_accuracy"] = [mean(single, w, "retain_accuracy") for w in ("before", "after")]
    summary["reached"] = sum(row["reached"] for row in full)
    for key in ("seconds", "cpu_seconds"):
        summary[key] = round(sum(row[key] for row in rows) / len(rows), 3)
    summary["peak_memory_mib"] = max(row["peak_memory_mib"] for row in rows)
    return summary


def table(results: dict[str, Any]) -> str:
    """Markdown table of the summaries."""

    def arrow(pair: list[float | None]) -> str:
        return " → ".join("" if value is None else f"{100 * value:.1f}" for value in pair)

    lines = [
        "| model | method | accuracy on the class, % | on the others, % | linear probe finds the class, % | reached | "
        "CPU s | peak MiB |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["summary"]:
        accuracies = [arrow(row[key]) for key in ("forget_accuracy", "retain_accuracy", "probe_forget_accuracy")]
        reached = f"{row['reached']} of {row['classes']}"
        cells = [
            row["model"],
            row["method"],
            *accuracies,
            reached,
            f"{row['cpu_seconds']:.2f}",
            f"{row['peak_memory_mib']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([f"Time and memory of one `forget` call: {machine.in_a_line(results['machine'])}.", "", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--models", default=",".join(CIFAR + MNIST + IMAGENET), help="names, separated by commas")
    parser.add_argument("--methods", default=",".join(METHODS), help="lra-npp, channels")
    parser.add_argument("--classes", type=int, help="only so many classes of each model")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument(
        "--table", type=Path, help="write the table of the README from such a file, and do nothing else"
    )
    arguments = parser.parse_args()
    if arguments.table:
        README.write_text(insert_table(README.read_text(), table(json.loads(arguments.table.read_text())), BEGIN, END))
        return
    results: dict[str, Any] = {
        "kind": "zsu_fast real models",
        "machine": machine.describe(torch.device("cpu")),
        "summary": [],
        "rows": [],
    }
    if arguments.json and arguments.json.exists():  # what is not measured anew keeps its rows
        kept = json.loads(arguments.json.read_text())
        anew = [(name, method) for name in arguments.models.split(",") for method in arguments.methods.split(",")]
        for part in ("summary", "rows"):
            results[part] = [row for row in kept[part] if (row["model"], row["method"]) not in anew]
    for name, task in load_tasks(arguments.data, arguments.models.split(",")):
        unedited = Unedited.of(task)
        for method in arguments.methods.split(","):
            rows = []
            for target in (task.classes + sorted(task.single))[: arguments.classes]:
                rows.append(run_class(task, target, METHODS[method], unedited))
                row = rows[-1]
                print(
                    f"{name} {method} class {target}: {row['before']} -> {row['after']} in {row['seconds']} s",
                    file=sys.stderr,
                )
            results["summary"].append(summarise(name, method, rows))
            results["rows"] += [{"model": name, "method": method} | row for row in rows]
            print(json.dumps(results["summary"][-1]), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
