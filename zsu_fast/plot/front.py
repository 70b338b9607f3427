"""What each size of an edit leaves of the class, against what the others keep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zsu_fast.plot.canvas import figure_of, legend, new_figure, style
from zsu_fast.plot.colours import GRID, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SERIES = {
    "answers": ("answers", "#0b6e99", "o"),
    "linear_probe": ("linear probe", "#c2410c", "s"),
    "prototype": ("prototype row", "#4d7c0f", "D"),
}


def front(points: Sequence[Mapping[str, Any]], ax: Axes | None = None) -> Figure:
    """Draw `result.front` of `zsu_fast.forget(.., front=(images, labels))`.

    Filled marks: no other point is as good in every objective and better in one. Rings: the edit that was made. The
    lines follow the budget, from the unedited model on.

    Raises:
        ValueError: no points.
    """
    if not points:
        raise ValueError("points: there are none; forget(.., front=(images, labels)) measures them")
    axes = new_figure(5.2, 3.4).subplots() if ax is None else ax
    ordered = sorted(points, key=lambda point: point["budget"])
    for key, (label, tint, mark) in SERIES.items():
        found = [(100 * p["others"], 100 * p[key], p) for p in ordered if p[key] is not None]
        if not found:
            continue
        x, y, _ = zip(*found, strict=True)
        axes.plot(x, y, color=tint, linewidth=0.8, alpha=0.6, zorder=1)
        axes.scatter(x, y, s=22, facecolors="white", edgecolors=tint, marker=mark, linewidths=0.9, zorder=2)
        best = [(a, b) for a, b, point in found if point["undominated"]]
        across, down = zip(*best, strict=True) if best else ((), ())
        axes.scatter(across, down, s=22, c=tint, marker=mark, label=label, zorder=3)
        for a, b, point in found:
            if point["chosen"]:
                axes.scatter(a, b, s=90, facecolors="none", edgecolors=INK, linewidths=0.9, zorder=4)
    style(axes)
    axes.grid(color=GRID)
    axes.set_xlabel("accuracy on the others, %")
    axes.set_ylabel("left of the class, %")
    legend(axes, axes)
    return figure_of(axes)
