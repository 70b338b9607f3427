"""Results for people: lines, the comparison of two files, the table of the README."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.runner import COPY, OURS

BEGIN, END = "<!-- bench table: begin -->", "<!-- bench table: end -->"
Row = dict[str, Any]


def load(path: Path) -> dict[str, Any]:
    """A file that `run --json` wrote.

    Raises:
        ValueError: it is something else.
    """
    content = json.loads(path.read_text())
    if not isinstance(content, dict) or content.get("kind") != "zsu_fast op benchmark":
        raise ValueError(f"{path} was not written by `python -m bench run --json`")
    return content


def key(row: Row) -> tuple[str, str, str]:
    return row["case"], row["device"], row["dtype"]


def line(row: Row) -> str:
    """One row as text."""
    head = f"{row['case']:<48} {row['device']:<4} {row['dtype']:<8}"
    if "failed" in row:
        return f"{head} WRONG: {row['failed']}"
    seconds = {name: timing["median"] for name, timing in row["seconds"].items()}
    ours = seconds.pop(OURS)
    share = seconds.pop(COPY) / ours
    peers = "  ".join(f"{name} {text_of_seconds(t)} ({t / ours:.2f}x)" for name, t in seconds.items())
    traffic = f"{row['bytes'] / 1e6:.1f} MB, {row['bytes'] / ours / 1e9:.1f} GB/s, {share:.0%} of a copy"
    absent = "".join(f"\n    without {name}: {reason}" for name, reason in row["absent"].items())
    return f"{head} {text_of_seconds(ours):>9}  {traffic}  {peers}{absent}"


def text_of_seconds(seconds: float) -> str:
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} us"


def compare(before: Sequence[Row], after: Sequence[Row]) -> tuple[list[str], float]:
    """Lines for the cases that both have, and the largest ratio of times, after over before."""
    old = {key(row): row for row in before if "seconds" in row}
    lines, worst = [], 0.0
    for row in after:
        if "seconds" not in row or key(row) not in old:
            continue
        was, now = (r["seconds"][OURS]["median"] for r in (old[key(row)], row))
        # The copy of the same size went along both times: it tells a slower machine from slower code.
        machine = row["seconds"][COPY]["median"] / old[key(row)]["seconds"][COPY]["median"]
        worst = max(worst, now / was)
        change = f"{text_of_seconds(was)} -> {text_of_seconds(now)}  {now / was:.2f}x  (a copy: {machine:.2f}x)"
        lines.append(f"{row['case']:<48} {row['device']:<4} {row['dtype']:<8} {change}")
    return lines, worst


def table(files: Iterable[dict[str, Any]]) -> str:
    """Markdown: one table per file."""
    return "\n\n".join(_table(content) for content in files)


def _table(content: dict[str, Any]) -> str:
    machine, rows = content["machine"], [row for row in content["results"] if "seconds" in row]
    peers = sorted({name for row in rows for name in row["seconds"]} - {OURS, COPY})
    where = machine.get("gpu") or f"{machine['cpu']}, {machine['threads']} threads"
    header = ["op", "dtype", OURS, "share of a copy", *(f"against {peer}" for peer in peers)]
    lines = [
        f"{where}, torch {machine['torch']}, {machine['date'][:10]}, commit {machine['commit']}:",
        "",
        f"| {' | '.join(header)} |",
        f"| {' | '.join('---' for _ in header)} |",
    ]
    for row in rows:
        seconds = {name: timing["median"] for name, timing in row["seconds"].items()}
        ours = seconds[OURS]
        ratios = [f"{seconds[peer] / ours:.1f}x" if peer in seconds else "" for peer in peers]
        cells = [row["case"], row["dtype"], text_of_seconds(ours), f"{seconds[COPY] / ours:.0%}", *ratios]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def insert_table(readme: str, text: str, begin: str = BEGIN, end: str = END) -> str:
    """`readme` with `text` between its markers.

    Raises:
        ValueError: it has not exactly one pair of markers.
    """
    if readme.count(begin) != 1 or readme.count(end) != 1 or readme.index(begin) > readme.index(end):
        raise ValueError(f"the file must contain {begin} and, after it, {end}, once each")
    head, rest = readme.split(begin)
    tail = rest.split(end)[1]
    return f"{head}{begin}\n{text}\n{end}{tail}"
