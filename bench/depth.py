"""How deep the methods forget: attacks on ResNet-20 (CIFAR-10), beside a net retrained without the class.

    python -m bench.depth --data ../shared/data --json bench/results/depth.json

The pair has one recipe and one seed, with and without class 3. Of the unseen test images some are the attacker's
lessons (2,000 or, in the second round, 36 of the class and 20 of each other), others judge; probes and retain images of
the edits are among the lessons.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zsu_fast
from bench import machine
from bench.report import insert_table
from zsu_fast.evaluate import depth

TARGET = 3
ALL, WITHOUT = "resnet20_pair_all_cifar10", "resnet20_pair_without_cat_cifar10"
METHODS: dict[str, dict[str, Any]] = {
    "lra-npp": {"method": "lra-npp"},
    "channels, price 2 points": {"method": "channels", "scope": "global", "score": "contrastive", "until": 0.3},
}
PROBES, RETAIN = 36, 20
LESSONS, TEST = 2000, 2500  # unseen images of all classes, apart
PAGE, BEGIN, END = Path("docs/forgetting.md"), "<!-- depth: begin -->", "<!-- depth: end -->"


def few(labels: Tensor) -> Tensor:
    """Indices of 36 images of the class and 20 of each other, drawn."""
    generator = torch.Generator().manual_seed(0)
    chosen = []
    for label in labels.unique().tolist():
        own = (labels == label).nonzero()[:, 0]
        chosen.append(own[torch.randperm(len(own), generator=generator)[: PROBES if label == TARGET else RETAIN]])
    return torch.cat(chosen)


def table(results: dict[str, Any]) -> str:
    """Markdown: for each method and attack the class before, after and under the oracle, and the share of the way."""
    lines = [
        f"ResNet-20, CIFAR-10, class {TARGET}; % of its unseen images that the attack has back (the others). "
        "Channels: 180 retain images, `until=0.3`, scope global. Relearning: 32 steps of Adam at 1e-4, which for a row "
        "of inverted weights is too short a way to say anything of the features.",
        "",
        "| lessons | method | attack | original | edited | oracle | share of the way [95 %] |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["rows"]:
        for name, attack in row["depth"]["attacks"].items():
            cells = [
                f"{100 * attack['forget'][who]:.1f} ({100 * attack['retain'][who]:.1f})"
                for who in ("original", "edited", "oracle")
            ]
            share = "" if attack["share"] is None else f"{attack['share']:.2f}"
            if attack["interval"]:
                share += " [{:.2f}, {:.2f}]".format(*attack["interval"])
            lines.append(f"| {row['lessons']} | {row['method']} | {name} | {' | '.join([*cells, share])} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--table", type=Path, help="renew docs/forgetting.md from such a file, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(insert_table(PAGE.read_text(), table(json.loads(arguments.table.read_text())), BEGIN, END))
        return
    sys.path.insert(0, str(arguments.data))
    definitions = importlib.import_module("models")  # stands beside the weights
    pixels, known = definitions.images("cifar10_test")
    oracle, preprocess = definitions.load(WITHOUT)
    x, y = preprocess(pixels), torch.as_tensor(known)
    lessons, test = (x[:LESSONS], y[:LESSONS]), (x[-TEST:], y[-TEST:])
    some = few(lessons[1])
    probes = some[lessons[1][some] == TARGET]
    retain = some[lessons[1][some] != TARGET]
    results: dict[str, Any] = {
        "kind": "zsu_fast depth",
        "machine": machine.describe(torch.device("cpu")),
        "rows": [],
    }
    for method, options in METHODS.items():
        original: nn.Module = definitions.load(ALL)[0]
        edited: nn.Module = definitions.load(ALL)[0]
        given: dict[str, Any] = (
            {} if method == "lra-npp" else {"retain_probes": (lessons[0][retain], lessons[1][retain])}
        )
        result = zsu_fast.forget(edited, TARGET, lessons[0][probes], **options, **given)
        for name, chosen in (("2,000", slice(None)), ("36 + 9 x 20", some)):
            found = depth(
                edited, original, (lessons[0][chosen], lessons[1][chosen]), test, TARGET, oracle=oracle, batch_size=64
            )
            results["rows"].append(
                {"method": method, "lessons": name, "verdict": result.verdict.to_dict(), "depth": found.to_dict()}
            )
            print(f"{method}, {name} lessons: holds {found.holds}", file=sys.stderr, flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
