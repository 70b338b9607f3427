"""One table of depth for every method, from what ``zsu-fast benchmark`` measured.

    python -m bench.oracles --models lenet5_mnist --classes 3 8
    ZSU_FAST_DATA=../shared/data zsu-fast benchmark bench/paper/lenet5_mnist.yaml --out field
    python -m bench.field --keep field --json bench/results/field_lenet5.json
    python -m bench.field --table bench/results/field_lenet5.json

`--keep` takes from the benchmark's results.json what the table says and on what it rests: the lines and a row for each
cell, without the curves.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from bench import machine
from bench.report import insert_table, markdown
from zsu_fast.benchmark.page import size_of
from zsu_fast.benchmark.ranking import LAST, RULES, ranked
from zsu_fast.benchmark.settings import FEW, ORIGINAL, PROBES, REFERENCES, TRAIN

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN, END = "<!-- field: begin -->", "<!-- field: end -->"
LEARNS_FROM = {PROBES: "few of the class", FEW: "few of all", TRAIN: "all training images"}


def kept(results: dict[str, Any]) -> dict[str, Any]:
    """Of a benchmark's results, what is committed."""
    rows = [{k: v for k, v in row.items() if k not in ("measured", "config")} for row in results["rows"]]
    entries = {
        row["method"]: {key: row["config"][key] for key in ("method", "data", "options")}
        for row in results["rows"]
        if row["method"] not in REFERENCES
    }
    threads, *others = {row["measured"]["threads"] for row in results["rows"]}
    assert not others, "cells were measured with different numbers of threads: their times do not compare"
    return {
        "kind": "zsu_fast field",
        "name": results["name"],
        "machine": machine.describe(torch.device("cpu")) | {"threads": threads},
        "models": results["models"],
        "measures": results["measures"],
        "methods": entries,
        "summary": results["summary"],
        "rows": rows,
    }


def table(results: dict[str, Any]) -> str:
    header = [
        "", "method", "learns from", "the class", "the others", "linear probe", "prototype row", "back after", "holds",
        "CPU s", "undo file",
    ]  # fmt: skip
    parts = []
    for model, facts in results["models"].items():
        lines = [line for line in results["summary"] if line["model"] == model]
        places = [("", line) for line in lines if line["method"] in REFERENCES]
        places += [(str(place), line) for place, line in enumerate(ranked(lines, RULES[0]), 1)]
        steps = results["measures"]["relearn_steps"]
        rows = [[place, *_cells(line, results["methods"], steps)] for place, line in places]
        classes = lines[0]["classes"]
        images = facts["images"]
        parts.append(
            f"{results['name']}, classes {', '.join(map(str, classes))}, {images['test']} images judge; "
            f"{machine.in_a_line(results['machine'])}. In %, means over the classes; in brackets the share of the way "
            "from the original to the retrained net.\n\n"
            f"{markdown(header, rows)}\n\nOrder: {RULES[0].text} {LAST}"
        )
    return "\n\n".join(parts)


def _cells(line: dict[str, Any], methods: dict[str, Any], steps: int) -> list[str]:
    name = line["method"]
    shown = name if name not in REFERENCES else "*original*" if name == ORIGINAL else "*retrained without it*"
    given = LEARNS_FROM[methods[name]["data"]] if name in methods else ""
    if line["left_alone"]:
        shown += f" (left alone in {line['left_alone']} of {line['done']})"
    cells = [shown, given]
    for key in ("answers", "others", "linear_probe", "prototype"):
        text = f"{100 * line[key]:.1f}"
        share = line.get(f"share_{key}")
        cells.append(f"{text} [{share:.2f}]" if share is not None and name in methods else text)
    back = f"{line['relearn_steps']:g}" if line["relearned"] else f"not in {steps}"
    holds = f"{line['holds']} of {line['judged']}" if line["judged"] else ""
    seconds = "" if line["cpu_seconds"] is None else f"{line['cpu_seconds']:.1f}"
    size = "" if line["patch_bytes"] is None else size_of(line["patch_bytes"])
    return [*cells, back, holds, seconds, size]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=Path, help="folder of a benchmark, to be written to --json")
    parser.add_argument("--json", type=Path, help="write the results here")
    parser.add_argument("--table", type=Path, help="renew the page from such a file")
    parser.add_argument("--page", type=Path, default=README, help="that has a place for it (README.md)")
    arguments = parser.parse_args()
    if arguments.keep and arguments.json:
        found = kept(json.loads((arguments.keep / "results.json").read_text()))
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    if arguments.table:
        text = table(json.loads(arguments.table.read_text()))
        arguments.page.write_text(insert_table(arguments.page.read_text(), text, BEGIN, END))


if __name__ == "__main__":
    main()
