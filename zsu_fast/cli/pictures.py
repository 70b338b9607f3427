"""One image file: read in its own range, or refused by name of its mode; never clipped."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from zsu_fast.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

BITS_PER_SAMPLE, PHOTOMETRIC, ORIENTATION = 258, 262, 274  # tags of TIFF, the last of EXIF too
ADVICE = "save it with 8 or 16 bits, or give a .npz of uint8"


def open_picture(path: Path) -> Image:
    """The picture in mode "L" or "RGB" if it has 8 bits, in mode "F" on the scale of 0..255 if it has more.

    Raises:
        ValueError: it cannot be read, holds several frames, or numbers whose range cannot be known.
    """
    pil = require("PIL.Image", "cli")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pil.DecompressionBombWarning)
            with pil.open(path) as image:
                frames = getattr(image, "n_frames", 1)
                if frames > 1 and image.format != "MPO":  # cameras put a preview behind a photo
                    raise ValueError(f"it holds {frames} frames: save each as a file")
                image.load()
                return _in_range(image)
    except Exception as error:  # of a damaged file the decoders raise nearly anything
        raise ValueError(f"cannot read the image {path}: {str(error).strip() or type(error).__name__}") from None


def turned_by_exif(path: Path) -> bool:
    """Whether the file asks to be shown turned or mirrored. `open_picture` does not: the loaders that models are
    trained with (torchvision's and timm's) do not, so their nets have seen such pictures lying."""
    with require("PIL.Image", "cli").open(path) as image:
        return image.getexif().get(ORIENTATION, 1) != 1


def to_8_bits(image: Image) -> Image:
    """What people see, for preprocessing that is not ours and would take mode "F" for something else."""
    if image.mode != "F":
        return image
    found: Image = require("PIL.Image", "cli").fromarray(np.rint(np.asarray(image)).astype(np.uint8))
    return found


def _in_range(image: Image) -> Image:
    mode = image.mode
    if mode in ("1", "L"):
        return image.convert("L")
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        return _scaled(image, _levels(image))
    if mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ValueError(
                f"mode F (floats) is taken from 0 to 1, this goes from {values.min():g} to {values.max():g}: {ADVICE}"
            )
        return _scaled(image, 1)
    if mode == "I":
        raise ValueError(f"mode I (signed or 32-bit integers) does not tell which value is white: {ADVICE}")
    return image.convert("RGB")


def _levels(image: Image) -> int:
    """The value of white: of 16 bits, also where a camera fills 12 of them; TIFF can say that it has 12."""
    bits = _tag(image, BITS_PER_SAMPLE)
    return 4095 if bits == 12 else 65535


def _scaled(image: Image, white: int) -> Image:
    share = np.asarray(image).astype(np.float64) / white
    if image.mode != "F" and _tag(image, PHOTOMETRIC) == 0:  # TIFF whose zero is white; PIL turns only 8 bits
        share = 1 - share
    if share.min() < 0 or share.max() > 1:
        raise ValueError(f"mode {image.mode} holds values beyond 0..{white}: {ADVICE}")
    found: Image = require("PIL.Image", "cli").fromarray((share * 255).astype(np.float32))
    return found


def _tag(image: Image, number: int) -> Any:
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) and value else value
