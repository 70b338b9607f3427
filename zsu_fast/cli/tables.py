"""Tables on the terminal."""

from __future__ import annotations

from typing import Any

from rich.markup import escape
from rich.table import Table

from zsu_fast.benchmark.ranking import RULES, ranked
from zsu_fast.benchmark.settings import REFERENCES
from zsu_fast.evaluate import Depth, Evaluation, Membership, ProbeResult, Relearning
from zsu_fast.evaluate.depth import MUST_HOLD


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def span(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f"{100 * interval[0]:.1f} – {100 * interval[1]:.1f}"


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
            table.add_row(what, *map(percent, values), span(interval))
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


def relearning_table(found: Relearning, reference: float | None, time: int | None) -> Table:
    """Accuracy while a copy of the model is fine-tuned; ``time`` is its relearn time by ``reference``."""
    source = "none of the class" if found.retain_only else f"{found.target_images} of the class"
    table = Table(title=f"relearning from {found.images} images, {source}", title_justify="left", title_style="bold")
    for column in ("steps", "the class", "95 % interval", "all others"):
        table.add_column(column, justify="right", style="dim" if column == "95 % interval" else None)
    for step, evaluation in zip(found.steps, found.evaluations, strict=True):
        accuracy, others = percent(evaluation.forget_accuracy), percent(evaluation.retain_accuracy)
        table.add_row(str(step), accuracy, span(evaluation.forget_interval), others)
    if reference is not None:
        when = f"not by step {found.steps[-1]}" if time is None else f"after step {time}"
        table.caption = f"95 % of {percent(reference)} are back: {when}"
        table.caption_justify = "left"
    return table


def membership_table(found: dict[str, Membership]) -> Table:
    """The attacks of :func:`zsu_fast.cli.evaluate_run.attack_class`."""
    table = Table(title="membership inference (50 % is chance)", title_justify="left", title_style="bold")
    table.add_column("training images told from unseen ones")
    one, others, unseen = found["class"], found["others"], found["others_unseen"]
    for column in (f"the class, {one.images} + {one.images}", f"all others, {others.images} + {others.images}"):
        table.add_column(column, justify="right")

    def area(value: float, interval: tuple[float, float]) -> str:
        return f"{percent(value)} ({span(interval)})"

    table.add_row("by the loss: area under the ROC curve", *(area(m.loss_auc, m.loss_interval) for m in (one, others)))
    table.add_row("by the entropy: likewise", *(area(m.entropy_auc, m.entropy_interval) for m in (one, others)))
    table.add_row("by logistic regression on the loss: right", percent(one.accuracy), percent(others.accuracy))
    table.add_section()
    table.add_row("taken for training images, by the entropy:", "", "")
    table.add_row("  training images", percent(others.forgotten_called), percent(others.members_called))
    table.add_row("  unseen images", percent(unseen.forgotten_called), percent(others.nonmembers_called))
    return table


def depth_table(found: Depth, title: str) -> Table:
    """What each attack has back of the class; in brackets, of the others."""
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    table.add_column("attack: the class (all others), %")
    models = found.attacks["answers"].forget
    for column in [*models, *(["share of the way", "holds"] if "oracle" in models else [])]:
        table.add_column(column, justify="right")
    for name, attack in found.attacks.items():
        cells = [f"{100 * attack.forget[who]:.1f} ({100 * attack.retain[who]:.1f})" for who in models]
        if attack.holds is not None:
            cells += ["–" if attack.share is None else f"{attack.share:.2f}", "yes" if attack.holds else "no"]
        table.add_row(name, *cells, style="bold" if name.startswith(MUST_HOLD) else None)
    table.caption = "The verdict is that of the bold rows."
    table.caption_justify = "left"
    return table


def leaderboard_table(model: str, lines: list[dict[str, Any]]) -> Table:
    """The first ranking of a benchmark's page, for one model; means over classes and seeds."""
    rule = RULES[0]
    table = Table(title=escape(model), title_justify="left", title_style="bold")
    for column in ("", "method", "answers", "others", "linear probe", "prototype row", "back after", "holds", "CPU s"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for line in [line for line in lines if line["method"] in REFERENCES]:
        table.add_row("", escape(line["method"]), *_leaderboard_cells(line), style="dim")
    for place, line in enumerate(ranked(lines, rule), 1):
        table.add_row(str(place), escape(line["method"]), *_leaderboard_cells(line))
    table.caption, table.caption_justify = rule.text, "left"
    return table


def _leaderboard_cells(line: dict[str, Any]) -> list[str]:
    steps = "" if line["relearned"] is None else f"{line['relearn_steps']:g}" if line["relearned"] else "not"
    holds = f"{line['holds']} of {line['judged']}" if line["judged"] else ""
    seconds = "" if line["cpu_seconds"] is None else f"{line['cpu_seconds']:.2f}"
    return [*(percent(line[key]) for key in ("answers", "others", "linear_probe", "prototype")), steps, holds, seconds]
