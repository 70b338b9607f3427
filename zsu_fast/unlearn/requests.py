"""WHAT is to be forgotten: frozen values, which a method is asked to carry out."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


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
        targets = target_classes(self.targets)
        object.__setattr__(self, "targets", targets)
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


def target_classes(target: object) -> tuple[int, ...]:
    """The classes as distinct ints; anything that counts as an integer (also of numpy or torch) will do."""
    single = hasattr(target, "__index__") and getattr(target, "ndim", 0) == 0
    given: Any = [target] if single else target
    try:
        if isinstance(given, str) or any(isinstance(value, bool) for value in given):
            raise TypeError
        values = [operator.index(value) for value in given]
    except TypeError:
        values = []
    if not values or any(abs(value) >= 2**63 for value in values):
        raise TypeError(f"target: expected a class index or several, got {target!r}")
    if len(set(values)) != len(values):
        raise ValueError(f"target: a class is named twice in {values}")
    return tuple(values)


def check_images(name: str, images: object) -> None:
    """A plain tensor of finite images [N, ...], N >= 1."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: expected a tensor of images [N, ...], got {type(images).__name__}")
    if images.layout != torch.strided or images.is_nested or images.is_meta:
        kind = "nested" if images.is_nested else "meta" if images.is_meta else str(images.layout)
        raise TypeError(f"{name}: expected a dense tensor with values, got a {kind} one")
    if images.dim() < 2 or len(images) == 0:
        raise ValueError(f"{name}: expected a tensor of images [N, ...] with N >= 1, got shape {tuple(images.shape)}")
    if (images.is_floating_point() or images.is_complex()) and not bool(images.isfinite().all()):
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")


def class_labels(name: str, labels: object, count: int, device: torch.device) -> Tensor:
    """int64 [count] on `device`."""
    try:
        found = torch.as_tensor(labels, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        kind = f"{type(labels).__name__} of other things" if isinstance(labels, Iterable) else type(labels).__name__
        raise TypeError(f"{name}: expected {count} integers, got {kind}") from None
    if found.shape != (count,) or found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise ValueError(f"{name}: expected {count} integers, got {tuple(found.shape)} of {found.dtype}")
    return found.to(torch.int64)


def probe_classes(probes: Tensor, labels: object, targets: tuple[int, ...]) -> Tensor:
    check_images("probes", probes)
    if labels is None:
        if len(targets) > 1:
            raise ValueError("probe_labels: needed with several targets, to say which probe belongs to which")
        return torch.full((len(probes),), targets[0], device=probes.device)
    found = class_labels("probe_labels", labels, len(probes), probes.device)
    if set(found.unique().tolist()) != set(targets):
        raise ValueError(
            f"probe_labels: expected each of the targets {list(targets)}, got {sorted(found.unique().tolist())}"
        )
    return found


def labelled(name: str, given: object) -> tuple[Tensor, Tensor]:
    """A pair (images, labels)."""
    if not isinstance(given, (tuple, list)) or len(given) != 2:
        got = f"{type(given).__name__} of {len(given)}" if isinstance(given, (tuple, list)) else type(given).__name__
        raise TypeError(f"{name}: expected a pair (images, labels), got {got}")
    images, labels = given
    check_images(name, images)
    return images, class_labels(f"{name} labels", labels, len(images), images.device)
