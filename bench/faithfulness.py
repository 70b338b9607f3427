"""Which composite finds the pixels that an answer rests on? Region perturbation on real trained models.

    python -m bench.faithfulness --data ../shared/data --json bench/results/faithfulness.json
    python -m bench.faithfulness --table bench/results/faithfulness.json      # into docs/lrp.md

The cells of an image that hold most relevance are blurred first (Samek et al. 2017, arXiv 1509.06321): the sooner the
model loses its answer, the better they were found. The score is the mean probability of the model's answer with 2, 5,
10, 20, 30 and 50 % of the cells blurred; lower is better. The images are ones that the model was not trained on.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zsu_fast
from bench import machine
from bench.report import insert_table
from zsu_fast.lrp import COMPOSITES

GUIDE = Path(__file__).resolve().parent.parent / "docs" / "lrp.md"
BEGIN, END = "<!-- faithfulness: begin -->", "<!-- faithfulness: end -->"
FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
# name: (images, how many, pixels a side of a cell)
MODELS = {
    "resnet56_45k_cifar10": ("cifar10_test", 100, 4),
    "efficientnet_lite0_imagenet": ("imagenette160_a", 25, 16),
    "vit_p8_45k_cifar10": ("cifar10_test", 100, 4),
    "deit_tiny_imagenet": ("imagenette160_a", 25, 16),
}
RANDOM, GRADIENT = "random order", "gradient x input"


def score(model: nn.Module, images: Tensor, answers: Tensor, cells: Tensor) -> float:
    """Mean probability of the answers [N] with the cells of largest value in `cells` [N, h, w] blurred."""
    count, side = cells[0].numel(), images.shape[2] // cells.shape[1]
    blurred = F.avg_pool2d(images, 2 * side + 1, 1, side, count_include_pad=False)
    order = cells.flatten(1).argsort(1, descending=True)
    total = 0.0
    for fraction in FRACTIONS:
        chosen = torch.zeros(cells.shape).flatten(1).scatter_(1, order[:, : round(fraction * count)], 1.0)
        mask = F.interpolate(chosen.view(cells[:, None].shape), scale_factor=float(side)) > 0
        with torch.no_grad():
            logits = model(torch.where(mask, blurred, images))
        total += float(logits.softmax(1).gather(1, answers[:, None]).mean())
    return total / len(FRACTIONS)


def maps(model: nn.Module, images: Tensor, answers: Tensor) -> dict[str, Callable[[], Tensor]]:
    """What gives a value to every pixel of every image, [N, C, H, W], by name."""

    def gradient() -> Tensor:
        leaf = images.clone().requires_grad_()
        chosen = model(leaf).gather(1, answers[:, None]).sum()
        return torch.autograd.grad(chosen, leaf)[0] * images

    def explain(name: str) -> Tensor:
        bounds = {"low": images.amin((0, 2, 3)).tolist(), "high": images.amax((0, 2, 3)).tolist()}
        composite = COMPOSITES[name](**bounds) if name.endswith("_box") else name
        return zsu_fast.relevance(model, images, answers, composite=composite, layers=()).input

    found: dict[str, Callable[[], Tensor]] = {RANDOM: lambda: torch.rand(images.shape), GRADIENT: gradient}
    return found | {name: lambda name=name: explain(name) for name in COMPOSITES}


def measure(data: Path, name: str) -> dict[str, Any]:
    sys.path.insert(0, str(data))
    definitions = importlib.import_module("models")  # stands beside the weights
    source, count, cell = MODELS[name]
    model, preprocess = definitions.load(name)
    images, _ = definitions.images(source, "ilsvrc_val" if source.startswith("imagenette") else None)
    step = len(images) // count
    batch = preprocess([images[i * step] for i in range(count)] if isinstance(images, list) else images[::step][:count])
    with torch.no_grad():
        logits = model(batch)
    answers = logits.argmax(1)
    torch.manual_seed(0)
    scores = {}
    for title, values in maps(model, batch, answers).items():
        cells = F.avg_pool2d(values().sum(1, keepdim=True), cell)[:, 0]
        scores[title] = round(score(model, batch, answers, cells), 4)
        print(f"{name} {title}: {scores[title]}", file=sys.stderr, flush=True)
    untouched = float(logits.softmax(1).gather(1, answers[:, None]).mean())
    return {"model": name, "images": count, "cell": cell, "untouched": round(untouched, 4), "scores": scores}


def table(results: dict[str, Any]) -> str:
    """Markdown: a row for each way to explain, a column for each model, the best of a column in bold."""
    rows = results["rows"]
    lines = [
        f"| composite | {' | '.join(row['model'] for row in rows)} |",
        f"| --- |{' ---: |' * len(rows)}",
        _line("nothing blurred", [row["untouched"] for row in rows]),
    ]
    best = [min(row["scores"].values()) for row in rows]
    for title in rows[0]["scores"]:
        name = title if title in (RANDOM, GRADIENT) else f"`{title}`"
        lines.append(_line(name, [row["scores"][title] for row in rows], best))
    return "\n".join(lines)


def _line(name: str, values: list[float], best: Sequence[float] = ()) -> str:
    bold = [value == least for value, least in zip(values, best or [-1.0] * len(values), strict=True)]
    cells = [f"**{v:.2f}**" if b else f"{v:.2f}" for v, b in zip(values, bold, strict=True)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--models", default=",".join(MODELS), help="names, separated by commas")
    parser.add_argument("--json", type=Path, help="write the results here; other models that are there keep their rows")
    parser.add_argument("--table", type=Path, help="write the table of the guide from such a file, and nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        GUIDE.write_text(insert_table(GUIDE.read_text(), table(json.loads(arguments.table.read_text())), BEGIN, END))
        return
    rows: dict[str, dict[str, Any]] = {}
    if arguments.json and arguments.json.exists():
        rows = {row["model"]: row for row in json.loads(arguments.json.read_text())["rows"]}
    for name in arguments.models.split(","):
        rows[name] = measure(arguments.data, name)
        if arguments.json:
            content = {
                "kind": "zsu_fast faithfulness",
                "machine": machine.describe(torch.device("cpu")),
                "rows": [rows[model] for model in MODELS if model in rows],
            }
            arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
