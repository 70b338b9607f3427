"""WHAT is to be forgotten: frozen values, which a method is asked to carry out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from zsu_fast.evaluate.given import check_images, check_labelled, check_labels, check_targets


@dataclass(frozen=True, eq=False)
class ForgetClass:
    """Forget one class, or several.

    targets: class index or indices. probes: model-ready images [N, ...] of the class(es) that the model was not trained
    on; a few dozen of each are enough. labels: int [N], the target that each probe belongs to; needed with several.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    targets: int | Sequence[int]
    probes: Tensor
    labels: Tensor | Sequence[int] | None = None

    def __post_init__(self) -> None:
        targets = check_targets(self.targets)
        object.__setattr__(self, "targets", tuple(targets))
        object.__setattr__(self, "labels", probe_classes(self.probes, self.labels, targets))

    @property
    def classes(self) -> tuple[int, ...]:
        assert isinstance(self.targets, tuple)
        return self.targets

    @property
    def probe_labels(self) -> Tensor:
        assert isinstance(self.labels, Tensor)
        return self.labels

    def describe(self) -> dict[str, Any]:
        """JSON form, for the record."""
        return {"kind": "class", "targets": list(self.classes)}


Request = ForgetClass


def check_finite(name: str, images: object) -> Tensor:
    """Images [N, ...] to choose an edit by: at least one, and no NaN or infinity."""
    found = check_images(name, images, 1)
    if (found.is_floating_point() or found.is_complex()) and not bool(found.isfinite().all()):
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return found


def labelled(name: str, given: object) -> tuple[Tensor, Tensor]:
    """A pair (images, labels), the labels where the images are."""
    images, labels = check_labelled(name, given, None)
    return check_finite(name, images), labels


def probe_classes(probes: object, labels: object, targets: list[int]) -> Tensor:
    """The class of each probe, int64 [N] where the probes are."""
    images = check_finite("probes", probes)
    if labels is None:
        if len(targets) > 1:
            raise ValueError("probe_labels: needed with several targets, to say which probe belongs to which")
        return torch.full((len(images),), targets[0], device=images.device)
    found = check_labels("probe_labels", labels, len(images), images.device)
    if set(found.unique().tolist()) != set(targets):
        raise ValueError(f"probe_labels: expected each of the targets {targets}, got {sorted(found.unique().tolist())}")
    return found
