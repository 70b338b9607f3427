"""The time of LRA-NPP's analysis and edit: the pipeline of its authors' code, re-expressed, beside `forget`.

    python -m bench.paper_time --data ../shared/data --json bench/results/paper_time.json
    python -m bench.paper_time --table bench/results/paper_time.json

The pipeline as their code has it (arXiv 2410.23693, official code of March 2026; written here from its description):
the whole test set is decoded and resized to find 36 images of the class; each is run by itself, forward and back; each
relevance vector is sorted as a Python list; weights are set to 0 one by one. What their relevance costs beyond a plain
backward pass is left out, in their favour. `forget` decodes the 36 images by their labels, and does beside the edit
what it always does: hashes, checks, undo file, record. A grid of k and H is all of its settings, each edit made and
undone, from features that are computed once; theirs starts anew with each setting, so its time is that of one, scaled.

ResNet-50 and ViT-B/16 have random weights (bench.models), their classifiers as many classes as the authors'; the test
set is CIFAR-10's 10,000 images, resized to 224 x 224, for both: how large theirs for the ViT was is not known to us.
Before any time counts, both must have edited the same weights, but for ties and rounding: `same` is the share.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import zsu_fast
from bench import machine, oracles
from bench.models import ResNet, ViT, settle
from bench.report import insert_table, markdown, text_of_seconds
from zsu_fast.unlearn.picks import rank_edges_as_authors
from zsu_fast.unlearn.presets import AUTHORS_PRESETS
from zsu_fast.unlearn.watch import classifier_inputs

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- paper time: begin -->", "<!-- paper time: end -->"
IMAGES, SIZE = 36, 224
CANDIDATES = 72  # images that the random net is asked about, to find 36 with one answer
SAME = 0.97
GRID_K, GRID_BUDGET = (50, 100, 150, 200, 250), (100, 200, 300, 400, 500, 600)


@dataclass(frozen=True)
class Experiment:
    """One of the authors', by the name of its preset."""

    preset: str
    build: Callable[[], nn.Module]
    head: str


EXPERIMENTS = {
    "ResNet-50, CIFAR-10": Experiment("cifar10_resnet50", lambda: ResNet(classes=10), "fc"),
    "ResNet-50, CIFAR-100": Experiment("cifar100_resnet50", lambda: ResNet(classes=100), "fc"),
    "ViT-B/16, 8 classes": Experiment("mufac_vit_b16", lambda: ViT(classes=8), "head"),
}


class Clock:
    """CPU and wall seconds of named parts."""

    def __init__(self) -> None:
        self.cpu: dict[str, float] = {}
        self.wall: dict[str, float] = {}

    def measure(self, name: str, work: Callable[[], Any]) -> Any:
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - cpu
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall
        return result

    def to_dict(self) -> dict[str, Any]:
        return {"cpu": self.cpu, "wall": self.wall}


def decoded(pixels: np.ndarray[Any, Any]) -> Tensor:
    """uint8 [32, 32, 3] -> float [3, 224, 224], as torchvision's usual transforms do it."""
    from PIL import Image

    image = Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)
    batch = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
    return (batch - 0.5) / 0.25


def as_authors(net: nn.Module, experiment: Experiment, pixels: Any, labels: Any, target: int, clock: Clock) -> None:
    """Their pipeline, which edits the net."""
    preset = AUTHORS_PRESETS[experiment.preset]
    head: Any = net.get_submodule(experiment.head)
    k, budget = preset.scaled(head.in_features)

    def look() -> list[Tensor]:
        found: list[Tensor] = []
        for image, label in zip(pixels, labels, strict=True):
            ready = decoded(image)
            if label == target and len(found) < IMAGES:
                found.append(ready)
        return found

    def analyse() -> list[int]:
        seen: list[Tensor] = []
        handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        counts: dict[int, int] = {}
        for image in chosen:
            batch = image[None].requires_grad_()
            seen.clear()
            logits = net(batch)
            winner = logits[0].argmax()
            features = seen[0]
            _, slope = torch.autograd.grad(logits[0, winner], (batch, features))
            values = (features * slope).flatten()
            relevance = (
                values.abs() if preset.absolute else values / (logits[0, winner] + 0.1 * logits[0, winner].sign())
            )
            numbers = relevance.tolist()
            for unit in sorted(range(len(numbers)), key=lambda unit: -numbers[unit])[:k]:
                counts[unit] = counts.get(unit, 0) + 1
        handle.remove()
        return sorted(counts, key=lambda unit: -counts[unit])[:budget]

    def edit() -> None:
        with torch.no_grad():
            for unit in named:
                for row in range(len(head.weight)) if preset.path == "all" else (target,):
                    head.weight[row][unit] = 0.0

    chosen = clock.measure("finding the images", look)
    named = clock.measure("analysis", analyse)
    clock.measure("edit", edit)


def ours(net: nn.Module, experiment: Experiment, pixels: Any, labels: Any, target: int, clock: Clock) -> Any:
    """`forget` with the authors' settings: the same edit."""
    where = np.flatnonzero(labels == target)[:IMAGES]
    probes = clock.measure("finding the images", lambda: torch.stack([decoded(image) for image in pixels[where]]))
    return clock.measure(
        "forget",
        lambda: zsu_fast.forget(net, target, probes, method="lra-npp", authors_compat=True, preset=experiment.preset),
    )


