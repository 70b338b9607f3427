"""U-LiRA on small nets: can nets that unlearned training images be told from nets that never saw them?

    python -m bench.lira --data ../shared/data --json bench/results/lira.json

A LeNet for CIFAR-10 is trained over and over, each time on other images: once with the sixteen that are to be forgotten
and once, with the same seed, without them. The first unlearns; the attack (`zsu_fast.evaluate.likelihood_ratio`) knows
the losses of all such pairs but one and says of that one which is which. Controls: nets that unlearned nothing, and
nets trained anew without the images from another seed, which nobody can tell.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import zsu_fast
from bench import oracles
from bench.parts import run_parts
from bench.training import one_cycle
from zsu_fast.evaluate import likelihood_ratio
from zsu_fast.unlearn import ForgetInstances

PAIRS, FORGOTTEN, TRAINING, UNSEEN, TEST = 24, 16, 2000, 500, 2000
EPOCHS, BATCH, PEAK = 30, 50, 0.02
PAGE, BEGIN, END = Path("docs/instances.md"), "<!-- lira: begin -->", "<!-- lira: end -->"
Row = dict[str, Any]


class Nets:
    """The images, and nets trained on some of them."""

    def __init__(self, data: Path) -> None:
        known = oracles.definitions(data)
        self.build, preprocess = known.MODELS["lenet_cifar10"]
        (x, y), (test_x, test_y) = known.images("cifar10_train_subset"), known.images("cifar10_test")
        self.x, self.y = preprocess(x), torch.as_tensor(y).long()
        self.test_x, self.test_y = preprocess(test_x), torch.as_tensor(test_y).long()
        self.unseen = self.test_x[:UNSEEN], self.test_y[:UNSEEN]
        self._pairs: list[tuple[nn.Module, nn.Module]] = []

    @property
    def forgotten(self) -> tuple[Tensor, Tensor]:
        return self.x[:FORGOTTEN], self.y[:FORGOTTEN]

    def trained(self, seed: int, whole: bool) -> nn.Module:
        generator = torch.Generator().manual_seed(seed)
        others = FORGOTTEN + torch.randperm(len(self.x) - FORGOTTEN, generator=generator)[:TRAINING]
        chosen = torch.cat([torch.arange(FORGOTTEN), others]) if whole else others
        torch.manual_seed(seed)
        net = self.build()
        optimizer = torch.optim.SGD(net.parameters(), PEAK, 0.9, weight_decay=5e-4, nesterov=True)
        steps, step = EPOCHS * -(-len(chosen) // BATCH), 0
        for _ in range(EPOCHS):
            for batch in chosen[torch.randperm(len(chosen), generator=generator)].split(BATCH):
                optimizer.param_groups[0]["lr"] = one_cycle(step, steps, PEAK)
                optimizer.zero_grad()
                F.cross_entropy(net(self.x[batch]), self.y[batch]).backward()
                optimizer.step()
                step += 1
        return net.eval()

    def pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """With the images that are to be forgotten, and without them."""
        for seed in range(len(self._pairs), PAIRS):
            self._pairs.append((self.trained(seed, True), self.trained(seed, False)))
            print(f"pair {seed + 1} of {PAIRS}", file=sys.stderr, flush=True)
        return self._pairs

    def row(self, what: str, unlearned: list[nn.Module], **facts: Any) -> Row:
        """The attack on these nets beside those that never saw the images."""
        x, y = self.forgotten
        with torch.no_grad():
            logits = [
                torch.stack([net(x) for net in nets]) for nets in (unlearned, [never for _, never in self.pairs()])
            ]
            right = sum(
                float((net(self.test_x[-TEST:]).argmax(1) == self.test_y[-TEST:]).double().mean()) for net in unlearned
            )
        found = likelihood_ratio(logits[0], logits[1], y)
        row = {
            "what": what, "accuracy": found.accuracy, "interval": list(found.interval), "auc": found.auc,
            "hits_at_1_percent": found.hits_at_1_percent, "of_images": found.of_images.tolist(),
            "test": right / len(unlearned), **facts,
        }  # fmt: skip
        print(row, file=sys.stderr, flush=True)
        return row


def controls(nets: Nets) -> Iterator[Row]:
    yield nets.row("nothing was unlearned", [member for member, _ in nets.pairs()])
    yield nets.row("trained anew without them", [nets.trained(1000 + seed, False) for seed in range(PAIRS)])


def margin(nets: Nets) -> Iterator[Row]:
    for request in (
        ForgetInstances(*nets.forgotten),
        ForgetInstances(*nets.forgotten, "unseen", unseen=nets.unseen),
    ):
        unlearned, reached = [], 0
        for seed, (member, _) in enumerate(nets.pairs()):
            net = copy.deepcopy(member)
            reached += zsu_fast.forget(net, request, method="margin", seed=seed, budget=1).reached
            unlearned.append(net)
        yield nets.row(f'`margin`, goal "{request.goal}"', unlearned, reached=reached)


def table(results: dict[str, Any]) -> str:
    lines = [
        f"{PAIRS} pairs of LeNets on {TRAINING} images of CIFAR-10 each, {FORGOTTEN} more in one of the two. Guesses "
        "of the attack that are right (50 %: the nets cannot be told; 95 % interval over pairs), area under its curve, "
        "members found at 1 % false alarms:",
        "",
        "| the nets that had the images | right | area | found at 1 % | accuracy on test images |",
        "| --- | --- | --- | --- | --- |",
    ]
    for part in PARTS:
        for row in results["parts"].get(part, []):
            low, high = row["interval"]
            lines.append(
                f"| {row['what']} | {row['accuracy']:.1%} ({low:.1%} to {high:.1%}) | {row['auc']:.2f} | "
                f"{row['hits_at_1_percent']:.1%} | {row['test']:.1%} |"
            )
    return "\n".join(lines)


PARTS = {"controls": controls, "margin": margin}


def start(data: Path) -> tuple[tuple[Nets], dict[str, Any]]:
    return (Nets(data),), {"pairs": PAIRS, "forgotten": FORGOTTEN, "training": TRAINING}


if __name__ == "__main__":
    run_parts(__doc__, "zsu_fast lira", PARTS, start, table, PAGE, (BEGIN, END))
