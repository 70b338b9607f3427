"""The command line of a benchmark that measures in parts, row by row into one file, whose table stands in a page."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from bench import machine
from bench.report import insert_table


def run_parts(
    description: str | None,
    kind: str,
    parts: Mapping[str, Callable[..., Iterable[dict[str, Any]]]],
    start: Callable[[Path], tuple[tuple[Any, ...], dict[str, Any]]],
    table: Callable[[dict[str, Any]], str],
    page: Path,
    markers: tuple[str, str],
    folder: tuple[str, Path, str] = ("--data", Path("../shared/data"), "folder with models.py and its files"),
) -> None:
    """Each of the parts asked for anew; the others stay in the file. start: folder -> (arguments of a part, what else
    the file says). folder: the option that names it, its default, and what it is."""
    flag, default, text = folder
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(flag, dest="folder", type=Path, default=default, help=f"{text} (%(default)s)")
    parser.add_argument("--json", type=Path, required=True, help="write the results here")
    parser.add_argument("--parts", default=",".join(parts), help="of the measurement; others stay in the file")
    parser.add_argument("--table", action="store_true", help=f"renew {page.name} from the file, and nothing else")
    arguments = parser.parse_args()
    path = arguments.json
    if arguments.table:
        page.write_text(insert_table(page.read_text(), table(json.loads(path.read_text())), *markers))
        return
    torch.set_num_threads(1)
    given, facts = start(arguments.folder)
    results: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"kind": kind, "parts": {}}
    measured = results.setdefault("measured", {})  # each part's machine, day and commit: parts are renewed one by one
    if "machine" in results:
        measured |= {part: machine.in_a_line(results["machine"]) for part in results["parts"] if part not in measured}
    results |= {"machine": machine.describe(torch.device("cpu"))} | facts
    for part in arguments.parts.split(","):
        rows: list[dict[str, Any]] = []
        for found in parts[part](*given):
            rows.append(found)
            results["parts"][part] = rows
            measured[part] = machine.in_a_line(results["machine"])
            path.write_text(json.dumps(results, indent=1) + "\n")


def measured_on(results: dict[str, Any]) -> str:
    """In a line: the machine, day and commit of all parts, or of which ones each."""
    measured = results.get("measured", {})
    return in_lines((part, measured.get(part) or machine.in_a_line(results["machine"])) for part in results["parts"])


def in_lines(named: Iterable[tuple[str, str]]) -> str:
    """(name, line) pairs: each line once, behind its names where there are several."""
    found: dict[str, list[str]] = {}
    for name, line in named:
        found.setdefault(line, []).append(name)
    return "; ".join(f"{', '.join(names)}: {line}" if len(found) > 1 else line for line, names in found.items())
