"""A generator of MNIST digits forgets given images: some that it makes, and some that it was probably trained on.

    python -m bench.items --data ../shared/data --json bench/results/items.json

Unseen images are of MNIST's test set. LeNet-5 says what share of other latents keep their class; it has no part in the
edit. Seconds are those of the processor, with all searches: before the edit, in it, and those that judge it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import zsu_fast
from bench import machine
from bench.generators import Bench, lines_of, percent
from bench.report import insert_table
from zsu_fast.unlearn import ForgetItems

PAGE, BEGIN, END = Path("docs/generators.md"), "<!-- items: begin -->", "<!-- items: end -->"
CASES = (("made", 1, 1.5), ("made", 8, 1.5), ("training", 1, 1.5), ("training", 8, 1.5), ("made", 64, 2.0))
"""Where they are from, how many, and how many times as far as before counts as gone."""
UNSEEN = 24
Row = dict[str, Any]


def items_of(bench: Bench, source: str, count: int) -> Tensor:
    if source == "training":
        return bench.images("train", count)
    with torch.no_grad():
        made: Tensor = bench.generator(torch.randn(count, 64, generator=torch.Generator().manual_seed(5)))
    return made


def rows(bench: Bench, cases: Sequence[tuple[str, int, float]] = CASES) -> Iterator[Row]:
    for source, count, worse in cases:
        items, unseen = items_of(bench, source, count), bench.images("test", UNSEEN)
        request = ForgetItems(items, 64, unseen, classifier=bench.judge, worse=worse)
        started = time.process_time()
        result = zsu_fast.forget(bench.model(), request, method="hunt", utility_floor=0.5)
        seconds = time.process_time() - started
        seen = {
            when: {name: value for name, value in found.items() if name != "found"}
            for when, found in result.record["evaluation"].items()
        }
        verdict = result.verdict
        about = {"source": source, "count": count, "worse": worse, "verdict": verdict.level, "left": verdict.right}
        yield about | {"seconds": seconds} | seen


def lines(rows: list[Row], title: str) -> list[str]:
    found = []
    for row in rows:
        b, a = row["before"], row["after"]
        found.append([
            f"{row['count']}, {row['source']}", f"{row['worse']:g} times", row["verdict"],
            f"{row['count'] - row['left']} of {row['count']}",
            f"{statistics.median(b['errors']):.5f} → {statistics.median(a['errors']):.5f} "
            f"(least {min(a['errors']):.5f})", f"{b['unseen_error']:.5f} → {a['unseen_error']:.5f}",
            percent(a["kept_same"]), percent(a["same_class"]), f"{a['psnr'][0]:.1f} ({a['psnr'][1]:.1f})",
            f"{b['roughness']:.4f} → {a['roughness']:.4f}", f"{row['seconds']:.0f}",
        ])  # fmt: skip
    columns = ["items", "gone from", "verdict", "gone", "error, median", "error of unseen", "kept",
               "class kept", "PSNR", "roughness", "seconds"]  # fmt: skip
    return lines_of(title, columns, found)


def table(results: dict[str, Any]) -> str:
    commits = ", ".join(dict.fromkeys(row["commit"] for row in results["rows"]))
    title = (
        f"MNIST generator; {UNSEEN} unseen images; 2,000 other latents, by how many of them make what they made, keep "
        f"their class by LeNet-5, and PSNR in dB (median, and what 95 % exceed). "
        f"{machine.in_a_line(results['machine'] | {'commit': commits})}; seconds of processor time, with all searches."
    )
    return "\n".join(lines(results["rows"], title)).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder of the nets and images")
    parser.add_argument("--json", type=Path, required=True, help="write the results here")
    parser.add_argument("--counts", nargs="+", type=int, help="renew the rows of so many items (default: all)")
    parser.add_argument("--table", action="store_true", help="renew docs/generators.md from the file, and nothing else")
    asked = parser.parse_args()
    if asked.table:
        PAGE.write_text(insert_table(PAGE.read_text(), table(json.loads(asked.json.read_text())), BEGIN, END))
        return
    results: dict[str, Any] = {"kind": "zsu_fast items of generators", "rows": []}
    if asked.counts and asked.json.exists():
        held = json.loads(asked.json.read_text())
        results["rows"] = [row for row in held["rows"] if row["count"] not in asked.counts]
    results["machine"] = machine.describe(torch.device("cpu"))
    cases = [case for case in CASES if not asked.counts or case[1] in asked.counts]
    for row in rows(Bench(asked.data, []), cases):
        results["rows"].append(row | {"commit": results["machine"]["commit"]})
        asked.json.write_text(json.dumps(results, indent=1) + "\n")
        print(row, flush=True)


if __name__ == "__main__":
    main()
