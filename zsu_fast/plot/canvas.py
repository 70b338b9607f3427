"""Figures and axes in one style. No pyplot: a figure belongs to its caller, and no global state is touched."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal

from zsu_fast.extras import require
from zsu_fast.plot.colours import GRID, INK, SOFT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("png", "svg")
SMALL = 7.5
DPI = 150


def new_figure(width: float, height: float, layout: Literal["constrained"] | None = "constrained") -> Figure:
    """An empty figure of so many inches, on white, which notebooks show."""
    require("matplotlib", "report")
    from zsu_fast.plot.notebook_figure import NotebookFigure

    return NotebookFigure((width, height), layout=layout, facecolor="white")


def figure_of(axes: Axes) -> Figure:
    """The figure that axes are in, or the part of one."""
    figure: Any = axes.figure
    return figure


def save(figure: Figure, file: str | os.PathLike[str] | BinaryIO, format: str | None = None, dpi: float = DPI) -> None:
    """Write a figure as PNG or SVG (by the suffix, or ``format``), without the date: the same figure, the same PNG.

    Raises:
        ValueError: another format.
    """
    if format is None:
        if not isinstance(file, (str, os.PathLike)):
            raise ValueError("format must be given for a file object")
        format = Path(file).suffix[1:].lower()
    if format not in FORMATS:
        raise ValueError(f"the picture must be written as .png or .svg, got {format!r}")
    figure.savefig(file, format=format, dpi=dpi, metadata={"Date": None} if format == "svg" else {"Software": None})


def style(axes: Axes, title: str = "") -> None:
    """Thin lines, small quiet labels, no box."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GRID)
    axes.tick_params(labelsize=SMALL, labelcolor=INK, color=GRID, length=2)
    axes.xaxis.label.set(size=SMALL, color=SOFT)
    axes.yaxis.label.set(size=SMALL, color=SOFT)
    axes.set_axisbelow(True)
    if title:
        axes.set_title(title, fontsize=SMALL + 1, color=INK, loc="left")


def fill(axes: Axes, pixels: Any) -> None:
    """Pixels [H, W, 3] in a thin frame; of small pictures every pixel is a square."""
    axes.imshow(pixels, interpolation="nearest" if max(pixels.shape[:2]) <= 128 else "auto")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(color=GRID, linewidth=0.6)


def legend(owner: Figure | Axes, *panels: Axes) -> None:
    """What the colours of panels mean: above all panels of a figure, or inside of axes that someone else owns."""
    found = [pair for panel in panels for pair in zip(*panel.get_legend_handles_labels(), strict=True)]
    found.sort(key=lambda pair: pair[1] == "sum")  # lines come before bars, but not a sum before what it sums up
    place: dict[str, Any] = {"loc": "best"} if owner in panels else {"loc": "outside upper center", "ncols": 6}
    handles, labels = zip(*found, strict=True)
    owner.legend(handles, labels, frameon=False, fontsize=SMALL, labelcolor=INK, handlelength=1.2, **place)


def shortened(text: str, most: int, keep: Literal["start", "end"] = "end") -> str:
    """A text that fits. The end of a layer's name tells more than its beginning."""
    if len(text) <= most:
        return text
    return "…" + text[1 - most :] if keep == "end" else text[: most - 1] + "…"
