"""Pixels and charts as data: URIs, so that the page needs no other file."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from zsu_fast.extras import require
from zsu_fast.plot.canvas import legend, new_figure, save, style
from zsu_fast.plot.colours import GRID, as_array, colour
from zsu_fast.plot.front import front

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BEFORE, AFTER, MASKED = "#9aa5b1", "#0b6e99", "#c2410c"
COLOURS = (AFTER, MASKED, "#4d7c0f", "#7e22ce", BEFORE)


def _png(pixels: np.ndarray[Any, Any]) -> str:
    image = require("matplotlib.image", "report")
    buffer = io.BytesIO()
    image.imsave(buffer, pixels, format="png")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def photo(pixels: np.ndarray[Any, Any]) -> str:
    """uint8 [H, W, 1 or 3] -> PNG."""
    return _png(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))


def heatmap(values: Tensor, limit: float) -> str:
    """Relevance [H, W] -> PNG, in the colours of `zsu_fast.plot`; ``limit`` is full colour."""
    return _png(colour(as_array(values), limit))


def strip(relevance: Tensor, masked: Sequence[int]) -> str:
    """Units in a row, the darker the more relevant; the masked ones are marked below. PNG of 8 rows."""
    colours = require("matplotlib", "report").colormaps["Greys"]
    positive = relevance.clamp(min=0).double()
    top = float(positive.max()) if positive.numel() else 0.0
    row = colours((positive / (top or 1.0)).sqrt().numpy(), bytes=True)[None, :, :3]
    marks = np.full_like(row, 255)
    rgb = [int(MASKED[i : i + 2], 16) for i in (1, 3, 5)]
    marks[0, list(masked)] = rgb
    return _png(np.concatenate([row.repeat(5, 0), marks.repeat(3, 0)]))


def front_chart(points: Sequence[dict[str, Any]]) -> str:
    """What each size of the edit leaves of the class, against what the others keep. SVG."""
    return _svg(front(points))


def search_chart(trace: Sequence[dict[str, Any]], until: float | None) -> str:
    """Budgets that were tried against the accuracy on the class that was left. SVG."""
    figure = new_figure(6.4, 2.9)
    axes = figure.subplots()
    several = len({tuple(step.get("layers", ())) for step in trace}) > 1
    curves: dict[str, list[tuple[int, float]]] = {}
    for step in trace:
        label = str(step.get("mode", ""))
        if several:
            label += f", {len(step['layers'])} layers"
        curves.setdefault(label, []).append((step["budget"], step["forget_accuracy"]))
    for (label, points), tint in zip(curves.items(), itertools.cycle(COLOURS), strict=False):
        budgets, accuracies = zip(*sorted(points), strict=True)
        axes.plot(budgets, accuracies, "o-", color=tint, label=label, markersize=5)
    if until is not None:
        axes.axhline(until, color="#52606d", linestyle="--", linewidth=1, label=f"aim {until:g}")
    tried = [step["budget"] for step in trace]
    if max(tried) > 20 * max(1, min(tried)):
        axes.set_xscale("log" if min(tried) > 0 else "symlog")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    else:
        axes.locator_params("x", integer=True)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("neurons perturbed")
    axes.set_ylabel("accuracy on the class\n(held-out probes)")
    style(axes)
    axes.grid(axis="y", color=GRID)
    legend(axes, axes)
    return _svg(figure)


def margin_chart(curves: Mapping[str, Sequence[float]]) -> str:
    """Margins, each curve from the largest to the smallest; at 0 the goal is reached. SVG."""
    figure = new_figure(6.4, 2.6)
    axes = figure.subplots()
    for (name, margins), tint in zip(curves.items(), (BEFORE, AFTER), strict=False):
        ordered = sorted(margins, reverse=True)
        axes.plot(range(1, len(ordered) + 1), ordered, "o-", color=tint, label=name, markersize=3, linewidth=1)
    axes.axhline(0, color="#52606d", linestyle="--", linewidth=1, label="goal")
    axes.locator_params("x", integer=True)
    axes.set_xlabel("instances")
    axes.set_ylabel("margin")
    style(axes)
    axes.grid(axis="y", color=GRID)
    legend(axes, axes)
    return _svg(figure)


def _svg(figure: Figure) -> str:
    buffer = io.BytesIO()
    save(figure, buffer, "svg")
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
