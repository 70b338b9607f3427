"""Bars: relevance per layer, and of the units of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from zsu_fast.plot.canvas import SMALL, figure_of, legend, new_figure, shortened, style
from zsu_fast.plot.colours import GRID, INK, NEGATIVE, POSITIVE, SOFT, Array, as_array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Units = dict[str, Array]

MOST_NAMES = 120
MOST_PANELS = 48


def layers(relevance: Any, *, ax: Axes | None = None) -> Figure:
    """Relevance that lies on each layer's units, in execution order from top to bottom; means over the samples.

    Red is the sum of what speaks for the explained class, blue of what speaks against it, the dot is the sum of both.

    Args:
        relevance: A `zsu_fast.Relevance`, or its ``neurons``: a mapping from layers to [N, units]; or a mapping from
            titles to such, with the same layers, which are drawn side by side.
        ax: Axes of matplotlib to draw into, if there is one title.

    Returns:
        The figure, that of ``ax`` if it was given.

    Raises:
        ValueError: There are no layers, a layer is not [N, units], or an ``ax`` was given for several titles.
        ImportError: matplotlib is missing (extra "report").
    """
    named = _named_units(relevance)
    names = list(next(iter(named.values())))
    for title, units in named.items():
        if list(units) != names:
            raise ValueError(f"relevance: the layers of {title!r} differ from those of {next(iter(named))!r}")
    if ax is not None:
        if len(named) > 1:
            raise ValueError(f"ax: {len(named)} titles cannot be drawn into one")
        figure, panels = figure_of(ax), [ax]
    else:
        tall = 0.17 if len(names) <= 60 else max(0.09, 10.0 / len(names))
        figure = new_figure(2.4 + 4.0 * len(named) ** 0.7, 0.9 + tall * len(names))
        panels = list(figure.subplots(1, len(named), sharey=True, squeeze=False)[0])
    for panel, (title, units) in zip(panels, named.items(), strict=True):
        _layer_bars(panel, units)
        style(panel, title)
        panel.set_xlabel(_what(units))
    name_rows(panels[0], [shortened(name, 44) for name in names])
    legend(panels[0] if ax is not None else figure, panels[0])
    return figure


def neurons(relevance: Any, layer: str | Sequence[str], *, top: int = 15, ax: Axes | None = None) -> Figure:
    """The most relevant units of a layer: those of largest abs(mean over the samples), strongest first.

    Bars are means over the samples, lines reach from the first to the third quartile of the samples.

    Args:
        relevance: A `zsu_fast.Relevance`, or its ``neurons``: a mapping from layers to [N, units]; or a mapping from
            titles to such, which are drawn side by side.
        layer: A layer's name, or several: one panel for each.
        top: How many units to draw.
        ax: Axes of matplotlib to draw into, for one panel.

    Returns:
        The figure, that of ``ax`` if it was given.

    Raises:
        ValueError: A layer that is not there, more than 48 panels, ``ax`` for several, or values not [N, units].
        ImportError: matplotlib is missing (extra "report").
    """
    named = _named_units(relevance)
    wanted = [layer] if isinstance(layer, str) else list(layer)
    for title, units in named.items():
        if unknown := [name for name in wanted if name not in units]:
            of = f" of {title!r}" if title else ""
            raise ValueError(f"layer must be one of {', '.join(units)}{of}, got {unknown[0]!r}")
    drawn = [(title, name, units[name]) for name in wanted for title, units in named.items()]
    most = MOST_PANELS if ax is None else 1
    if not 1 <= len(drawn) <= most:
        raise ValueError(f"layer: 1 to {most} panels can be drawn{' into an ax' * (most == 1)}, got {len(drawn)}")
    if isinstance(top, bool) or not isinstance(top, int) or top < 1:
        raise ValueError(f"top must be a number of units >= 1, got {top!r}")
    if ax is not None:
        figure, panels = figure_of(ax), [ax]
    else:
        columns = min(len(drawn), len(named) if 1 < len(named) <= 5 else 3)
        rows = -(-len(drawn) // columns)
        tall = min(top, max(values.shape[1] for _, _, values in drawn))
        figure = new_figure(max(3.4, 2.4 * columns), (0.7 + 0.15 * tall) * rows + 0.2)
        panels = list(figure.subplots(rows, columns, squeeze=False).flat)
        figure.supxlabel(_what({name: values for _, name, values in drawn}), fontsize=SMALL, color=SOFT)
    for panel in panels[len(drawn) :]:
        panel.set_axis_off()
    for panel, (title, name, values) in zip(panels, drawn, strict=False):
        counted = f"{shortened(name, 30)}, {values.shape[1]} unit{'s' * (values.shape[1] != 1)}"
        style(panel, f"{title}\n{counted}" if title else counted)
        _neuron_bars(panel, values, top)
    return figure


def _layer_bars(ax: Axes, units: Units) -> None:
    values = [np.where(np.isfinite(v), v, 0.0) for v in units.values()]
    positive = np.array([v.clip(min=0.0).sum(1).mean() for v in values])
    negative = np.array([v.clip(max=0.0).sum(1).mean() for v in values])
    places = np.arange(len(values))
    ax.barh(places, positive, height=0.72, color=POSITIVE, label="for the class")
    ax.barh(places, negative, height=0.72, color=NEGATIVE, label="against it")
    ax.plot(positive + negative, places, "o", color="white", markeredgecolor=INK, markersize=3.6, label="sum")
    zero_line(ax)


def _neuron_bars(ax: Axes, values: Array, top: int) -> None:
    values = np.where(np.isfinite(values), values, 0.0)
    mean = values.mean(0)
    order = np.argsort(-np.abs(mean), kind="stable")[:top]
    places = np.arange(len(order))
    ax.barh(places, mean[order], height=0.72, color=np.where(mean[order] >= 0.0, POSITIVE, NEGATIVE))
    if len(values) > 1:
        low, high = np.percentile(values[:, order], (25, 75), axis=0)
        ax.hlines(places, low, high, color=INK, linewidth=0.9)
    zero_line(ax)
    ax.locator_params("x", nbins=4)
    name_rows(ax, [str(unit) for unit in order])


def zero_line(ax: Axes) -> None:
    """Where bars begin, and how long they are."""
    ax.margins(x=0.08)
    ax.axvline(0.0, color=INK, linewidth=0.6)
    ax.grid(axis="x", color=GRID, linewidth=0.6)


def _named_units(relevance: Any) -> dict[str, Units]:
    """What to draw, by title; one without a title has the title ""."""
    titled = isinstance(relevance, Mapping) and all(
        isinstance(value, Mapping) or hasattr(value, "neurons") for value in relevance.values()
    )
    named = {str(title): _units(value) for title, value in relevance.items()} if titled else {"": _units(relevance)}
    if not named:
        raise ValueError("relevance is empty")
    return named


def _units(relevance: Any) -> Units:
    found = getattr(relevance, "neurons", relevance)
    if not isinstance(found, Mapping) or not found:
        raise ValueError("relevance must be a Relevance, or a mapping from layers to [N, units], with some layers")
    units = {str(name): as_array(values) for name, values in found.items()}
    for name, values in units.items():
        if values.ndim != 2 or 0 in values.shape:
            raise ValueError(f"relevance of {name!r} must be [N, units], got {list(values.shape)}")
    return units


def _what(units: Units) -> str:
    """What the axis shows. Values that are not finite count as 0, lest they hide all others; that is said."""
    samples = max(len(values) for values in units.values())
    text = "relevance" if samples == 1 else f"relevance, mean over {samples} samples"
    return text + ("" if all(np.isfinite(values).all() for values in units.values()) else " (not finite: left out)")


def name_rows(ax: Axes, names: Sequence[str]) -> None:
    """One row a name, the first on top; of very many rows only some are named."""
    step = -(-len(names) // MOST_NAMES)
    ax.set_yticks(range(0, len(names), step), names[::step], fontsize=SMALL if len(names) <= 60 else SMALL - 2)
    ax.set_ylim(len(names) - 0.4, -0.6)
