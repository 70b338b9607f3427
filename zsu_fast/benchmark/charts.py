"""Charts of the leaderboard, as data: URIs."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from zsu_fast.benchmark.results import Results, Row
from zsu_fast.benchmark.settings import ORIGINAL, REFERENCES, RETRAINED
from zsu_fast.plot.canvas import SMALL, new_figure, save, style
from zsu_fast.plot.colours import GRID, INK

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TINTS = ("#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#b45309", "#be185d", "#0f766e")
MARKS = "osD^vP"
REFERENCE_MARKS = {ORIGINAL: ("black", "*"), RETRAINED: ("#52606d", "X")}
FRONTS = (("linear_probe", "linear probe"), ("prototype", "prototype row"))


def looks(methods: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Method -> (colour, marker): the same in every chart of a page."""
    edits = [method for method in methods if method not in REFERENCES]
    found = {m: (TINTS[i % len(TINTS)], MARKS[i // len(TINTS) % len(MARKS)]) for i, m in enumerate(edits)}
    return REFERENCE_MARKS | found


def undominated(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Of (lost by the others, left of the class) those to which no other is at least as good in both and better in one:
    less is better. Ascending in the first."""
    front: list[tuple[float, float]] = []
    for point in sorted(set(points)):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front


def fronts(lines: Sequence[Row], rows: Sequence[Row], known: dict[str, tuple[str, str]]) -> str | None:
    """What the others lose against what attackers have back of the class: means large, cells small. SVG."""
    panels = [(key, title) for key, title in FRONTS if any(line[key] is not None for line in lines)]
    if not panels:
        return None
    figure = _figure(4.4 * len(panels), 3.4, len(lines))
    handles: dict[str, Any] = {}
    for axes, (key, title) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        edits = []
        for line in lines:
            tint, mark = known[line["method"]]
            if line[key] is None or line["lost"] is None:
                continue
            own = [
                row for row in rows if row["method"] == line["method"] and None not in (row.get(key), row.get("lost"))
            ]
            points = [(100 * row["lost"], 100 * row[key]) for row in own]
            axes.scatter(*zip(*points, strict=True), s=7, c=tint, marker=mark, alpha=0.25, linewidths=0)
            place = 100 * line["lost"], 100 * line[key]
            large = 70 if line["method"] in REFERENCES else 38
            handles[line["method"]] = axes.scatter(
                *place, s=large, c=tint, marker=mark, edgecolors="white", linewidths=0.6, zorder=3
            )
            edits += [] if line["method"] in REFERENCES else [place]
        front = undominated(edits)
        if len(front) > 1:
            axes.plot(*zip(*front, strict=True), color=INK, linewidth=0.8, linestyle="--", zorder=1)
        style(axes, title)
        axes.grid(color=GRID)
        axes.set_xscale("symlog", linthresh=2)  # a method that ruins a model must not hide the others' differences
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("points that the others lose")
        axes.set_ylabel("has back of the class, %")
    return _uri(_with_legend(figure, handles))


def relearn_curves(results: Results, model: str, known: dict[str, tuple[str, str]]) -> dict[str, str]:
    """Name of the attack -> accuracy on the class by mini-batch, means over cells. SVG."""
    curves: dict[str, dict[str, list[tuple[tuple[int, ...], list[float]]]]] = {}
    for cell in results.cells:
        measured = results.found.get(cell.key, {})
        if cell.model == model:
            for name, curve in measured.get("relearning", {}).items():
                measured_at = tuple(curve["steps"])
                curves.setdefault(name, {}).setdefault(cell.method, []).append((measured_at, curve["forget"]))
    charts = {}
    for name, by_method in curves.items():
        figure = _figure(8.0, 3.2, len(by_method))
        handles: dict[str, Any] = {}
        axes = figure.subplots()
        for method, found in by_method.items():
            tint, mark = known[method]
            values = [100 * mean(column) for column in zip(*(rates for _, rates in found), strict=True)]
            line = "--" if method in REFERENCES else "-"
            (handles[method],) = axes.plot(
                found[0][0], values, line, marker=mark, color=tint, markersize=3.5, linewidth=1
            )
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        style(axes)
        axes.grid(axis="y", color=GRID)
        axes.set_xlabel("mini-batches")
        axes.set_ylabel("accuracy on the class, %")
        charts[name] = _uri(_with_legend(figure, handles))
    return charts


def _figure(width: float, height: float, names: int) -> Figure:
    """With room for a legend of so many names below."""
    return new_figure(width, height + 0.2 * math.ceil(names / _columns(width)))


def _with_legend(figure: Figure, handles: dict[str, Any]) -> Figure:
    columns = _columns(figure.get_figwidth())
    figure.legend(
        list(handles.values()), list(handles), loc="outside lower center", ncols=columns, frameon=False, fontsize=SMALL,
        labelcolor=INK,
    )  # fmt: skip
    return figure


def _columns(width: float) -> int:
    return max(1, int(width / 1.5))


def _uri(figure: Any) -> str:
    buffer = io.BytesIO()
    save(figure, buffer, "svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
