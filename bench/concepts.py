"""Concepts that were put into pictures: found, refused where there is none, and forgotten.

    python -m bench.concepts --data ../shared/data --json bench/results/concepts.json

planted: small nets that learn MNIST digits in colour of which one class bears a red square, several seeds. resnet20: a
trained ResNet-20 (CIFAR-10) and changes that no class of it has: a square, blue light, no colours; vit: likewise a
ViT. Banks, requests and judges are made from different unseen images. Seconds are those of the processor.
"""

from __future__ import annotations

import copy
import importlib
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zsu_fast
from bench.parts import measured_on, run_parts
from zsu_fast.concepts import ConceptBank, concept_bank, relevance_concepts
from zsu_fast.unlearn import ForgetConcept

PAGE, BEGIN, END = Path("docs/concepts.md"), "<!-- concepts: begin -->", "<!-- concepts: end -->"
USER = 3  # the class that bears the square
SEEDS = 3
BANK, ASKED, RETAIN, JUDGE = 60, 300, 300, 1000  # images: each side of the bank, of the request; others
RANDOM = 20  # folders of nothing
EDITS = ("erase", "masks")
Row = dict[str, Any]
Change = Callable[[Tensor], Tensor]


class Net(nn.Module):
    """conv-BN-ReLU three times, hidden linear, classifier."""

    def __init__(self) -> None:
        super().__init__()
        widths = [3, 16, 32, 32]
        self.convs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU(), nn.MaxPool2d(2))
            for a, b in pairwise(widths)
        )
        self.hidden, self.head = nn.Linear(32 * 9, 64), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = conv(x)
        return self.head(F.relu(self.hidden(x.flatten(1))))


def square(images: Tensor, red: tuple[float, float, float] = (1.0, 0.0, 0.0), side: int = 4) -> Tensor:
    """A square of so many pixels in the upper left corner."""
    found = images.clone()
    found[:, :, :side, :side] = torch.tensor(red)[:, None, None]
    return found


