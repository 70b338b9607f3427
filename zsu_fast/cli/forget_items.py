"""``zsu-fast forget generator --items``: the images, as the generator makes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zsu_fast.cli.images import read_images
from zsu_fast.cli.preprocess import Preprocess
from zsu_fast.unlearn import ForgetItems


def items_request(
    items: Path,
    unseen: Path | None,
    instead: Path | None,
    latents: Any,
    bounds: tuple[float, float],
    classifier: nn.Module | None,
    device: str,
    **more: Any,
) -> ForgetItems:
    """ValueError, naming the option, for files that hold no such images, or are missing."""
    if unseen is None:
        raise ValueError("--unseen: needed with --items: images that the generator was not trained on")
    low, high = bounds

    def read(path: Path, option: str) -> Tensor:
        pixels = read_images(path, {}, option).tensor(Preprocess())
        return (pixels * (high - low) + low).to(device)

    return ForgetItems(
        read(items, "--items"),
        latents.to(device) if isinstance(latents, Tensor) else latents,
        read(unseen, "--unseen"),
        instead=None if instead is None else read(instead, "--instead"),
        classifier=classifier,
        **more,
    )
