"""Image sets that the configs name: uint8 [N, H, W, C] and labels, from what torchvision's data sets keep on the disk.

ZSU_FAST_DATA names the folder: of `mnist.npz` (x_train, y_train, x_test, y_test), or else torchvision's root of MNIST,
CIFAR10 and CIFAR100 (download them there once with ``torchvision.datasets.CIFAR10(root, download=True)``).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bench import oracles

Images = tuple["np.ndarray[Any, Any]", "np.ndarray[Any, Any]"]


def mnist_test() -> Images:
    return _mnist("test")


def mnist_train() -> Images:
    return _mnist("train")


def cifar10_test() -> Images:
    return _torchvision("CIFAR10", train=False)


def cifar10_train() -> Images:
    return _torchvision("CIFAR10", train=True)


def cifar100_test() -> Images:
    return _torchvision("CIFAR100", train=False)


def cifar100_train() -> Images:
    return _torchvision("CIFAR100", train=True)


def mnist_cnn() -> tuple[nn.Module, dict[str, Any]]:
    """The paper's CNN and its preprocessing, as `python -m bench.oracles --models cnn_mnist` trains it."""
    return oracles.SmallCNN(1, 28), {"mean": [0.1307], "std": [0.3081]}


def lenet5_mnist() -> Any:
    """LeNet-5 and its preprocessing, of the folder of data (`models.py` stands there)."""
    build, preprocess = oracles.definitions(folder()).MODELS["lenet5_mnist"]
    return build(), preprocess


def folder() -> Path:
    found = os.environ.get("ZSU_FAST_DATA")
    if not found or not Path(found).is_dir():
        raise ValueError(f"ZSU_FAST_DATA: must name the folder of the data, got {found!r}")
    return Path(found)


def _mnist(part: str) -> Images:
    if (file := folder() / "mnist.npz").exists():
        with np.load(file) as arrays:
            return arrays[f"x_{part}"].reshape(-1, 28, 28, 1), arrays[f"y_{part}"].astype(np.int64)
    return _torchvision("MNIST", train=part == "train")


def _torchvision(name: str, train: bool) -> Images:
    from torchvision import datasets

    found = getattr(datasets, name)(folder(), train=train)
    return np.asarray(found.data), np.asarray(found.targets, dtype=np.int64)
