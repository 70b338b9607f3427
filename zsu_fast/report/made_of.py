"""What a class is made of, as a picture for the report."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast import plot
from zsu_fast.concepts import relevance_concepts
from zsu_fast.report import parts

MOST = 200  # images of other classes


@dataclass(frozen=True)
class Made:
    """picture: a data: URI. text: what it shows, or why there is none."""

    text: str
    picture: str = ""


def made_of(
    model: nn.Module, probes: Tensor, target: int, others: tuple[Tensor, Tensor], photos: Callable[[Tensor], Any]
) -> Made:
    """Relevance concepts of a class before the edit, at the classifier's input; where there are none, why.

    probes: [N, C, H, W] of the class. others: images of other classes, and their labels int64. photos: model-ready
    images [n, C, h, w] -> as people see them, uint8 [n, h, w, 1 or 3].
    """
    images, labels = others[0][:MOST], others[1][:MOST]
    try:
        own = torch.full((len(probes),), target, device=labels.device)
        found = relevance_concepts(model, (torch.cat([probes, images.to(probes)]), torch.cat([own, labels])), target)
        rows = [(one.name, one.share, one.other, photos(one.crops)) for one in found]
        buffer = io.BytesIO()
        plot.save(plot.concepts(rows), buffer, "png")
    except (ValueError, TypeError, RuntimeError) as error:
        return Made(f"It could not be told ({type(error).__name__}): {' '.join(str(error).split())}")
    text = (
        "The inputs of the classifier that carry more of the relevance for this class than for any other, and of the "
        "probes the patches that this relevance comes from."
    )
    return Made(text, "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode())


def section(title: str, made: Made | None) -> str:
    if made is None:
        return ""
    picture = parts.chart("concepts and their crops", made.picture, "picture") if made.picture else ""
    return parts.section(title, escape(made.text), picture)
