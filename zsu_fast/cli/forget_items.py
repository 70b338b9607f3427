"""``zsu-fast forget generator --items``: the images, as the generator makes them, and the report on them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.cli.images import read_images
from zsu_fast.cli.made import made_of, pixels_of
from zsu_fast.cli.models import LoadedModel
from zsu_fast.cli.preprocess import Preprocess
from zsu_fast.report.items import MOST, ItemsReport
from zsu_fast.unlearn import ForgetItems, ForgetResult


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


def items_page(
    loaded: LoadedModel, request: ForgetItems, result: ForgetResult, bounds: tuple[float, float], photos: bool
) -> ItemsReport:
    """photos: also the items, what is made of the latents that made them, and what a search now finds nearest."""
    page = ItemsReport(model=loaded.spec, record=result.record, picks=result.picks)
    seen = result.record.get("evaluation")
    if not photos or not seen:
        return page
    found = {"what made it makes": "before", "nearest now": "after"} if page.edited else {"nearest": "before"}
    shown = {"the item": pixels_of(request.items[:MOST], *bounds)}
    for what, when in found.items():
        latents = torch.tensor(seen[when]["found"][:MOST]).to(request.fresh)
        shown[what] = made_of(loaded.model, request, latents, *bounds)
    return replace(page, photos=shown)
