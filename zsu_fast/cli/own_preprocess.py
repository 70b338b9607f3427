"""Preprocessing that a model brings along: a callable of a batch, or of one picture, as torchvision's transforms."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from zsu_fast.cli.pictures import to_8_bits
from zsu_fast.extras import require

if TYPE_CHECKING:
    from PIL.Image import Image

    from zsu_fast.cli.preprocess import Preprocess


class OwnPreprocess:
    """A callable of the user's, whichever of these it takes.

    - All images: a uint8 array [N, H, W, C] (of a .npz) or a list of PIL images (files); gives the batch.
    - One PIL image: torchvision's transforms, alone or composed; gives one image [C, H, W].
    - One array [H, W, C] as `image=`: albumentations; gives a mapping with "image", [C, H, W] or (an array) [H, W, C].

    Which one is found out with the first images, in this order, and stays.

    Args:
        function: the callable.
        mode: "RGB" or "L", which files are converted to, as the loaders that such callables are written for do it.
        normalisation: (mean, std) on the scale of 0..1, to turn its images back. Default: of what it is composed of.
        steps: what it does, in words. Default: what it is composed of.
        source: where it is known from.
        overridden: gives another one with another mean, std, size, where that can be.
        plain: mean, std, size and channels, where it does no more than to resize, crop, scale and normalise.

    Raises:
        ValueError: no way of calling it gives images; the message has what the first way raised or gave.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        mode: str = "RGB",
        *,
        normalisation: tuple[Sequence[float], Sequence[float]] | None = None,
        steps: Sequence[str] = (),
        source: str = "the model's own",
        overridden: Callable[..., OwnPreprocess] | None = None,
        plain: Preprocess | None = None,
    ) -> None:
        self.plain = plain
        self.function, self.mode, self.source, self._overridden = function, mode, source, overridden
        self.normalisation = normalisation or _normalisation(function)
        self._steps = list(steps) or _composed_of(function)
        self._ways = [_all_at_once, _each, _each_by_name]

    def __call__(self, images: np.ndarray[Any, Any] | list[Image]) -> Tensor:
        """N images -> [N, ...]."""
        if isinstance(images, np.ndarray) and images.shape[-1] != len(self.mode):
            images = [_pil(image) for image in images]
        if isinstance(images, list):
            images = [to_8_bits(image).convert(self.mode) for image in images]
        if len(self._ways) == 1:
            return self._ways[0](self.function, images)
        first: Exception | None = None
        for way in self._ways:
            try:
                batch = way(self.function, images)
            except Exception as error:  # whatever a callable raises that was made for something else
                first = first or error
            else:
                self._ways = [way]
                return batch
        raise ValueError(
            f"the model's preprocessing takes neither the images as {_described(images)} nor one PIL image: {first}"
        ) from first

    def inverse(self, batch: Tensor) -> Tensor:
        """Images [N, C, H, W] as it makes them -> the scale of 0..1: each stretched over it, if nothing is known."""
        if self.normalisation is not None and all(len(values) in (1, batch.shape[1]) for values in self.normalisation):
            mean, std = (torch.tensor(values).view(1, -1, 1, 1) for values in self.normalisation)
            return batch * std + mean
        low, high = (f(batch, dim=(1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        return (batch - low) / (high - low).clamp(min=1e-12)

    @property
    def steps(self) -> list[str]:
        """What is done to a picture, in words."""
        return [f"convert to {'RGB' if self.mode == 'RGB' else 'grey'}", *self._steps]

    def overridden(self, **changes: Any) -> OwnPreprocess:
        """This, with the mean, std or size that the user asked for. ValueError where it cannot be changed."""
        if self._overridden is None:
            raise ValueError("--mean, --std and --size cannot be given: the model brings its own preprocessing")
        found = self._overridden(**changes)
        found.mode = self.mode
        return found


def _parts(function: Any) -> list[Any]:
    """Of a composition (of torchvision, timm, albumentations) its transforms; of another callable itself."""
    parts = getattr(function, "transforms", None)
    return list(parts) if isinstance(parts, list | tuple) else [function]


def _normalisation(function: Any) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and deviation of the last part that has both, on the scale of 0..1 (some have them on that of 0..255)."""
    for part in reversed(_parts(function)):
        found = getattr(part, "mean", None), getattr(part, "std", None)
        if not any(value is None or callable(value) for value in found):
            mean, std = (torch.as_tensor(value).double().flatten() for value in found)
            scale = 255.0 if float(mean.max()) > 2 else 1.0
            return (mean / scale).tolist(), (std / scale).tolist()
    return None


def _composed_of(function: Any) -> list[str]:
    parts = _parts(function)
    if parts == [function] and not isinstance(function, torch.nn.Module):
        return [getattr(function, "__qualname__", None) or type(function).__name__]
    return [" ".join(repr(part).split()) for part in parts]


def _all_at_once(function: Callable[..., Any], images: Any) -> Tensor:
    found = function(images)
    if isinstance(found, list | tuple) and found and all(isinstance(image, Tensor) for image in found):
        found = torch.stack(list(found))  # torchvision's transforms, version 2
    if not isinstance(found, Tensor) or found.dim() < 2 or len(found) != len(images):
        raise TypeError(f"it must return a tensor [{len(images)}, ...], got {_described(found)}")
    return found


def _each(function: Callable[..., Any], images: Any) -> Tensor:
    return torch.stack([_one(function(_pil(image))) for image in images])


def _each_by_name(function: Callable[..., Any], images: Any) -> Tensor:
    return torch.stack([_one(function(image=np.asarray(image))["image"]) for image in images])


def _one(image: Any) -> Tensor:
    found = torch.from_numpy(image).movedim(-1, 0) if isinstance(image, np.ndarray) and image.ndim == 3 else image
    if not isinstance(found, Tensor) or found.dim() < 1:
        raise TypeError(f"it must return a tensor [C, H, W] for one picture, got {_described(image)}")
    return found.contiguous()


def _pil(image: Any) -> Any:
    if not isinstance(image, np.ndarray):
        return image
    return require("PIL.Image", "cli").fromarray(image[:, :, 0] if image.shape[-1] == 1 else image)


def _described(value: Any) -> str:
    shape = getattr(value, "shape", None)
    return type(value).__name__ + (f" {list(shape)}" if isinstance(shape, tuple) else "")