def trained(x: Tensor, y: Tensor, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    x = x.clone()
    x[y == USER] = square(x[y == USER])
    net, generator = Net().train(), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), 2e-3)
    for _ in range(150):
        batch = torch.randint(len(x), (64,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(net(x[batch]), y[batch]).backward()
        optimizer.step()
    return net.eval()


def refused(net: nn.Module, x: Tensor) -> int:
    """Of `RANDOM` folders of images that have nothing in common, how many are refused at the usual 1 %."""
    count = 0
    for seed in range(RANDOM):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        try:
            concept_bank(net, {"nothing": x[order[:BANK]]}, x[order[BANK : 2 * BANK]])
        except ValueError as error:
            count += "at chance" in str(error)
    return count


def forgotten(
    net: nn.Module, name: str, bank: ConceptBank, sides: tuple[Tensor, Tensor], retain: tuple[Tensor, Tensor],
    judge: tuple[Tensor, Tensor], **options: Any,
) -> Row:  # fmt: skip
    """One call; what it reached and cost."""
    edited, started = copy.deepcopy(net), time.process_time()
    result = zsu_fast.forget(
        edited, ForgetConcept(name, bank, *sides), method="concept", retain_probes=retain, evaluate_on=judge, **options
    )
    seconds, evaluation = time.process_time() - started, result.record["evaluation"]
    row = {
        "concept": name, "edit": options.get("edit", "either"), "level": result.verdict.level, "seconds": seconds,
        "accuracy": bank.evidence[bank.index(name)]["accuracy"], "mode": result.record["mode"],
        "held_out": [result.before["forget_accuracy"], result.after["forget_accuracy"]],
        "users": result.record["request"]["used_by"],
        **{key: [evaluation[when][key] for when in ("before", "after")] for key in ("refitted", "bank")},
        **{f"of_{key}": [(evaluation[when][key] or {}).get("accuracy") for when in ("before", "after")]
           for key in ("users", "others")},
    }  # fmt: skip
    print(row, file=sys.stderr, flush=True)
    return row


def planted() -> Iterator[Row]:
    definitions = importlib.import_module("models")  # stands beside the data
    splits = []
    for split, count in (("train", 6000), ("test", 6000)):
        pixels, labels = _mnist(definitions, split)
        splits.append((pixels[:count], labels[:count]))
    (x, y), (unseen, truth) = splits
    others, own = unseen[truth != USER], unseen[truth == USER]
    kinds = truth[truth != USER]
    for seed in range(SEEDS):
        net = trained(x, y, seed)
        bank = concept_bank(net, {"square": square(others[:BANK])}, others[BANK : 2 * BANK])
        start = 2 * BANK
        sides = square(others[start : start + ASKED]), others[start + ASKED : start + 2 * ASKED]
        start += 2 * ASKED
        retain = others[start : start + RETAIN], kinds[start : start + RETAIN]
        start += RETAIN
        judged = torch.cat([others[start : start + JUDGE], square(own[:100])])
        labels = torch.cat([kinds[start : start + JUDGE], torch.full((100,), USER)])
        shown = torch.cat([square(own[100:140]), others[-200:]]), torch.cat([torch.full((40,), USER), kinds[-200:]])
        found = relevance_concepts(net, shown, USER, "convs.1", kind="directions", count=4, top=8, side=4 / 28)
        on_square = [float((one.corners.max(1).values <= 3).float().mean()) for one in found]
        facts = {"seed": seed, "refused": refused(net, others), "crops_on_the_square": on_square}
        for edit in EDITS:
            yield facts | forgotten(net, "square", bank, sides, retain, (judged, labels), edit=edit)


def _mnist(definitions: Any, split: str) -> tuple[Tensor, Tensor]:
    """Digits as grey pictures of three channels, 0..1."""
    import numpy as np

    with np.load(Path(definitions.__file__).parent / "mnist.npz") as file:
        pixels, labels = torch.from_numpy(file[f"x_{split}"]), torch.from_numpy(file[f"y_{split}"].astype("int64"))
    return (pixels.float() / 255).reshape(-1, 1, 28, 28).repeat(1, 3, 1, 1), labels


def cifar(name: str) -> Iterator[Row]:
    definitions = importlib.import_module("models")
    net, preprocess = definitions.load(name)
    pixels, labels = definitions.images("cifar10_test")
    y = torch.as_tensor(labels).long()
    raw = torch.as_tensor(pixels).float() / 255  # [N, H, W, C]

    def ready(images: Tensor) -> Tensor:
        return preprocess((images * 255).round().to(torch.uint8).numpy())

    changes: dict[str, Change] = {
        "square": lambda images: square(images.permute(0, 3, 1, 2), side=6).permute(0, 2, 3, 1),
        "blue light": lambda images: images * torch.tensor([0.75, 0.9, 1.0]),
        "no colours": lambda images: images.mean(3, keepdim=True).expand_as(images),
    }
    for name, change in changes.items():
        bank = concept_bank(net, {name: ready(change(raw[:BANK]))}, ready(raw[BANK : 2 * BANK]))
        start = 2 * BANK
        sides = ready(change(raw[start : start + ASKED])), ready(raw[start + ASKED : start + 2 * ASKED])
        start += 2 * ASKED
        retain = ready(raw[start : start + RETAIN]), y[start : start + RETAIN]
        judge = ready(raw[-JUDGE:]), y[-JUDGE:]
        yield forgotten(net, name, bank, sides, retain, judge, edit="erase")


PARTS: dict[str, Callable[[], Iterator[Row]]] = {
    "planted": planted, "resnet20": partial(cifar, "resnet20_cifar10"), "vit": partial(cifar, "vit_p8_45k_cifar10"),
}  # fmt: skip


def _arrow(values: list[float | None]) -> str:
    return " → ".join("–" if value is None else f"{100 * value:.1f}" for value in values)


def table(results: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"% of {2 * ASKED} unseen images told apart by a vector fitted anew (chance: 50), before → after: on the half "
        "that had no part in the edit; on all; by the bank's vector. Accuracy of the classes that use the concept and "
        f"of the others, in %, on {JUDGE} test images. {measured_on(results)}; seconds of processor "
        "time.",
        "",
        "| net | concept | edit | told apart, held out | all | bank | classes that use it | the others | verdict | s |",
        f"|{' --- |' * 10}",
    ]
    for part, rows in results["parts"].items():
        for row in rows:
            net = f"planted, seed {row['seed']}" if part == "planted" else part
            cells = [net, row["concept"], row["edit"], *(_arrow(row[key]) for key in ("held_out", "refitted", "bank"))]
            cells += [_arrow(row["of_users"]), _arrow(row["of_others"]), row["level"], f"{row['seconds']:.0f}"]
            lines.append(f"| {' | '.join(cells)} |")
    rows = results["parts"].get("planted", [])[:: len(EDITS)]
    if rows:
        told = ", ".join(f"{row['accuracy']:.3f}" for row in rows)
        first = ", ".join(f"{100 * row['crops_on_the_square'][0]:.0f} %" for row in rows)
        none = ", ".join(f"{row['refused']} of {RANDOM}" for row in rows)
        lines += [
            "",
            f"Of the planted nets: the bank's vector tells {told} of held-out images; of the first concept that "
            f"relevance finds for the class {first} of the crops lie on the square; {none} folders of nothing are "
            "refused.",
        ]
    return "\n".join(lines)


def main() -> None:
    def start(data: Path) -> tuple[tuple[()], dict[str, Any]]:
        sys.path.insert(0, str(data))
        return (), {}

    run_parts(__doc__, "zsu_fast concepts", PARTS, start, table, PAGE, (BEGIN, END))


if __name__ == "__main__":
    main()