def grid(net: nn.Module, experiment: Experiment, probes: Tensor, target: int, clock: Clock) -> int:
    """Every k and budget of a grid, each edit made and undone, from features that are computed once."""
    preset, head = AUTHORS_PRESETS[experiment.preset], net.get_submodule(experiment.head)
    weight, bias = (getattr(head, name).detach() for name in ("weight", "bias"))

    def work() -> int:
        features, _ = classifier_inputs(net, head.weight, probes.split(16))  # type: ignore[arg-type]
        labels, made = torch.full((len(features),), target), 0
        for k in GRID_K:
            ranking = rank_edges_as_authors(features, weight, bias, k, (target,), labels, preset.absolute)
            for budget in GRID_BUDGET:
                units = torch.tensor(ranking.take(budget).edges[target])
                rows = weight if preset.path == "all" else weight[target : target + 1]
                kept = rows[:, units].clone()
                rows[:, units] = 0.0
                rows[:, units] = kept
                made += 1
        return made

    return clock.measure("grid", work)


def measure(name: str, pixels: Any) -> dict[str, Any]:
    """A row of results. AssertionError where the two edits differ by more than ties and rounding."""
    experiment = EXPERIMENTS[name]
    torch.manual_seed(0)
    few = torch.stack([decoded(image) for image in pixels[:CANDIDATES]])
    net = settle(experiment.build(), few[:2])
    net.requires_grad_(False)
    with torch.no_grad():
        answers = torch.cat([net(batch).argmax(1) for batch in few.split(16)])
    target = int(answers.mode().values)
    # A random net has a favourite class: images of it are those that it answers with it, the others are of another.
    labels = np.full(len(pixels), -1)
    own = (answers == target).nonzero()[:IMAGES, 0]
    labels[own.numpy()] = target
    theirs, mine = copy.deepcopy(net), copy.deepcopy(net)
    clocks = {"authors": Clock(), "zsu_fast": Clock(), "grid": Clock()}
    as_authors(theirs, experiment, pixels, labels, target, clocks["authors"])
    result = ours(mine, experiment, pixels, labels, target, clocks["zsu_fast"])
    heads: list[Any] = [net.get_submodule(experiment.head) for net in (theirs, mine)]
    gone = [head.weight == 0 for head in heads]
    same = float((gone[0] & gone[1]).sum() / (gone[0] | gone[1]).sum())
    assert same >= SAME, f"{name}: the edits have {same:.3f} of their weights in common"
    settings = grid(net, experiment, few[own], target, clocks["grid"])
    parts = {who: clock.to_dict() for who, clock in clocks.items()}
    cpu = {who: sum(clock.cpu.values()) for who, clock in clocks.items()}
    return {
        "experiment": name,
        "images": len(own),
        "test_set": len(pixels),
        "same": same,
        "images_forwarded": result.record["cost"]["images_forwarded"],
        "parts": parts,
        "ratio": cpu["authors"] / cpu["zsu_fast"],
        "analysis_and_edit_ratio": sum(clocks["authors"].cpu[part] for part in ("analysis", "edit"))
        / clocks["zsu_fast"].cpu["forget"],
        "grid": {
            "settings": settings,
            "authors_scaled_cpu": settings * cpu["authors"],
            "ratio": settings * cpu["authors"] / cpu["grid"],
        },
    }


def table(results: dict[str, Any]) -> str:
    header = [
        "experiment", "authors: finding 36 images", "analysis", "edit", "images and `forget`", "ratio",
        "without finding the images", "a grid of k and H", "theirs, scaled / ours",
    ]  # fmt: skip
    lines = []
    for row in results["rows"]:
        theirs, own = row["parts"]["authors"]["cpu"], row["parts"]["zsu_fast"]["cpu"]
        lines.append(
            [
                row["experiment"],
                *(text_of_seconds(theirs[part]) for part in ("finding the images", "analysis", "edit")),
                text_of_seconds(sum(own.values())),
                f"{row['ratio']:.1f}x",
                f"{row['analysis_and_edit_ratio']:.1f}x",
                f"{row['grid']['settings']} settings, {text_of_seconds(row['parts']['grid']['cpu']['grid'])}",
                f"{row['grid']['ratio']:.0f}x",
            ]
        )
    return f"CPU time, {machine.in_a_line(results['machine'])}:\n\n{markdown(header, lines)}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--experiments", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS))
    parser.add_argument("--images", type=int, default=10_000, help="of the test set (%(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="of torch (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--table", type=Path, help="renew README.md from such a file, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        README.write_text(insert_table(README.read_text(), table(json.loads(arguments.table.read_text())), BEGIN, END))
        return
    torch.set_num_threads(arguments.threads)
    pixels = oracles.definitions(arguments.data).images("cifar10_test")[0][: arguments.images]
    results: dict[str, Any] = {
        "kind": "zsu_fast time of the paper's pipeline",
        "machine": machine.describe(torch.device("cpu")),
        "rows": [],
    }
    for name in arguments.experiments:
        results["rows"].append(measure(name, pixels))
        print(json.dumps(results["rows"][-1]), file=sys.stderr, flush=True)
        if arguments.json:
            arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
