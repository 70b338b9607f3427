"""Do our SSD and SUPREME's make the same edit? LeNet-5 on MNIST; the same images, alpha and lambda.

    python -m bench.supreme_ssd --data ../shared/data --json bench/results/supreme_ssd.json
    python -m bench.supreme_ssd --table bench/results/supreme_ssd.json

With all images in one mini-batch nothing is drawn: the edits should be the same but for rounding, so these run in
float64. Mini-batches of all training images are drawn, by each in its own way: beside them our own edits by two
seeds.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import zsu_fast
from bench import depth, machine, oracles
from bench.report import insert_table, markdown
from bench.supreme import registered

NET, CLASSES = "lenet5_mnist", (3, 8)
PAGE, BEGIN, END = Path("docs/baselines.md"), "<!-- supreme ssd: begin -->", "<!-- supreme ssd: end -->"
Pair = tuple[Tensor, Tensor]


def edited(net: nn.Module, target: int, images: Pair, method: str, batch: int, seed: int = 0) -> nn.Module:
    """A copy of the net after the method's edit."""
    net, of_class = copy.deepcopy(net), images[1] == target
    retain = images[0][~of_class], images[1][~of_class]
    with registered():
        zsu_fast.forget(
            net, target, images[0][of_class], method=method, retain_probes=retain, budget=1, seed=seed,
            train_batch_size=batch,
        )  # fmt: skip
    return net


def compared(net: nn.Module, one: nn.Module, other: nn.Module) -> dict[str, Any]:
    """How many parameters each changed, how many both did, and how far apart the values are that they left there."""
    before, first, second = (
        torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (net, one, other)
    )
    changed, too = first != before, second != before
    both = changed & too
    apart = (first - second)[both].abs() / before[both].abs()
    return {
        "parameters": len(before),
        "one": int(changed.sum()),
        "other": int(too.sum()),
        "both": int(both.sum()),
        "apart": float(apart.max()) if len(apart) else 0.0,
        "apart_median": float(apart.median()) if len(apart) else 0.0,
    }


def measure(case: depth.Case) -> list[dict[str, Any]]:
    some, rows = depth.few(case.lessons[1], case.target), []
    net = copy.deepcopy(case.original).double()
    few = case.lessons[0][some].double(), case.lessons[1][some]
    for name in ("ssd", "lfssd"):
        pair = [edited(net, case.target, few, method, len(some)) for method in (name, f"supreme-{name}")]
        row = {"method": name, "images": f"{len(some)}, one mini-batch", "what": "ours, SUPREME's"}
        rows.append(row | compared(net, *pair))
    everything = case.training()
    ours, theirs, again = (
        edited(case.original, case.target, everything, method, 128, seed)
        for method, seed in (("ssd", 0), ("supreme-ssd", 0), ("ssd", 1))
    )
    row = {"method": "ssd", "images": f"{len(everything[1])}, mini-batches of 128"}
    rows.append(row | {"what": "ours, SUPREME's"} | compared(case.original, ours, theirs))
    rows.append(row | {"what": "ours, ours by another seed"} | compared(case.original, ours, again))
    return [{"class": case.target} | row for row in rows]


def table(results: dict[str, Any]) -> str:
    header = ["method", "class", "images", "edits", "each changed", "both changed", "apart, median", "apart, at most"]
    rows = [
        [
            row["method"], str(row["class"]), row["images"], row["what"], f"{row['one']}, {row['other']}",
            str(row["both"]), f"{row['apart_median']:.1e}", f"{row['apart']:.1e}",
        ]
        for row in results["rows"]
    ]  # fmt: skip
    return (
        f"LeNet-5 on MNIST, {results['rows'][0]['parameters']} parameters; {machine.in_a_line(results['machine'])}. "
        "Apart: of what both changed, as shares of the parameters before.\n\n" + markdown(header, rows)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument("--cache", type=Path, default=oracles.CACHE, help="folder of bench.oracles (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--table", type=Path, help=f"renew {PAGE} from such a file, and do nothing else")
    arguments = parser.parse_args()
    if arguments.table:
        PAGE.write_text(insert_table(PAGE.read_text(), table(json.loads(arguments.table.read_text())), BEGIN, END))
        return
    cases = depth.cases(NET, oracles.definitions(arguments.data), arguments.cache, CLASSES)
    results = {
        "kind": "zsu_fast supreme ssd",
        "machine": machine.describe(torch.device("cpu")),
        "rows": [row for case in cases for row in measure(case)],
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))


if __name__ == "__main__":
    main()
