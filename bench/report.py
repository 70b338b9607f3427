"""Results for people: lines, the comparison of two files, the tables of the README and of bench/results/README.md."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bench.machine import in_a_line
from bench.runner import COPY, GEMM, ONE_TARGET, OURS

BEGIN, END = "<!-- bench table: begin -->", "<!-- bench table: end -->"
Row = dict[str, Any]

HIGHLIGHTS = (
    "activation_gate/gelu 8x197x3072",
    "layer_norm_gate/8192x768",
    "lrp_epsilon_pass/conv 8x256x56x56",
    "lrp_alpha_beta_pass/conv 8x256x56x56",
    "neuron_relevance/conv 8x256x56x56",
    "topk_count/36x4096 k=150",
    "topk_mask_/4 Mi, 10 %",
)
"""The ops that the README shows, in float32; bench/results/README.md shows them all."""


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


def medians(row: Row) -> dict[str, float]:
    return {name: timing["median"] for name, timing in row["seconds"].items()}


def ceiling(row: Row) -> tuple[str, float]:
    """What bounds the case, and the share of it that was reached: a copy of its bytes, or a GEMM's flops per second."""
    seconds = medians(row)
    if COPY in seconds:
        return "a copy", seconds[COPY] / seconds[OURS]
    rate = row["gemm_flops"] / seconds[GEMM]
    return "a GEMM's rate", row["flops"][OURS] / seconds[OURS] / rate


def line(row: Row) -> str:
    """One row as text."""
    head = f"{row['case']:<48} {row['device']:<4} {row['dtype']:<8}"
    if "failed" in row:
        return f"{head} WRONG: {row['failed']}"
    seconds = medians(row)
    ours, (of, share) = seconds[OURS], ceiling(row)
    if "bytes" in row:
        counted = f"{row['bytes'] / 1e6:.1f} MB, {row['bytes'] / ours / 1e9:.1f} GB/s"
    else:
        gflop = row["flops"][OURS] / 1e9
        counted = f"{gflop:.1f} GFLOP, {gflop / ours:.1f} GFLOP/s"
    texts = [f"{text_of_seconds(ours):>9}  {counted}, {share:.0%} of {of}"]
    for name in row.get("floors", ()):
        texts.append(f"{_of_floor(row, name)} of {name}, {text_of_seconds(seconds[name])}")
    if "further_target" in row:
        low, median, high = row["further_target"]
        texts.append(f"a further target: {median:.2f} [{low:.2f}, {high:.2f}] of {row['floors'][0]}")
    if "peak_bytes" in row:
        texts.append(f"by counting {_counted(row):.2f}, peak memory {_peak(row):.2f} of {row['floors'][0]}")
    peers = [name for name in seconds if name not in (OURS, COPY, GEMM, *row.get("floors", ()))]
    texts += [f"{name} {text_of_seconds(seconds[name])} ({seconds[name] / ours:.2f}x)" for name in peers]
    absent = "".join(f"\n    without {name}: {reason}" for name, reason in row["absent"].items())
    return f"{head} {'  '.join(texts)}{absent}"


def _of_floor(row: Row, name: str) -> str:
    """Our time in units of a floor's: median and quartiles over the rounds."""
    low, median, high = (1 / ratio for ratio in reversed(row["ratios"][name]))
    return f"{median:.2f} [{low:.2f}, {high:.2f}]"


def _counted(row: Row) -> float:
    """The arithmetic of our GEMMs and convolutions in units of the first floor's: what its time would be without any
    other work. Of a further target, if the row has one."""
    flops = row["flops"]
    return (flops[OURS] - flops.get(ONE_TARGET, 0)) / flops[row["floors"][0]]


def _peak(row: Row) -> float:
    return row["peak_bytes"][OURS] / row["peak_bytes"][row["floors"][0]]


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
        was, now = (medians(r) for r in (old[key(row)], row))
        change = now[OURS] / was[OURS]
        worst = max(worst, change)
        # What bounds the case went along both times: it tells a slower machine from slower code.
        yardstick = next(name for name in (COPY, GEMM) if name in now)
        machine = f"(a {yardstick}: {now[yardstick] / was[yardstick]:.2f}x)"
        times = f"{text_of_seconds(was[OURS])} -> {text_of_seconds(now[OURS])}  {change:.2f}x  {machine}"
        lines.append(f"{row['case']:<48} {row['device']:<4} {row['dtype']:<8} {times}")
    return lines, worst


