"""What `zsu_fast.compact` saves: trained nets with a third of their inner units masked, with those and without them.

    python -m bench.smaller --data ../shared/data --json bench/results/smaller.json

The peer is the masked net itself, in the same run, on the same real images: `compact` compares the logits before it
returns. Seconds are those of the processor, the fastest of several forward passes in turn.
"""

from __future__ import annotations

import copy
import importlib
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import zsu_fast
from bench import machine
from bench.parts import run_parts
from zsu_fast.unlearn import Picks
from zsu_fast.unlearn.door import check_runs

NETS = {  # images, how many in a forward pass, and the layers of which every third unit is masked
    "deit_tiny_imagenet": ("imagenet_sample", 4, (".attn.heads", ".fc1")),
    "resnet20_cifar10": ("cifar10_test", 64, (".conv1",)),
}
RUNS = 9
PAGE, MARKERS = Path("docs/after-the-edit.md"), ("<!-- smaller: begin -->", "<!-- smaller: end -->")
Row = dict[str, Any]


def start(data: Path) -> tuple[tuple[Any], Row]:
    sys.path.insert(0, str(data))
    return (importlib.import_module("models"),), {"runs": RUNS}  # stands beside the weights


def measure(name: str, definitions: Any) -> Iterator[Row]:
    kind, count, wanted = NETS[name]
    net, preprocess = definitions.load(name)
    images = preprocess(definitions.images(kind)[0][:count])
    net = copy.deepcopy(net)
    layers = {name: n for name, n in check_runs(net, images, "images").maskable().items() if name.endswith(wanted)}
    zsu_fast.perturb_(net, Picks(neurons={name: list(range(0, n, 3)) for name, n in layers.items()}), sample=images[:1])
    begun = time.process_time()
    small = zsu_fast.compact(net, images)
    taken = time.process_time() - begun
    seconds: dict[str, list[float]] = {"masked": [], "compact": []}
    with torch.no_grad():
        for _ in range(RUNS):
            for what, model in (("masked", net), ("compact", small.model)):
                begun = time.process_time()
                model(images)
                seconds[what].append(time.process_time() - begun)
    with tempfile.TemporaryDirectory() as folder:
        save_file({key: value.contiguous() for key, value in net.state_dict().items()}, Path(folder) / "masked")
        small.save(Path(folder) / "compact")
        sizes = [(Path(folder) / what).stat().st_size for what in seconds]
    yield {
        "images": count, "units": sum(map(len, small.removed.values())), "parameters": small.parameters, "bytes": sizes,
        "seconds": [min(seconds[what]) for what in seconds], "compact_seconds": taken,
        "difference": small.difference, "difference_float64": small.difference_float64,
    }  # fmt: skip


def table(results: Row) -> str:
    """Markdown: before and after, and how far the logits differ."""
    lines = [
        "Every third attention head and hidden unit (DeiT-tiny) or inner channel of a block (ResNet-20) masked, then "
        "taken out. Largest difference of a logit: absolute. Seconds of processor time. "
        f"{machine.in_a_line(results['machine'])}.",
        "",
        "| net | units | parameters | file, MB | forward pass, ms | logits differ, float32 | float64 | taking out, s |",
        f"|{' --- |' * 8}",
    ]
    for name, (row,) in results["parts"].items():
        parameters, sizes, seconds = row["parameters"], row["bytes"], row["seconds"]
        lines.append(
            f"| {name} | {row['units']} | {parameters[0]:,} → {parameters[1]:,} "
            f"| {sizes[0] / 1e6:.2f} → {sizes[1] / 1e6:.2f} "
            f"| {1e3 * seconds[0]:.0f} → {1e3 * seconds[1]:.0f} ({row['images']} images) "
            f"| {row['difference']:.1e} | {row['difference_float64']:.0e} | {row['compact_seconds']:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_parts(__doc__, "zsu_fast smaller", {name: partial(measure, name) for name in NETS}, start, table, PAGE, MARKERS)
