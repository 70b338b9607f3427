"""A benchmark that needs no data: the demo's small network on scikit-learn's digits, and its oracles.

A third of the images of each class trains it, a third are lessons, a third judge.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zsu_fast.demo import train_network
from zsu_fast.extras import require

Images = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]
SEED = 0
PARTS = 3


def _part(number: int) -> Images:
    """uint8 [N, 8, 8, 1] and labels, an equal part of each class."""
    data = require("sklearn.datasets", "evaluate").load_digits()
    order = np.random.default_rng(SEED).permutation(len(data.target))
    chosen = [order[data.target[order] == label][number::PARTS] for label in range(10)]
    where = np.concatenate(chosen)
    pixels = np.round(data.images[where, :, :, None] * (255 / 16)).astype(np.uint8)
    return pixels, data.target[where].astype(np.int64)


def train() -> Images:
    return _part(0)


def lessons() -> Images:
    return _part(1)


def test() -> Images:
    return _part(2)


def original() -> nn.Module:
    """The network, trained on all digits in a second or two; the same bits each time on one machine."""
    return train_network(*_ready(train()), SEED)


def retrained(target: int) -> nn.Module:
    """The oracle: the same recipe and seed, without the images of a digit."""
    images, labels = _ready(train())
    return train_network(images[labels != target], labels[labels != target], SEED)


def _ready(images: Images) -> tuple[Tensor, Tensor]:
    """As `zsu_fast benchmark` prepares them for a model that says nothing of its preprocessing."""
    pixels, labels = images
    return torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255.0, torch.from_numpy(labels)
