"""python -m bench run | compare | table | list"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench import machine, report
from bench.registry import all_cases
from bench.runner import run

RESULTS = Path(__file__).resolve().parent / "results"
README, WHOLE = RESULTS.parent.parent / "README.md", RESULTS / "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    return options.command(options)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks of zsu_fast: ops and models.")
    commands = parser.add_subparsers(required=True)

    run_parser = commands.add_parser("run", help="check every case, then time it against its peers")
    run_parser.add_argument("--filter", help="only cases whose name contains this or matches it as a shell pattern")
    run_parser.add_argument("--without", help="but not those that this matches")
    run_parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda" if torch.cuda.is_available() else "cpu")
    run_parser.add_argument("--seconds", type=float, default=1.0, help="of measuring, per contender (default: 1)")
    run_parser.add_argument("--threads", type=int, help="threads of torch on the CPU")
    run_parser.add_argument("--peer", action="append", help="this peer, and no other that is not named", metavar="NAME")
    run_parser.add_argument("--no-peer", action="append", default=[], help="not this peer", metavar="NAME")
    run_parser.add_argument("--at-most", type=float, help="start no case after so many seconds", metavar="SECONDS")
    run_parser.add_argument("--json", type=Path, help="write the results to this file")
    run_parser.set_defaults(command=_run)

    compare_parser = commands.add_parser("compare", help="two files of results, case by case")
    compare_parser.add_argument("before", type=Path)
    compare_parser.add_argument("after", type=Path)
    compare_parser.add_argument("--fail-above", type=float, help="exit 1 if a case takes more than this times as long")
    compare_parser.set_defaults(command=_compare)

    table_parser = commands.add_parser("table", help="write the tables of README.md and bench/results/README.md")
    table_parser.add_argument("--readme", type=Path, default=README, help="gets the models and a handful of ops")
    table_parser.add_argument("--whole", type=Path, default=WHOLE, help="gets every case")
    table_parser.add_argument("files", nargs="*", type=Path, help="results (default: all of bench/results)")
    table_parser.set_defaults(command=_table)

    list_parser = commands.add_parser("list", help="the names of the cases")
    list_parser.set_defaults(command=_list)
    return parser


def _run(options: argparse.Namespace) -> int:
    if options.threads:
        torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    deadline = math.inf if options.at_most is None else time.monotonic() + options.at_most
    facts = machine.describe(device)
    rows: list[dict[str, Any]] = []

    def wanted(peer: str) -> bool:
        return peer not in options.no_peer and (options.peer is None or peer in options.peer)

    for row in run(options.filter, device, options.seconds, options.without, wanted):
        print(report.line(row), flush=True)
        rows.append(row)
        if options.json:  # after every row: what was measured stays, whatever happens
            content = {"kind": "zsu_fast op benchmark", "machine": facts, "results": rows}
            options.json.parent.mkdir(parents=True, exist_ok=True)
            options.json.write_text(json.dumps(content, indent=1) + "\n")
        if time.monotonic() > deadline:
            print(f"stopped after {options.at_most:.0f} s: what cases follow are left out")
            break
    if not rows:
        print(f"no case for {options.device} matches {options.filter!r}", file=sys.stderr)
        return 2
    return 1 if any("failed" in row for row in rows) else 0


def _compare(options: argparse.Namespace) -> int:
    lines, worst = report.compare(*(report.load(path)["results"] for path in (options.before, options.after)))
    print("\n".join(lines) if lines else "the two files have no case in common")
    return 1 if not lines or (options.fail_above is not None and worst > options.fail_above) else 0


def _table(options: argparse.Namespace) -> int:
    files = options.files or result_files()
    if not files:
        print(f"no results: python -m bench run --json {RESULTS / 'ops_cpu.json'}", file=sys.stderr)
        return 2
    contents = [report.load(path) for path in files]
    for path, text in ((options.readme, report.summary(contents)), (options.whole, report.table(contents))):
        path.write_text(report.insert_table(path.read_text(), text))
    return 0


def result_files() -> list[Path]:
    """What `run --json` left in bench/results."""
    return sorted([*RESULTS.glob("models_*.json"), *RESULTS.glob("ops_*.json")])


def _list(options: argparse.Namespace) -> int:
    print("\n".join(case.name for case in all_cases()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
