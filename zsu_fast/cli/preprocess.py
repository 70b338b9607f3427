"""From images as they lie on the disk to what a model takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zsu_fast.cli.own_preprocess import OwnPreprocess
from zsu_fast.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image


INTERPOLATIONS = ("nearest", "box", "bilinear", "hamming", "bicubic", "lanczos")  # as PIL calls them


@dataclass(frozen=True)
class Preprocess:
    """Resize, crop, scale to [0, 1] and normalise: the values of torchvision's transforms of a PIL image, bit for bit.

    Arrays that have the model's size already (of a .npz) are taken as prepared: neither resized nor cropped.

    Attributes:
        mean, std: one value for each channel, on the scale of [0, 1].
        size: (height, width) that the model takes; None keeps images as they are (all must then be of one size).
        resize: length of the shorter side before the centre crop; None resizes straight to ``size``.
        interpolation: one of `INTERPOLATIONS`.
        channels: 1 or 3, images are converted; None keeps them as they are.
        source: where this is known from.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    size: tuple[int, int] | None = None
    resize: int | None = None
    interpolation: str = "bilinear"
    channels: int | None = None
    source: str = field(default="given by nobody: images are only scaled", compare=False)

    def __post_init__(self) -> None:
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"interpolation must be one of {', '.join(INTERPOLATIONS)}, got {self.interpolation!r}")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must be of one length, got {len(self.mean)} and {len(self.std)} values")
        if any(value <= 0 for value in self.std):
            raise ValueError(f"std must be positive, got {list(self.std)}")
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size must be positive, got {list(self.size)}")

    def __call__(self, images: np.ndarray[Any, Any] | list[Image]) -> Tensor:
        """uint8 [N, H, W, C] or N PIL images -> float32 [N, C, H, W]."""
        if isinstance(images, list):
            pixels = _stack([self._fit(image) for image in images])
        elif self._needs_no_fitting(images):
            pixels = images
        else:
            pixels = _stack([self._fit(_to_pil(image)) for image in images])
        batch = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255.0
        mean, std = self._per_channel(self.mean, batch), self._per_channel(self.std, batch)
        return ((batch - mean) / std).contiguous()

    def inverse(self, batch: Tensor) -> Tensor:
        """Normalised [N, C, H, W] -> the scale of [0, 1]."""
        return batch * self._per_channel(self.std, batch) + self._per_channel(self.mean, batch)

    @property
    def plain(self) -> Preprocess:
        """Itself: mean, std, size and channels are all that it does. Of an `OwnPreprocess` it may be unknown."""
        return self

    @property
    def steps(self) -> list[str]:
        """What is done to a picture, in words."""
        told = [{1: "convert to grey", 3: "convert to RGB"}.get(self.channels or 0, "keep it grey or RGB, as it is")]
        if self.size is not None:
            size = f"{self.size[0]} x {self.size[1]}"
            if self.resize is None:
                told.append(f"resize to {size}, whatever its shape ({self.interpolation})")
            else:
                told.append(f"resize the shorter side to {self.resize} ({self.interpolation})")
                told.append(f"cut the middle {size} out")
            told.append(f"(of a .npz, what is {size} already is not resized)")
        told.append("scale 0..255 to 0..1")
        if any(self.mean) or any(value != 1 for value in self.std):
            mean, std = (", ".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
            told.append(f"subtract the mean {mean}, divide by the deviation {std}")
        return told

    def overridden(
        self, mean: Sequence[float] | None, std: Sequence[float] | None, size: tuple[int, int] | None
    ) -> Preprocess:
        """This, with what the user asked for; the crop keeps its share of the image."""
        changed = replace(self, source=f"the options, and {self.source}")
        if mean is not None or std is not None:
            changed = replace(changed, mean=tuple(mean or self.mean), std=tuple(std or self.std))
        if size is not None:
            share = self.resize / min(self.size) if self.resize and self.size else 1.0
            changed = replace(changed, size=size, resize=round(min(size) * share))
        return changed

    def _per_channel(self, values: tuple[float, ...], batch: Tensor) -> Tensor:
        if len(values) not in (1, batch.shape[1]):
            raise ValueError(
                f"mean and std must hold 1 or {batch.shape[1]} values, for images of {batch.shape[1]} channels"
            )
        return torch.tensor(values).view(1, -1, 1, 1)

    def _needs_no_fitting(self, images: np.ndarray[Any, Any]) -> bool:
        fits = self.size is None or images.shape[1:3] == self.size
        return fits and self.channels in (None, images.shape[3])

    def _fit(self, image: Image) -> np.ndarray[Any, Any]:
        """Converted, resized and cropped: [H, W, C], uint8 or (mode "F", grey levels finer than 8 bits) float32."""
        pil = require("PIL.Image", "cli")
        mode = {1: "L", 3: "RGB"}.get(self.channels or 0) or ("L" if image.mode in ("1", "L") else "RGB")
        fine = image.mode == "F"
        image = image if fine else image.convert(mode)
        if self.size is not None:
            image = self._resized(image, pil.Resampling[self.interpolation.upper()])
        pixels = np.asarray(image)
        if fine:  # bicubic resizing overshoots, as it does with 8 bits, where PIL cuts
            return np.repeat(pixels.clip(0, 255)[:, :, None], self.channels or 1, axis=2)
        return pixels[:, :, None] if pixels.ndim == 2 else pixels

    def _resized(self, image: Image, resample: Any) -> Image:
        assert self.size is not None
        height, width = self.size
        if self.resize is None:
            return image.resize((width, height), resample)
        short = min(image.width, image.height)  # rounded as torchvision does: lengths down, places to the nearest
        across, down = (self.resize * length // short for length in (image.width, image.height))
        image = image.resize((max(width, across), max(height, down)), resample)
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        return image.crop((left, top, left + width, top + height))


# A model may bring its own.
AnyPreprocess = Preprocess | OwnPreprocess


def _to_pil(pixels: np.ndarray[Any, Any]) -> Image:
    image: Image = require("PIL.Image", "cli").fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    return image


def _stack(images: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    if shapes := sorted({image.shape for image in images} - {images[0].shape}):
        raise ValueError(f"images must be of one size, got {images[0].shape} and {shapes[0]}: give --size")
    return np.stack(images)
