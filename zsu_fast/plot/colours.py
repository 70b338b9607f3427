"""Relevance as colours: red speaks for the class, blue against it, white is none, grey is not a number."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from zsu_fast.extras import require

Array = np.ndarray[Any, Any]

# Red and blue are told apart by every common colour blindness, unlike red and green.
POSITIVE, NEGATIVE = "#c5202b", "#2a5fb0"
INK, SOFT, GRID, MISSING = "#1f2933", "#66727f", "#e4e7eb", "#b4bcc4"


def as_array(values: Any) -> Array:
    """A tensor of any dtype and device, or anything numpy takes, as an array; floating-point values become float64."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()
    array = np.asarray(values)
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def sum_cells(maps: Array, cell: int) -> Array:
    """Relevance [n, H, W] summed over square cells of ``cell`` pixels a side: less noise, the same total.

    The last row and column of cells may hold fewer pixels.
    """
    if isinstance(cell, bool) or not isinstance(cell, int) or cell < 1:
        raise ValueError(f"cell must be a number of pixels >= 1, got {cell!r}")
    rows, columns = (np.arange(0, size, cell) for size in maps.shape[1:])
    return np.add.reduceat(np.add.reduceat(maps, rows, axis=1), columns, axis=2)


def limit_of(values: Array, clip: float = 99.5) -> float:
    """The relevance that gets full colour: the ``clip`` percentile of abs(values), so that one pixel whitens no map.

    Values that are not finite do not count. A map that is zero almost everywhere is scaled by its largest value, one
    that is zero everywhere (or has no finite value) by 1.
    """
    if not 0.0 < clip <= 100.0:
        raise ValueError(f"clip must be a percentile in (0, 100], got {clip!r}")
    size = np.abs(values[np.isfinite(values)])
    if size.size == 0:
        return 1.0
    return float(np.percentile(size, clip)) or float(size.max()) or 1.0


def colour(values: Array, limit: float, cmap: str = "seismic") -> Array:
    """Relevance [H, W] as uint8 RGBA [H, W, 4]: ``-limit`` and ``limit`` and all beyond have full colour."""
    known = require("matplotlib", "report").colormaps
    if cmap not in known:
        raise ValueError(f"cmap must be a colour map of matplotlib such as 'seismic', got {cmap!r}")
    # Of an odd number of colours the middle one is exactly that of zero.
    table = known[cmap].resampled(255).with_extremes(bad=MISSING)
    with np.errstate(over="ignore"):
        share = np.clip(values / limit, -1.0, 1.0)
    return table(np.ma.masked_invalid(np.where(np.isfinite(values), share, np.nan)) / 2.0 + 0.5, bytes=True)


def overlaid(pixels: Array, values: Array, limit: float, cmap: str = "seismic") -> Array:
    """The colours over a pale grey uint8 image [H, W, 1 or 3]: the more relevance, the less of it shines through."""
    grey = pixels.astype(np.float64).mean(2, keepdims=True)
    under = np.concatenate([(110.0 + grey * (145.0 / 255.0)).repeat(3, 2), np.full_like(grey, 255.0)], 2)
    with np.errstate(invalid="ignore"):
        share = np.clip(np.abs(values) / limit, 0.0, 1.0)[:, :, None]
    share = np.where(np.isfinite(share), share, 1.0) ** 0.5
    return (under * (1.0 - share) + colour(values, limit, cmap) * share).round().astype(np.uint8)


def as_pixels(images: Any) -> Array:
    """Images for the eye: uint8 [N, H, W, 1 or 3].

    Args:
        images: [N, C, H, W], or [N, H, W, C] with C 1 or 3. uint8 and floating-point values within [0, 1] are taken as
            they are; others (a model's normalised inputs) are stretched so that each image has the full range.
            Channels that are neither 1 nor 3 are averaged.
    """
    array = as_array(images)
    if array.ndim != 4 or 0 in array.shape or array.dtype.kind not in "uif":
        raise ValueError(f"images must be numbers [N, C, H, W] or [N, H, W, C], got {array.dtype} {list(array.shape)}")
    if array.shape[1] in (1, 3) or array.shape[3] not in (1, 3):
        array = array.transpose(0, 2, 3, 1)
    if array.dtype != np.uint8:
        array = np.nan_to_num(array.astype(np.float64), posinf=0.0, neginf=0.0)
        low, high = array.min((1, 2, 3), keepdims=True), array.max((1, 2, 3), keepdims=True)
        if low.min() < 0.0 or high.max() > 1.0:
            array = (array - low) / np.where(high > low, high - low, 1.0)
        array = array * 255.0
    if array.shape[3] not in (1, 3):
        array = array.mean(3, keepdims=True)
    return np.round(array).astype(np.uint8)


def as_maps(relevance: Any) -> Array:
    """Relevance of images, [N, C, H, W] (summed over the channels) or [N, H, W], as float64 [N, H, W]."""
    array = as_array(getattr(relevance, "input", relevance))
    if array.ndim not in (3, 4) or 0 in array.shape or array.dtype.kind not in "uif":
        raise ValueError(
            f"relevance must be that of images, [N, C, H, W] or [N, H, W], got {array.dtype} {list(array.shape)}"
        )
    array = array.astype(np.float64)
    with np.errstate(invalid="ignore"):  # the sum of infinities of both signs is not a number: it is drawn so
        return array.sum(1) if array.ndim == 4 else array
