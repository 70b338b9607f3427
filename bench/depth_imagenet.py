"""How deep methods forget a class of ImageNet: attacks on DeiT-tiny and EfficientNet-Lite0, with no oracle beside them.

    python -m bench.depth_imagenet --data ../shared/data --json bench/results/depth_imagenet.json

Five classes of Imagenette are forgotten in turn. A method gets 25 validation images of the class, 20 of each of the
other four, and 120 images of as many other classes (imagenet_sample, one a class, which the nets have probably learned
from). Judged is on 25 other validation images of each of the five, and 120 images of yet other classes. The attacker
has what the method had, and 25 training images of the class. Neighbours of a class are those half of the 120 that the
original net finds most like it. Only the last blocks are edited, of inputs that are kept: the edit of the whole net
with these `layers=` and one view of each image, without the minutes that the blocks before take. What stands in the
file already is not measured again.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zsu_fast
from bench import oracles
from bench.report import insert_table
from bench.results_file import Rows
from zsu_fast.evaluate import linear_probe, prototype_row
from zsu_fast.evaluate.probe import features_and_logits
from zsu_fast.unlearn.methods.entry_module import inputs_kept


class LateLite(nn.Module):
    """EfficientNet-Lite0 from its last three blocks on; names as in the whole net, but for the blocks' numbers."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self._blocks = net._blocks[-3:]
        self._conv_head, self._bn1, self._fc = net._conv_head, net._bn1, net._fc

    def forward(self, x: Tensor) -> Tensor:
        return self._fc(F.relu6(self._bn1(self._conv_head(self._blocks(x)))).mean((2, 3)))


