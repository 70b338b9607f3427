"""What a class is made of: for each concept a bar and the crops that show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zsu_fast.plot.canvas import SMALL, new_figure, shortened, style
from zsu_fast.plot.colours import GRID, INK, POSITIVE, SOFT, as_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS, MOST_CROPS = 24, 16
CELL = 0.62  # inches


def concepts(rows: Sequence[tuple[str, float, float, Any]], title: str = "") -> Figure:
    """Concepts from top to bottom, in the order in which they come.

    Args:
        rows: (name, share for the class, largest share for another class, crops [n, C, H, W] or [n, H, W, C] as
            `zsu_fast.plot.heatmaps` takes images) of each concept. Red is the first share, grey the second.

    Raises:
        ValueError: there are no rows, or more than 24.
        ImportError: matplotlib is missing (extra "report").
    """
    if not 0 < len(rows) <= MOST_ROWS:
        raise ValueError(f"rows: expected 1 to {MOST_ROWS} concepts, got {len(rows)}")
    pictures = [as_pixels(crops[:MOST_CROPS]) for _, _, _, crops in rows]
    across, wide = max(map(len, pictures)), 2.6
    size = (wide + across * CELL + 0.1, 0.5 + len(rows) * CELL + 0.35)
    figure = new_figure(*size, layout=None)

    def place(left: float, top: float, width: float, height: float) -> Any:
        return figure.add_axes((left / size[0], 1 - (top + height) / size[1], width / size[0], height / size[1]))

    bars = place(1.15, 0.3, wide - 1.3, len(rows) * CELL)
    for at, (_, share, other, _) in enumerate(rows):
        bars.barh(at - 0.15, share, 0.3, color=POSITIVE, label="this class" if at == 0 else None)
        bars.barh(at + 0.15, other, 0.3, color=GRID, label="another class" if at == 0 else None)
        for column, crop in enumerate(pictures[at]):
            panel = place(wide + column * CELL, 0.3 + at * CELL + 0.02, CELL - 0.04, CELL - 0.04)
            panel.imshow(crop.repeat(3 // crop.shape[2], 2), interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            panel.spines[:].set(color=GRID, linewidth=0.6)
    bars.set_ylim(len(rows) - 0.5, -0.5)
    bars.set_yticks(range(len(rows)), [shortened(name, 18) for name, *_ in rows])
    bars.axvline(0, color=SOFT, linewidth=0.6)
    style(bars)
    bars.locator_params("x", nbins=3)
    bars.set_xlabel("share of the relevance")
    bars.legend(frameon=False, fontsize=SMALL, labelcolor=INK, loc="lower left", bbox_to_anchor=(-0.1, 1), ncols=2,
                handlelength=1, borderpad=0, columnspacing=1)  # fmt: skip
    if title:
        figure.text(wide / size[0], 1 - 0.2 / size[1], title, fontsize=SMALL + 1, color=INK)
    return figure