def table(files: Iterable[dict[str, Any]]) -> str:
    """Markdown of everything in `files`: the models first, where their time goes, then the ops."""
    models, ops = _parts(files)
    where = [_kernels(rows) for _, rows in models]
    return "\n\n".join([*(_models(*part) for part in models), *where, *(_ops(*part) for part in ops)])


def summary(files: Iterable[dict[str, Any]]) -> str:
    """Markdown for the README: all models, and a handful of ops."""
    models, ops = _parts(files)
    few = [(facts, [r for r in rows if r["case"] in HIGHLIGHTS and r["dtype"] == "float32"]) for facts, rows in ops]
    return "\n\n".join([*(_models(*part) for part in models), *(_ops(*part) for part in few if part[1])])


Part = tuple[dict[str, Any], list[Row]]


def _parts(files: Iterable[dict[str, Any]]) -> tuple[list[Part], list[Part]]:
    """What was measured of models and of ops, each with the machine."""
    models: list[Part] = []
    ops: list[Part] = []
    for content in files:
        for found, wanted in ((models, True), (ops, False)):
            if rows := [row for row in _measured(content) if ("flops" in row) == wanted]:
                found.append((content["machine"], rows))
    return models, ops


def _measured(content: dict[str, Any]) -> list[Row]:
    return [row for row in content["results"] if "seconds" in row]


def _models(machine: dict[str, Any], rows: Sequence[Row]) -> str:
    """Times in units of the plain gradient's; a row for a further target holds what that one costs."""
    peers = sorted({name for row in rows for name in row["seconds"]} - {OURS, GEMM, ONE_TARGET, *_floors(rows)})
    header = ["model", "dtype", "rules", "by counting", OURS, *peers, "peak memory", "seconds", "of a GEMM's rate"]
    lines = []
    for row in rows:
        model, rules = _model_and_rules(row)
        seconds, unit = medians(row), row["floors"][0]
        if "further_target" in row:
            low, median, high = row["further_target"]
            rules, ours = f"{rules.partition(',')[0]}, each further target", f"{median:.2f} [{low:.2f}, {high:.2f}]"
        else:
            ours = _of_floor(row, unit)
        theirs = [f"{seconds[peer] / seconds[unit]:.2f}" if peer in seconds else "" for peer in peers]
        cells = [model, row["dtype"], rules, f"{_counted(row):.2f}", ours, *theirs, f"{_peak(row):.2f}"]
        lines.append([*cells, text_of_seconds(seconds[OURS]), f"{ceiling(row)[1]:.0%}"])
    return f"Models, {in_a_line(machine)}:\n\n{markdown(header, lines)}"


def _model_and_rules(row: Row) -> tuple[str, str]:
    model, _, rules = row["case"].partition("/")[2].partition(", ")
    return model, rules


def _kernels(rows: Sequence[Row]) -> str:
    """Where the time of one profiled call goes."""
    header = ["model", "rules", "contender", *rows[0]["kernels"][OURS]]
    lines = []
    for row in rows:
        if "further_target" in row:
            continue
        model, rules = _model_and_rules(row)
        for name, seconds in row["kernels"].items():
            parts = (f"{part * 1e3:.1f}" for part in seconds.values())
            lines.append([model, f"{rules} ({row['dtype']})", name, *parts])
    return f"Where the time of a profiled call goes, in milliseconds:\n\n{markdown(header, lines)}"


def _floors(rows: Sequence[Row]) -> set[str]:
    return {name for row in rows for name in row.get("floors", ())}


def _ops(machine: dict[str, Any], rows: Sequence[Row]) -> str:
    header = ["op", "dtype", OURS, "share of a copy", "time of others / ours"]
    lines = []
    for row in rows:
        seconds = medians(row)
        ours = seconds[OURS]
        others = (f"{name} {t / ours:.1f}x" for name, t in seconds.items() if name not in (OURS, COPY))
        lines.append([row["case"], row["dtype"], text_of_seconds(ours), f"{ceiling(row)[1]:.0%}", ", ".join(others)])
    return f"Ops, {in_a_line(machine)}:\n\n{markdown(header, lines)}"


def markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


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
