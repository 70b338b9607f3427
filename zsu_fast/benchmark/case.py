"""A model under test: what it is, the images that methods, attackers and judges get, and its oracles."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.benchmark.settings import PROBES, TRAIN, Few
from zsu_fast.evaluate.images import check_labelled
from zsu_fast.model.tensors import model_digest, update_digest

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Case:
    """A trained classifier and labelled images (model-ready [N, ...], class indices [N]).

    Attributes:
        model: never changed; every cell edits a copy.
        lessons: unseen by the model. Methods get a few of them, attackers all.
        test: unseen by the model, others than the lessons: they judge, and have no other part.
        train: what the model was trained on; for methods with `data` "train", and for membership inference.
        oracle: class -> a model of the same shape that was retrained without it by the same recipe, or None.
        published: rows of papers to be shown beside: mappings with "method", figures as in `results.csv`, "source".
        names: class index -> name.
    """

    model: nn.Module
    lessons: Pair
    test: Pair
    train: Pair | None = None
    oracle: Callable[[int], nn.Module | None] | Mapping[int, nn.Module] | None = None
    published: tuple[Mapping[str, Any], ...] = ()
    names: Mapping[int, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(self.model).__name__}")
        for name in ("lessons", "test", "train"):
            given = getattr(self, name)
            if given is not None or name != "train":
                object.__setattr__(self, name, check_labelled(name, given))

    def classes(self) -> list[int]:
        """Those that lessons and test both have."""
        known, judged = (set(labels.unique().tolist()) for _, labels in (self.lessons, self.test))
        return sorted(known & judged)

    def oracle_of(self, target: int) -> nn.Module | None:
        """The model that was retrained without the class, if there is one. TypeError if it is no module."""
        if self.oracle is None:
            return None
        found = self.oracle.get(target) if isinstance(self.oracle, Mapping) else self.oracle(target)
        if found is not None and not isinstance(found, nn.Module):
            raise TypeError(
                f"oracle: expected a torch.nn.Module or None for class {target}, got {type(found).__name__}"
            )
        return found

    def given(self, target: int, data: str, few: Few, seed: int) -> tuple[Tensor, Pair | None]:
        """(images of the class, images and labels of the others) for a method, drawn by the seed."""
        if data == TRAIN:
            if self.train is None:
                raise ValueError('data: "train" needs the training images of the model')
            (x, y), chosen = self.train, torch.arange(len(self.train[1]))
        else:
            x, y = self.lessons
            generator = torch.Generator().manual_seed(seed)
            drawn = []
            for label in y.unique().tolist():
                own = (y == label).nonzero()[:, 0]
                most = few.probes if label == target else few.retain
                drawn.append(own[torch.randperm(len(own), generator=generator)[:most]])
            chosen = torch.cat(drawn)
        own = chosen[y[chosen] == target]
        others = chosen[y[chosen] != target]
        return x[own], None if data == PROBES else (x[others], y[others])

    @cached_property
    def digests(self) -> dict[str, str]:
        """SHA-256 of the model's state and of each set of images with its labels."""
        found = {"model": model_digest(self.model)}
        for name in ("lessons", "test", "train"):
            if (pair := getattr(self, name)) is not None:
                digest = hashlib.sha256()
                for part in pair:
                    update_digest(digest, name, part)
                found[name] = digest.hexdigest()
        return found