class LateDeit(nn.Module):
    """DeiT-tiny from its last two blocks on."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.blocks, self.norm, self.head = net.blocks[-2:], net.norm, net.head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(x))[:, 0])


LATE: dict[str, tuple[type[nn.Module], str]] = {  # and the module whose inputs are kept
    "efficientnet_lite0_imagenet": (LateLite, "_blocks.13"),
    "deit_tiny_imagenet": (LateDeit, "blocks.10"),
}
METHODS: dict[str, dict[str, Any]] = {
    "deep": {"budget": 1, "folds": 1, "steps": 40, "train_batch_size": 64, "views": 1, "learning_rate": 1e-3},
    "lra-npp": {},
}
PROBES, RETAIN, SAMPLE, NEAR = 25, 20, 120, 60
SIDE = 160  # pixels, the shorter one
SHOWN = ("answers", "prototype row", "linear probe")
PAGE = Path("docs/forgetting.md")
BEGIN, END = "<!-- depth on ImageNet: begin -->", "<!-- depth on ImageNet: end -->"


@dataclass(frozen=True)
class Images:
    """Pictures [N, 3, 224, 224] and labels [N]; of Imagenette to learn from and to judge by, the sample likewise."""

    lessons: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    sample: tuple[Tensor, Tensor]
    sample_test: tuple[Tensor, Tensor]
    training: tuple[Tensor, Tensor]


def load_images(known: Any, preprocess: Any) -> Images:
    (val, val_labels), (train, train_labels) = (
        known.images("imagenette160_a", split) for split in ("ilsvrc_val", "ilsvrc_train")
    )
    sample, sample_labels = known.images("imagenet_sample")
    # As small as those of Imagenette: a probe would else find a class by how sharp its pictures are.
    sample = [picture.resize([round(side * SIDE / min(picture.size)) for side in picture.size]) for picture in sample]

    def of(pictures: Any, labels: Any, where: list[int]) -> tuple[Tensor, Tensor]:
        return preprocess([pictures[i] for i in where]), torch.as_tensor(labels[where])

    parts = apart(torch.as_tensor(val_labels), PROBES)
    five = set(val_labels.tolist())
    others = [i for i, label in enumerate(sample_labels.tolist()) if label not in five]
    return Images(
        of(val, val_labels, parts[0]),
        of(val, val_labels, parts[1]),
        of(sample, sample_labels, others[::4][:SAMPLE]),
        of(sample, sample_labels, others[2::4][:SAMPLE]),
        of(train, train_labels, apart(torch.as_tensor(train_labels), PROBES)[0]),
    )


def inputs_of(net: nn.Module, name: str, images: Images) -> Images:
    """What the module of that name gets of the images, in their place."""

    def of(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with inputs_kept(net.get_submodule(name)) as kept, torch.no_grad():
            for batch in x.split(25):
                net(batch)
        return torch.cat(kept), y

    return Images(*(of(*getattr(images, part.name)) for part in fields(images)))


def apart(labels: Tensor, count: int) -> tuple[list[int], list[int]]:
    """Indices of the first `count` images of each class, and of the next `count`."""
    firsts, nexts = [], []
    for label in labels.unique():
        own = (labels == label).nonzero()[:, 0].tolist()
        firsts += own[:count]
        nexts += own[count : 2 * count]
    return firsts, nexts


def given(labels: Tensor, target: int) -> tuple[Tensor, list[int]]:
    """Which lessons of Imagenette a method gets: those of the class (bool [N]), and indices of some of each other."""
    others = [i for c in labels.unique() if c != target for i in (labels == c).nonzero()[:RETAIN, 0].tolist()]
    return labels == target, others


@dataclass(frozen=True)
class Seen:
    """What a net makes of all images: features and logits, by the names of the parts of `Images`."""

    features: dict[str, Tensor]
    logits: dict[str, Tensor]

    @staticmethod
    def by(net: nn.Module, images: Images) -> Seen:
        found = {
            part.name: features_and_logits(net, getattr(images, part.name)[0], batch_size=25) for part in fields(images)
        }
        return Seen({k: v[0] for k, v in found.items()}, {k: v[1] for k, v in found.items()})


def attack(seen: Seen, images: Images, target: int, original: Seen) -> dict[str, dict[str, Any]]:
    """Accuracy on the held-out images of the class ("forget") and of others ("retain").

    For the linear probe the others are the neighbours alone, as one class.
    """
    y, test_y = images.lessons[1], images.test[1]
    own, test_own = y == target, test_y == target
    _, others = given(y, target)
    trained = images.training[1] == target
    lessons, lesson_logits = (
        torch.cat([part["lessons"][own], part["training"][trained], part["lessons"][others], part["sample"]])
        for part in (seen.features, seen.logits)
    )
    ours = int(own.sum() + trained.sum())
    labels = torch.cat([torch.full((ours,), target), y[others], images.sample[1]])
    test, test_logits = (torch.cat([part["test"], part["sample_test"]]) for part in (seen.features, seen.logits))
    test_labels = torch.cat([test_y, images.sample_test[1]])
    right, is_own = test_logits.argmax(1) == test_labels, test_labels == target
    row = prototype_row(lessons, labels, lesson_logits, test, test_labels, test_logits, target, images=PROBES, draws=5)
    near, test_near = (original.logits[part][:, target].topk(NEAR).indices for part in ("sample", "sample_test"))
    probe = linear_probe(
        torch.cat([lessons[:ours], seen.features["sample"][near]]),
        torch.cat([torch.ones(ours), torch.zeros(NEAR)]).long(),
        torch.cat([seen.features["test"][test_own], seen.features["sample_test"][test_near]]),
        torch.cat([torch.ones(int(test_own.sum())), torch.zeros(NEAR)]).long(),
        1,
    )
    return {
        "answers": {"forget": right[is_own].float().mean().item(), "retain": right[~is_own].float().mean().item()},
        "prototype row": {"forget": row.forget_accuracy, "retain": row.retain_accuracy},
        "linear probe": {"forget": probe.forget_accuracy, "retain": probe.retain_accuracy},
    }


def measure(net: nn.Module, images: Images, target: int, method: str, original: Seen) -> dict[str, Any]:
    y = images.lessons[1]
    own, others = given(y, target)
    edited = copy.deepcopy(net)
    arguments: dict[str, Any] = {"method": method, **METHODS[method]}
    if method != "lra-npp":
        arguments["retain_probes"] = tuple(
            torch.cat([mine[others], more]) for mine, more in zip(images.lessons, images.sample, strict=True)
        )
    start = time.process_time()
    result = zsu_fast.forget(edited, target, images.lessons[0][own], **arguments)
    seconds = time.process_time() - start
    found = attack(Seen.by(edited, images), images, target, original)
    return {"verdict": result.verdict.to_dict(), "cpu_seconds": round(seconds, 1), "attacks": found}


def table(results: dict[str, Any]) -> str:
    """Markdown: for each net and class every method."""
    lines = [
        f"| net | class | method | {' | '.join(SHOWN)} | CPU s |",
        f"| --- | --- | --- | {' | '.join('---' for _ in SHOWN)} | --- |",
    ]
    for row in sorted(results["rows"], key=lambda row: (row["net"], row["class"])):
        cells = [
            f"{100 * row['attacks'][name]['forget']:.0f} ({100 * row['attacks'][name]['retain']:.1f})" for name in SHOWN
        ]
        seconds = "" if row["cpu_seconds"] is None else f"{row['cpu_seconds']:.0f}"
        lines.append(f"| {row['net']} | {row['name']} | {row['method']} | {' | '.join(cells)} | {seconds} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--nets", nargs="+", choices=LATE, default=list(LATE))
    parser.add_argument("--classes", nargs="+", type=int, help="only these of the five")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--json", type=Path, help="write the results here, after every row; go on from what is there")
    parser.add_argument("--table", type=Path, help="renew docs/forgetting.md from such a file, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(insert_table(PAGE.read_text(), table(json.loads(arguments.table.read_text())), BEGIN, END))
        return
    warnings.filterwarnings("ignore", category=UserWarning)
    rows = Rows("zsu_fast depth on ImageNet", arguments.json)
    known = oracles.definitions(arguments.data)
    names = np.load(arguments.data / "imagenet_sample.npz")["names"]
    for name in arguments.nets:
        net, preprocess = known.load(name)
        late = LATE[name][0](net).eval()
        images = inputs_of(net, LATE[name][1], load_images(known, preprocess))
        original = Seen.by(late, images)
        for method in ["original", *arguments.methods]:
            for target in arguments.classes or images.lessons[1].unique().tolist():
                row = {"net": name, "class": target, "name": str(names[target]), "method": method}
                if rows.holds(row):
                    continue
                if method == "original":
                    rows.add(row, {"cpu_seconds": None, "attacks": attack(original, images, target, original)})
                else:
                    rows.add(row, measure(late, images, target, method, original))
    print(table(rows.content))


if __name__ == "__main__":
    main()
