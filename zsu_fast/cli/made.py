"""What a generator makes, as pixels for a report."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zsu_fast.evaluate.inference import inference_mode
from zsu_fast.unlearn import ForgetGenerated, ForgetItems

SHOWN, LOOKED_AT = 12, 1000


def made_of(
    model: nn.Module, request: ForgetGenerated | ForgetItems, latents: Tensor, low: float, high: float
) -> np.ndarray[Any, Any]:
    """uint8 [n, H, W, 1 or 3] of what is made of the latents."""
    if not len(latents):
        return np.empty((0, 1, 1, 1), np.uint8)
    view = request.view(model)
    with inference_mode(view):
        return pixels_of(view.images(latents), low, high)


def pixels_of(images: Tensor, low: float, high: float) -> np.ndarray[Any, Any]:
    """Images [n, C, H, W] -> uint8 [n, H, W, 1 or 3]; of other channels the mean."""
    images = images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)
    scaled = ((images.float().cpu() - low) / (high - low)).clamp(0, 1) * 255
    return scaled.round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def made_of_class(model: nn.Module, request: ForgetGenerated, low: float, high: float) -> tuple[Tensor, Any]:
    """Fresh latents of the classes that are to go, and their images; ValueError where pixels lie outside the range."""
    view = request.view(model)
    with inference_mode(view):
        latents = request.fresh[:LOOKED_AT]
        try:
            images = view.images(latents)
        except (RuntimeError, TypeError) as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(f"--latent: the model does not take {tuple(latents.shape)}: {reason}") from error
        slack = 0.01 * (high - low)
        least, largest = float(images.min()), float(images.max())
        if images.dim() != 4 or least < low - slack or largest > high + slack:
            raise ValueError(
                f"--range: expected images [N, C, H, W] from {low:g} to {high:g}, the generator makes "
                f"{tuple(images.shape)} from {least:.3g} to {largest:.3g}"
            )
        own = latents[request.is_target(view.judge(images).argmax(1))][:SHOWN]
    return own, made_of(model, request, own, low, high)
