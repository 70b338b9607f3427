"""The models of a benchmark's config, loaded as the other commands load theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from zsu_fast.benchmark import Case, Config
from zsu_fast.benchmark.config import ModelEntry
from zsu_fast.cli.images import ImageSet
from zsu_fast.cli.models import imported, load_model
from zsu_fast.cli.session import Session, open_session

BATCH = 256
SPLIT_SEED = 0


def cases_of(config: Config) -> dict[str, Callable[[], Case]]:
    """Name -> function that loads it."""
    return {entry.name: partial(load_case, entry, config) for entry in config.models}


def load_case(entry: ModelEntry, config: Config) -> Case:
    """The model, its images and oracles.

    Raises:
        ValueError, TypeError: naming the model's part of the config.
    """
    where = f"models.{entry.name}"
    session = open_session(
        entry.model, None if entry.weights is None else Path(entry.weights), classes=entry.num_classes,
        device=config.device, batch_size=BATCH, mean=entry.mean, std=entry.std, size=entry.size,
    )  # fmt: skip
    given = {part: getattr(entry, part) for part in ("images", "lessons", "test")}
    given["train"] = entry.train if config.needs_training_images else None
    sets = {part: _read(session, path, f"{where}.{part}") for part, path in given.items() if path is not None}
    if "images" in sets:
        sets["lessons"], sets["test"] = _halved(sets.pop("images"))
    if shared := sets["lessons"].shared_with(sets["test"]):
        raise ValueError(f"{where}: {shared} of the lessons are among the test images, which must have no other part")
    if entry.most is not None:
        sets |= {part: _some(sets[part], entry.most) for part in ("lessons", "test")}
    pairs: dict[str, Any] = {part: (session.tensor(images), images.labels) for part, images in sets.items()}
    return Case(
        session.loaded.model, oracle=_oracles(entry, config), published=entry.published, names=session.names, **pairs
    )


def _read(session: Session, path: str, option: str) -> ImageSet:
    """Labelled images from the disk, or from a function."""
    if path.startswith("python:"):
        images = _from_python(path, option)
        session.adopt(images)
        return images
    return session.read_labelled(Path(path), option)


def _from_python(source: str, option: str) -> ImageSet:
    made = imported(source.removeprefix("python:"), option)
    found = made() if callable(made) else made
    if not isinstance(found, tuple) or len(found) != 2:
        raise TypeError(f"{option}: {source} must give (images, labels), got {type(found).__name__}")
    pixels, labels = np.asarray(found[0]), np.asarray(found[1])
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or labels.shape != (len(pixels),) or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{option}: {source} must give uint8 images [N, H, W, C] and N integer labels, got {pixels.dtype} "
            f"{list(pixels.shape)} and {labels.dtype} {list(labels.shape)}"
        )
    return ImageSet(source, pixels, (), torch.from_numpy(labels.astype(np.int64)), {})


def _halved(images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Half of each class, drawn, and the other half."""
    assert images.labels is not None
    generator = torch.Generator().manual_seed(SPLIT_SEED)
    first = torch.zeros(len(images), dtype=torch.bool)
    for label in images.labels.unique().tolist():
        own = (images.labels == label).nonzero()[:, 0]
        first[own[torch.randperm(len(own), generator=generator)[: len(own) // 2]]] = True
    return images.take(first.nonzero()[:, 0]), images.take((~first).nonzero()[:, 0])


def _some(images: ImageSet, most: int) -> ImageSet:
    """At most so many, the first of each class, as many of each."""
    assert images.labels is not None
    labels = images.labels.unique().tolist()
    each = max(1, most // len(labels))
    chosen = torch.cat([(images.labels == label).nonzero()[:each, 0] for label in labels])
    return images.take(chosen.sort().values)


def _oracles(entry: ModelEntry, config: Config) -> Callable[[int], nn.Module | None] | None:
    """class -> the retrained model, or None where there is none."""
    given, where = entry.oracles, f"models.{entry.name}.oracles"
    if given is None:
        return None
    if isinstance(given, str) and given.startswith("python:"):
        made: Any = imported(given.removeprefix("python:"), where)
        if not callable(made):
            raise TypeError(f"{where}: {given} must be a function of a class")
        return lambda target: None if (found := made(target)) is None else found.to(config.device).eval()
    if isinstance(given, Mapping):
        files = {int(key): Path(path) for key, path in given.items()}
        if absent := [path for path in files.values() if not path.is_file()]:
            raise ValueError(f"{where}: no such file: {absent[0]}")
    else:
        files = {}

    def load(target: int) -> nn.Module | None:
        path = files.get(target) if files else Path(str(given).replace("{class}", str(target)))
        if path is None or not path.is_file():
            return None
        return load_model(entry.model, path, classes=entry.num_classes, device=config.device).model

    return load
