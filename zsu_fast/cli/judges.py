"""Judges of a generator's images, and latents, as ``zsu-fast forget generator`` takes them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.cli.models import LoadedModel
from zsu_fast.cli.npz import read_arrays
from zsu_fast.cli.preprocess import Preprocess
from zsu_fast.evaluate.inference import logits_of


class Judge(nn.Module):
    """A classifier of images from `low` to `high`: scaled to 0..1, resized and normalised as it wants them."""

    def __init__(self, net: nn.Module, preprocess: Preprocess, low: float, high: float) -> None:
        super().__init__()
        self.net, self.preprocess, self.low, self.high = net, preprocess, low, high

    def forward(self, images: Tensor) -> Tensor:
        seen = (images - self.low) / (self.high - self.low)
        wanted = self.preprocess
        if wanted.size is not None and seen.shape[2:] != wanted.size:
            seen = F.interpolate(seen, wanted.size, mode="bilinear", antialias=True)
        if wanted.channels is not None and seen.shape[1] != wanted.channels:
            seen = seen.mean(1, keepdim=True).expand(-1, wanted.channels, -1, -1)
        mean, std = (torch.tensor(values).view(1, -1, 1, 1).to(seen) for values in (wanted.mean, wanted.std))
        return logits_of(self.net((seen - mean) / std))


def judge_of(loaded: LoadedModel, low: float, high: float, option: str) -> Judge:
    """ValueError for a classifier that brings a preprocessing which gradients cannot pass."""
    plain = loaded.preprocess.plain
    if plain is None:
        raise ValueError(f"{option}: brings a function as its preprocessing; give a mapping with mean, std and size")
    return Judge(loaded.model, plain, low, high)


def read_latents(latent: tuple[int, ...] | Path) -> tuple[int, ...] | Tensor:
    """The shape of one, as `parse_latent` gives it; of a .npz the array z [N, ...]."""
    if isinstance(latent, tuple):
        return latent
    arrays, names = read_arrays(latent, ["z"])
    if "z" not in arrays:
        raise ValueError(f"--latent: {latent} must hold z, it has {', '.join(names) or 'nothing'}")
    found = torch.from_numpy(arrays["z"])
    return found.float() if found.is_floating_point() else found
