"""Tables on the terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

from zsu_fast.evaluate import Evaluation, ProbeResult


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def before_after(
    title: str,
    before: Evaluation | None,
    after: Evaluation | None,
    probe_before: ProbeResult | None = None,
    probe_after: ProbeResult | None = None,
) -> Table:
    """What a model knew and knows; without ``before`` a table of one column."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("")
    names = ["before", "after"] if before is not None else ["accuracy"]
    for name in names:
        table.add_column(name, justify="right")
    table.add_column("95 % interval", justify="right", style="dim")
    found = [e for e in (before, after) if e is not None]
    if found:
        last = found[-1]
        rows = (
            ("forget: the class", [e.forget_accuracy for e in found], last.forget_interval),
            ("retain: all others", [e.retain_accuracy for e in found], last.retain_interval),
        )
        for what, values, interval in rows:
            span = "" if interval is None else f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}"
            table.add_row(what, *map(percent, values), span)
    probes = [p for p in (probe_before, probe_after) if p is not None]
    if probes and len(probes) == len(names):
        table.add_row("linear probe: the class", *(percent(p.forget_accuracy) for p in probes), "")
        table.add_row("linear probe: all others", *(percent(p.retain_accuracy) for p in probes), "")
    return table


def per_class(evaluation: Evaluation, names: dict[int, str], most: int = 30) -> Table:
    """Accuracy of each class; of many only the targets and the worst."""
    table = Table(title_justify="left", title_style="bold")
    for column in ("class", "images", "accuracy"):
        table.add_column(column, justify="left" if column == "class" else "right")
    classes = list(evaluation.per_class)
    if len(classes) > most:
        worst = sorted(classes, key=lambda c: (c not in evaluation.targets, evaluation.per_class[c]))
        classes = sorted(worst[:most])
        table.title = f"{most} of {len(evaluation.per_class)} classes: the targets and the worst (--json has all)"
    for index in classes:
        label = f"{index} {names[index]}" if index in names and names[index] != str(index) else str(index)
        style = "bold red" if index in evaluation.targets else None
        table.add_row(escape(label), str(evaluation.counts[index]), percent(evaluation.per_class[index]), style=style)
    return table
