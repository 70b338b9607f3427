"""The leaderboard: one self-contained page. Every string that did not come from this file is escaped.

No script: the orders of the ranking are tables of their own, of which a radio button shows one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from zsu_fast.benchmark import charts
from zsu_fast.benchmark.ranking import LAST, RULES, over_models, ranked
from zsu_fast.benchmark.results import Results, Row
from zsu_fast.benchmark.settings import DATA, ORIGINAL, REFERENCES, RETRAINED
from zsu_fast.report.files import write_text

Column = tuple[str, str, str]  # key of a line, heading, kind
COLUMNS: tuple[Column, ...] = (
    ("answers", "answers", "percent"),
    ("others", "others", "percent"),
    ("linear_probe", "linear probe", "share"),
    ("prototype", "prototype row", "share"),
    ("relearn_steps", "back after", "steps"),
    ("holds", "holds", "count"),
    ("cpu_seconds", "CPU s", "seconds"),
    ("patch_bytes", "patch", "bytes"),
    ("done", "cells", "cells"),
)
PUBLISHED = ("method", "answers", "others", "seconds", "source")


def write_results(results: Results) -> list[Path]:
    """results.json, results.csv and leaderboard.html in the benchmark's folder, each whole or not at all.

    Raises:
        ImportError: matplotlib is missing (extra "report").
    """
    texts = {
        "results.json": json.dumps(results.to_dict(), indent=1, allow_nan=False) + "\n",
        "results.csv": results.csv(),
        "leaderboard.html": render(results),
    }
    for name, text in texts.items():
        write_text(text, results.out / name)
    return [results.out / name for name in texts]


def render(results: Results) -> str:
    """The HTML text. Loads nothing from anywhere: its Content-Security-Policy forbids it."""
    lines, rows = results.summary(), [row for row in results.rows() if row["outcome"] == "done"]
    known = charts.looks(list(dict.fromkeys(cell.method for cell in results.cells)))
    parts = [_header(results), _places(lines)]
    for number, model in enumerate(results.models):
        of_model = [line for line in lines if line["model"] == model]
        parts += [
            _ranking(results, number, model, of_model),
            _fronts(model, of_model, [row for row in rows if row["model"] == model], known),
            _curves(results, model, known),
        ]
    parts += [_methods(results), _failures(results)]
    style = "".join(
        resources.files(package).joinpath("style.css").read_text(encoding="utf-8")
        for package in ("zsu_fast.report", "zsu_fast.benchmark")
    )
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(results.name)}</title><style>{style}</style></head>"
        f"<body><main>{''.join(parts)}</main></body></html>\n"
    )


def _section(title: str, lead: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="soft">{lead}</p>{content}</section>'


def _header(results: Results) -> str:
    planned, missing, failed = len(results.cells), len(results.missing), len(results.failed)
    said = f"{planned - missing} of {planned} cells measured"
    said += f", {failed} of them failed" if failed else ""
    badge = '<span class="badge no">not complete</span> ' if missing or failed else ""
    oracles = any(cell.method == RETRAINED for cell in results.cells)
    ideal = (
        "The ideal is what the same attack has back from a model that was retrained without the class: not nothing, "
        "since classes share features."
        if oracles
        else "Without models that were retrained without the class nothing is said here of how deep is deep enough."
    )
    return (
        f'<h1>{escape(results.name)}</h1><p>{badge}<span class="soft">{said}. Each cell is one call of '
        "<code>forget</code> on a copy of the model; then images that had no part in it judge what the model answers, "
        f"and what attackers have back who have all lessons. {ideal}</span></p>"
    )


def _places(lines: Sequence[Row]) -> str:
    models = list(dict.fromkeys(line["model"] for line in lines))
    if len(models) < 2:
        return ""
    found = over_models(lines, RULES[0])
    body = "".join(f"<tr><td>{escape(method)}</td><td>{place:.2f}</td></tr>" for method, place, _ in found)
    table = f'<div class="wide"><table><tr><th>method</th><th>mean place</th></tr>{body}</table></div>'
    return _section("Over all models", f"Mean of the places in “{RULES[0].name}” on {len(models)} models.", table)


def _ranking(results: Results, number: int, model: str, lines: Sequence[Row]) -> str:
    """A radio button, its label and its table for each rule; style.css shows the table of the one that is checked."""
    references = [line for line in lines if line["method"] in REFERENCES]
    parts = []
    for i, rule in enumerate(RULES):
        name = f"m{number}r{i}"
        checked = " checked" if i == 0 else ""
        parts.append(
            f'<input type="radio" name="m{number}" id="{name}"{checked}><label for="{name}">{escape(rule.name)}</label>'
            f'<div class="panel"><p class="soft">{escape(rule.text)} {escape(LAST)}</p>'
            f"{_table(ranked(lines, rule), references)}</div>"
        )
    facts = results.models[model]
    images = ", ".join(f"{count} {part}" for part, count in facts["images"].items())
    classes = sorted({cell.target for cell in results.cells if cell.model == model})
    lead = (
        f"{facts['parameters']:,} parameters; {images} images; classes "
        f"{escape(', '.join(facts['names'].get(str(c), str(c)) for c in classes))}. In %, means over classes and "
        "seeds; small: 95 % interval over the cells. “linear probe” and “prototype row”: what the attack has back of "
        "the class, and in brackets the share of the way from the original to the retrained model. “back after”: "
        "mini-batches of relearning, the median. “holds”: cells where prototype rows, linear probe and relearning have "
        "back no more than from the retrained model (95 % upper bound), and the others lose at most two points."
    )
    content = f'<div class="tabs">{"".join(parts)}</div>{_published(facts["published"])}'
    return _section(model, lead, content)


def _table(lines: Sequence[Row], references: Sequence[Row]) -> str:
    head = "".join(f"<th>{escape(title)}</th>" for _, title, _ in COLUMNS)
    body = "".join(
        f'<tr class="reference"><td></td><td>{escape(_named(line["method"]))}</td>{_cells(line)}</tr>'
        for line in references
    )
    for place, line in enumerate(lines, 1):
        alone = f" <small>left alone in {line['left_alone']}</small>" if line["left_alone"] else ""
        body += f"<tr><td>{place}</td><td>{escape(line['method'])}{alone}</td>{_cells(line)}</tr>"
    return f'<div class="wide"><table><tr><th></th><th>method</th>{head}</tr>{body}</table></div>'


def _named(reference: str) -> str:
    return {ORIGINAL: "original", RETRAINED: "retrained without it"}[reference]


def _cells(line: Row) -> str:
    return "".join(f"<td>{_cell(line, key, kind)}</td>" for key, _, kind in COLUMNS)


def _cell(line: Row, key: str, kind: str) -> str:
    value = line[key]
    if kind == "cells":
        return f"{value} of {line['cells']}"
    if kind == "count":
        return f"{value} of {line['judged']}" if line["judged"] else ""
    if kind == "steps":
        return "" if line["relearned"] is None else f"{value:g}" if line["relearned"] else "not"
    if value is None:
        return ""
    if kind == "seconds":
        return f"{value:.2f}" if value < 10 else f"{value:.0f}"
    if kind == "bytes":
        return size_of(value)
    text, interval = f"{100 * value:.1f}", line.get(f"{key}_interval")
    if kind == "share" and line[f"share_{key}"] is not None and line["method"] not in REFERENCES:
        text += f" [{line[f'share_{key}']:.2f}]"
    if interval is not None:
        text += f"<br><small>{100 * interval[0]:.1f} – {100 * interval[1]:.1f}</small>"
    return text


def size_of(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def _published(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return ""
    body = ""
    for row in rows:
        figures = (f"{100 * row[key]:.1f}" if key in row else "" for key in ("answers", "others"))
        seconds = f"{row['seconds']:g}" if "seconds" in row else ""
        cells = (str(row["method"]), *figures, seconds, str(row["source"]))
        body += f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>"
    head = "".join(f"<th>{escape(title)}</th>" for title in ("published", "answers", "others", "s", "source"))
    note = "Published figures, on the authors' models, images and machine: beside ours, not of one run with them."
    return f'<p class="soft">{note}</p><div class="wide"><table><tr>{head}</tr>{body}</table></div>'


def _fronts(model: str, lines: Sequence[Row], rows: Sequence[Row], known: dict[str, tuple[str, str]]) -> str:
    chart = charts.fronts(lines, rows, known)
    lead = (
        "Left: the others lose less (from 2 points on, a logarithmic scale). Low: attackers have less of "
        "the class back. Large marks are means, small ones cells; the dashed line joins "
        "the methods that none is better than in both."
    )
    title = f"{model}: what is lost against what is left"
    alt = "what the others lose against what probes have back"
    return "" if chart is None else _section(title, lead, f'<img class="chart" alt="{alt}" src="{chart}">')


def _curves(results: Results, model: str, known: dict[str, tuple[str, str]]) -> str:
    found = charts.relearn_curves(results, model, known)
    settings = results.measures
    lead = (
        f"Accuracy on the class while all weights are fine-tuned on the lessons (Adam, {settings.learning_rate:g}, "
        f"mini-batches of {settings.batch_size}); means over the cells, dashed: original and retrained."
    )
    pictures = "".join(
        f'<p class="soft">{escape(name)}</p><img class="chart" alt="{escape(name)}" src="{chart}">'
        for name, chart in found.items()
    )
    return _section(f"{model}: relearning", lead, pictures) if found else ""


def _methods(results: Results) -> str:
    body, seen = "", set()
    for cell in results.cells:
        if cell.method in REFERENCES or cell.method in seen:
            continue
        seen.add(cell.method)
        options = ", ".join(f"{key} = {json.dumps(value)}" for key, value in cell.config["options"].items())
        given = DATA[cell.config["data"]]
        if images := cell.config.get("few"):
            given += f" ({images['probes']} and {images['retain']} of each)"
        cells = (cell.method, cell.config["method"], given, options)
        body += f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in cells)}</tr>"
    head = "".join(f"<th>{title}</th>" for title in ("name", "method", "learns from", "options"))
    content = f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
    measured = [measured for measured in results.found.values() if "versions" in measured]
    versions = sorted({f"{name} {value}" for m in measured for name, value in m["versions"].items()})
    threads = sorted({m["threads"] for m in measured})
    times = sorted(m["time"] for m in measured)
    facts = {
        "versions": ", ".join(versions),
        "threads of torch": ", ".join(map(str, threads)),
        "measured": f"{times[0]} to {times[-1]}" if times else "",
        "measures": json.dumps(results.measures.to_dict()),
    }
    listed = "".join(f'<dt>{escape(k)}</dt><dd class="mono">{escape(v)}</dd>' for k, v in facts.items())
    return _section("What was run", "", f"{content}<dl>{listed}</dl>")


def _failures(results: Results) -> str:
    if not results.failed:
        return ""
    body = ""
    for cell in results.failed:
        found = results.found[cell.key]
        body += f"<dt>{escape(cell.label)}</dt><dd>{escape(found['error'])} ({escape(found['where'])})</dd>"
    return _section("What failed", "These cells count nowhere.", f"<dl>{body}</dl>")
