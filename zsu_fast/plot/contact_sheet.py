"""Pictures beside what a model sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from zsu_fast.plot.canvas import SMALL, fill, new_figure, shortened
from zsu_fast.plot.colours import INK, SOFT, Array, as_pixels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIDE, GAP, EDGE, CAPTION, TITLE = 1.3, 0.06, 0.12, 0.42, 0.26
PAIRS = 4  # beside each other


def contact_sheet(
    pictures: Sequence[Array], seen: Any, captions: Sequence[str], marked: Sequence[bool] | None = None
) -> Figure:
    """Each picture as it is, what the model sees of it to its right, and a caption of one or two lines below.

    Args:
        pictures: N arrays uint8 [H, W, 1 or 3], of any sizes.
        seen: As many images, as `heatmaps` takes them.
        captions: N texts.
        marked: Which captions are to be bold.

    Raises:
        ValueError: Not as many of one as of the other, or none.
        ImportError: matplotlib is missing (extra "report").
    """
    shown = as_pixels(seen)
    if not len(pictures) == len(shown) == len(captions) or not len(captions):
        raise ValueError(f"got {len(pictures)} pictures, {len(shown)} images seen and {len(captions)} captions")
    across, down = min(PAIRS, len(captions)), -(-len(captions) // PAIRS)
    pair, row = 2 * SIDE + GAP + 2 * EDGE, SIDE + CAPTION
    width, height = across * pair, TITLE + down * row
    figure = new_figure(width, height, layout=None)
    for i, (caption, *both) in enumerate(zip(captions, pictures, shown, strict=True)):
        left, top = (i % PAIRS) * pair + EDGE, TITLE + (i // PAIRS) * row
        for place, pixels in enumerate(both):
            at = left + place * (SIDE + GAP)
            axes = figure.add_axes((at / width, 1 - (top + SIDE) / height, SIDE / width, SIDE / height))
            fill(axes, pixels.repeat(3 // pixels.shape[2], 2))
            if i < PAIRS:
                title = ("as it is", "as the model sees it")[place]
                axes.set_title(title, fontsize=SMALL, color=SOFT, pad=3)
        text = "\n".join(shortened(line, 44, keep="start") for line in caption.splitlines()[:2])
        weight = "bold" if marked is not None and marked[i] else "normal"
        place_of = left / width, 1 - (top + SIDE + 0.05) / height
        figure.text(*place_of, text, fontsize=SMALL, color=INK, va="top", weight=weight, parse_math=False)
    return figure
