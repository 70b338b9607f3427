"""Heatmaps: the relevance of pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from zsu_fast.extras import require
from zsu_fast.plot.canvas import SMALL, figure_of, fill, new_figure, shortened
from zsu_fast.plot.colours import INK, SOFT, Array, as_maps, as_pixels, colour, limit_of, overlaid, sum_cells

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Scale = Literal["map", "sample", "all"]

MOST_PANELS = 600
PER_ROW = 8


def heatmaps(
    relevance: Any,
    images: Any = None,
    *,
    overlay: bool = False,
    samples: Sequence[str] | None = None,
    scale: Scale = "map",
    clip: float = 99.5,
    cell: int = 1,
    cmap: str = "seismic",
) -> Figure:
    """Heatmaps of several samples, each beside (or over) its image; several targets or composites side by side.

    Red speaks for the explained class, blue against it, white is no relevance, grey is not finite. The scale is
    symmetric about zero.

    Args:
        relevance: A `zsu_fast.Relevance`, a tensor [N, C, H, W] (summed over the channels) or [N, H, W]; or a mapping
            from titles to such, which are drawn side by side.
        images: The N images: [N, C, H, W] or [N, H, W, C], uint8, or floating point (within [0, 1], or as the model
            takes them: then each is stretched to its full range). Their size may differ from that of the relevance,
            unless they are drawn under it. None: no images.
        overlay: The image goes under the relevance, in pale grey, and not beside it.
        samples: N texts to be written under the samples.
        scale: What shares a scale: nothing ("map"), the maps of a sample ("sample": targets compare), or "all".
        clip: The percentile of abs(relevance) that gets full colour; 100 is the largest.
        cell: Relevance is summed over square cells of so many pixels a side, which quiets noise and keeps the total.
        cmap: A diverging colour map of matplotlib. Besides "seismic", "bwr" (brighter) and "RdBu_r" (softer) are usual.

    Raises:
        ValueError: An argument is not as described; relevance and images do not belong together; more than 600 panels.
        ImportError: matplotlib is missing (extra "report").
    """
    maps = _named_maps(relevance)
    count, height, width = next(iter(maps.values())).shape
    pixels = None if images is None else as_pixels(images)
    _check(maps, pixels, overlay, samples, scale)
    shown = {title: sum_cells(values, cell) for title, values in maps.items()}
    limits = _limits(np.stack(list(shown.values())), scale, clip)
    beside = pixels is not None and not overlay
    group = len(maps) + beside  # the panels of one sample: its image, if it goes beside, and a map for each title
    if count * group > MOST_PANELS:
        raise ValueError(f"relevance: {count} samples make {count * group} panels, at most {MOST_PANELS}: pass fewer")
    titles = ["image", *(title or "relevance" for title in shown)] if beside else list(shown)
    grid = _Grid(count, group, height / width, any(titles), samples is not None)
    for sample in range(count):
        panels = [grid.panel(sample, place) for place in range(group)]
        if pixels is not None and beside:
            fill(panels[0], pixels[sample].repeat(3 // pixels.shape[3], 2))
        for panel, values, limit in zip(panels[beside:], shown.values(), limits[:, sample], strict=True):
            if pixels is not None and overlay:
                drawn = overlaid(pixels[sample], _spread(values[sample], cell, height, width), limit, cmap)
            else:
                drawn = colour(values[sample], limit, cmap)
            fill(panel, drawn)
        if sample < grid.across:
            for panel, title in zip(panels, titles, strict=True):
                text = shortened(title, grid.letters, keep="start")
                panel.set_title(text, fontsize=SMALL, color=INK, pad=3)
        if samples is not None:
            text = shortened(str(samples[sample]), grid.letters, keep="start")
            panels[0].set_xlabel(text, fontsize=SMALL, color=SOFT, labelpad=2)
    _colour_bar(grid, cmap, float(limits.flat[0]) if scale == "all" else None)
    return grid.figure


def heatmap(
    relevance: Any,
    image: Any = None,
    *,
    ax: Axes | None = None,
    clip: float = 99.5,
    cell: int = 1,
    cmap: str = "seismic",
) -> Figure:
    """The heatmap of one sample, over its image if that is given; into ``ax``, or a new figure.

    Args:
        relevance: [C, H, W] (summed over the channels) or [H, W].
        image: [C, H, W] or [H, W, C], of the same size; see `heatmaps`, also for the rest.
        ax: Axes of matplotlib to draw into.

    Returns:
        The figure, that of ``ax`` if it was given.
    """
    (values,) = as_maps(relevance[None])
    limit = limit_of(shown := sum_cells(values[None], cell), clip)
    if image is None:
        drawn = colour(shown[0], limit, cmap)
    else:
        (pixels,) = as_pixels(image[None])
        _check_size(pixels[None], values[None])
        drawn = overlaid(pixels, _spread(shown[0], cell, *values.shape), limit, cmap)
    figure = new_figure(3.2, 3.2) if ax is None else figure_of(ax)
    fill(figure.subplots() if ax is None else ax, drawn)
    return figure


def _named_maps(relevance: Any) -> dict[str, Array]:
    named = relevance if isinstance(relevance, Mapping) else {"": relevance}
    if not named:
        raise ValueError("relevance is empty")
    return {str(title): as_maps(values) for title, values in named.items()}


def _check(
    maps: dict[str, Array], pixels: Array | None, overlay: bool, samples: Sequence[str] | None, scale: str
) -> None:
    first = next(iter(maps.values()))
    for title, values in maps.items():
        if values.shape != first.shape:
            raise ValueError(
                f"relevance: all must be of one size, got {list(first.shape)} and {list(values.shape)} ({title!r})"
            )
    if scale not in ("map", "sample", "all"):
        raise ValueError(f'scale must be "map", "sample" or "all", got {scale!r}')
    if pixels is None and overlay:
        raise ValueError("overlay: there are no images to go under the relevance")
    if pixels is not None and len(pixels) != len(first):
        raise ValueError(f"images must be as many as the samples, {len(first)}, got {len(pixels)}")
    if pixels is not None and overlay:
        _check_size(pixels, first)
    if samples is not None and len(samples) != len(first):
        raise ValueError(f"samples must be {len(first)} texts, got {len(samples)}")


def _check_size(pixels: Array, maps: Array) -> None:
    if pixels.shape[1:3] != maps.shape[1:]:
        raise ValueError(
            f"images must have the size of the relevance to go under it, {list(maps.shape[1:])}, "
            f"got {list(pixels.shape[1:3])}"
        )


def _limits(maps: Array, scale: Scale, clip: float) -> Array:
    """Full colour of each map: [titles, N], from maps [titles, N, H, W]."""
    titles, count = maps.shape[:2]
    if scale == "map":
        return np.array([[limit_of(values, clip) for values in row] for row in maps])
    if scale == "sample":
        return np.array([limit_of(maps[:, i], clip) for i in range(count)])[None].repeat(titles, 0)
    return np.full((titles, count), limit_of(maps, clip))


def _spread(cells: Array, cell: int, height: int, width: int) -> Array:
    """Cells back to pixels."""
    return cells.repeat(cell, 0).repeat(cell, 1)[:height, :width]


class _Grid:
    """Panels of one size in inches: those of a sample close together, several samples in a row if they fit."""

    def __init__(self, count: int, group: int, shape: float, titled: bool, captioned: bool) -> None:
        self.group = group
        side = next((side for most, side in ((2, 3.0), (8, 2.2), (32, 1.5)) if count * group <= most), 1.1)
        slender = min(4.0, max(0.25, shape)) ** 0.5  # height over width; panels have the same area
        self.width, self.height = side / slender, side * slender
        self.letters = int(self.width * 16)
        self.across = min(count, max(1, PER_ROW // group))
        down = -(-count // self.across)
        self.gap, self.apart, self.edge = 0.05, 0.2 if group > 1 else 0.05, 0.08
        self.top = 0.24 if titled else self.edge
        self.caption = 0.2 if captioned else 0.05
        self.bar = self.edge + self.across * (self.group * (self.width + self.gap) + self.apart)
        self.size = (self.bar + 0.62, self.top + down * (self.height + self.caption) + self.edge)
        self.figure = new_figure(*self.size, layout=None)

    def panel(self, sample: int, place: int) -> Axes:
        row, column = divmod(sample, self.across)
        left = self.edge + column * (self.group * (self.width + self.gap) + self.apart)
        left += place * (self.width + self.gap)
        return self._axes(left, self.top + row * (self.height + self.caption), self.width, self.height)

    def colour_bar(self) -> Axes:
        tall = min(1.6, self.height)
        return self._axes(self.bar, self.top + (self.height - tall) / 2, 0.09, tall)

    def _axes(self, left: float, top: float, width: float, height: float) -> Axes:
        across, down = self.size
        return self.figure.add_axes((left / across, 1.0 - (top + height) / down, width / across, height / down))


def _colour_bar(grid: _Grid, cmap: str, limit: float | None) -> None:
    """Without a limit that holds for all maps the bar says only what the colours mean."""
    end = 1.0 if limit is None else limit
    norm = require("matplotlib.colors", "report").Normalize(-end, end)
    mappable = require("matplotlib.cm", "report").ScalarMappable(norm, cmap)
    bar = grid.figure.colorbar(mappable, cax=grid.colour_bar())
    bar.outline.set_visible(False)
    labels = ("against", "none", "for") if limit is None else (f"−{limit:.2g}", "0", f"{limit:.2g}")
    bar.set_ticks([-0.94 * end, 0.0, 0.94 * end], labels=labels)
    bar.ax.tick_params(labelsize=SMALL, labelcolor=SOFT, length=0, pad=3)
