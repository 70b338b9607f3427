"""Conservation: what every layer was given, what it passed on, and what kept the difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zsu_fast.lrp.conservation import Conservation
from zsu_fast.plot.bars import name_rows, zero_line
from zsu_fast.plot.canvas import legend, new_figure, shortened, style
from zsu_fast.plot.colours import INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which are made for every kind of sight; red and blue are left to relevance.
ACCOUNTS = {"bias": "#e69f00", "stabiliser": "#56b4e9", "unplaced": "#009e73", "rest": "#cc79a7"}
ELSEWHERE = {"constant": "constants added", "linearised": "linearised functions", "uncovered": "uncovered functions"}


def conservation(relevance: Any) -> Figure:
    """Where relevance goes, layer by layer in execution order; sums over the samples.

    Left: what arrived at a layer's output and what it passed on to its input; the ends are the logits and the model's
    input. Right: what kept the difference, by the accounts of `zsu_fast.lrp.conservation.LayerBalance`; rows at the
    bottom stand for functions outside of layers. The title says whether the accounts balance.

    Args:
        relevance: A `zsu_fast.Relevance` that was asked for with ``conservation=True``, or what its ``check`` returned;
            or a mapping from titles to such, with the same layers, which are drawn side by side.

    Raises:
        ValueError: Nothing was noted, or the layers differ.
        ImportError: matplotlib is missing (extra "report").
    """
    named = relevance if isinstance(relevance, Mapping) else {"": relevance}
    books = {str(title): _books(value) for title, value in named.items()}
    if not books:
        raise ValueError("relevance is empty")
    layers = list(next(iter(books.values())).layers)
    for title, one in books.items():
        if list(one.layers) != layers:
            raise ValueError(f"relevance: the layers of {title!r} differ from those of {next(iter(books))!r}")
    outside = _outside(list(books.values()))
    rows = ["input", *(shortened(name, 44) for name in layers), "logits", *(ELSEWHERE[reason] for reason in outside)]
    tall = 0.17 if len(rows) <= 60 else max(0.09, 10.0 / len(rows))
    figure = new_figure(2.0 + 5.4 * len(books), 1.1 + tall * len(rows))
    panels = figure.subplots(1, 2 * len(books), sharey=True, squeeze=False)[0]
    for number, (title, one) in enumerate(books.items()):
        flow, kept = panels[2 * number : 2 * number + 2]
        _flow(flow, one)
        _kept(kept, one, outside)
        verdict = "accounts balance" if one.ok else f"accounts do not balance, worst: {shortened(str(one.worst), 30)}"
        style(flow, f"{title}: {verdict}" if title else verdict)
        style(kept)
        flow.set_xlabel("relevance")
        kept.set_xlabel("kept")
    name_rows(panels[0], rows)
    legend(figure, *panels[:2])
    return figure


def _books(value: Any) -> Conservation:
    books = value if isinstance(value, Conservation) else getattr(value, "conservation", None)
    if not isinstance(books, Conservation):
        raise ValueError("relevance: nothing was noted that could be drawn: call relevance(..., conservation=True)")
    return books


def _outside(books: Sequence[Conservation]) -> list[str]:
    """What kept relevance outside of layers, as far as it can be seen beside what layers were given."""
    given = max((abs(layer.output) for one in books for layer in one.layers.values()), default=0.0)
    return [reason for reason in ELSEWHERE if any(abs(_lost(one, reason)) > 1e-3 * given for one in books)]


def _lost(books: Conservation, reason: str) -> float:
    return sum(loss.absorbed for loss in books.elsewhere if loss.reason == reason)


def _flow(ax: Axes, books: Conservation) -> None:
    places = 1 + np.arange(len(books.layers))
    arrived = np.array([layer.output for layer in books.layers.values()])
    passed = np.array([layer.input for layer in books.layers.values()])
    ax.hlines(places, arrived, passed, color=SOFT, linewidth=0.9)
    ax.plot(arrived, places, "o", color=INK, markersize=3.6, label="arrived")
    ends = [books.input, *passed, books.start]
    ax.plot(ends, range(len(ends)), "o", color="white", markeredgecolor=INK, markersize=3.6, label="passed on")
    zero_line(ax)


def _kept(ax: Axes, books: Conservation, outside: list[str]) -> None:
    places = 1 + np.arange(len(books.layers))
    # Shares of both signs are stacked away from zero, each on its side.
    ends = {True: np.zeros(len(places)), False: np.zeros(len(places))}
    for name, tint in ACCOUNTS.items():
        values = np.nan_to_num([getattr(layer, name) for layer in books.layers.values()], posinf=0.0, neginf=0.0)
        start = np.where(values >= 0, ends[True], ends[False])
        ax.barh(places, values, left=start, height=0.72, color=tint, label=name)
        for positive in ends:
            ends[positive] = np.where((values >= 0) == positive, start + values, ends[positive])
    for place, reason in enumerate(outside, len(places) + 2):
        ax.barh(place, _lost(books, reason), height=0.72, color=SOFT)
    ax.use_sticky_edges = False  # the ends of stacked bars would be edges of the panel
    zero_line(ax)
