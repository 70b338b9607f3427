"""What callers give - images, labels, classes to forget - is checked here, in the same words on both sides.

Whoever refuses names the argument, says what was expected and what came.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def check_images(name: str, images: object, least: int = 0) -> Tensor:
    """A dense tensor [N, ...] with values, N >= `least`."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{name}: expected a tensor of images [N, ...], got {type(images).__name__}")
    if images.layout != torch.strided or images.is_nested or images.is_meta:
        kind = "nested" if images.is_nested else "meta" if images.is_meta else str(images.layout)
        raise TypeError(f"{name}: expected a dense tensor with values, got a {kind} one")
    if images.dim() < 2 or len(images) < least:
        raise ValueError(
            f"{name}: expected a tensor of images [N, ...] with N >= {least}, got shape {tuple(images.shape)}"
        )
    return images


def check_labels(name: str, labels: object, count: int, device: torch.device | str = "cpu") -> Tensor:
    """Class indices as int64 [count] on `device`."""
    try:
        found = torch.as_tensor(labels, device=device).detach()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        kind = f"{type(labels).__name__} of other things" if isinstance(labels, Iterable) else type(labels).__name__
        raise TypeError(f"{name}: expected {count} class indices, got {kind}") from None
    if found.numel() and (found.is_floating_point() or found.is_complex() or found.dtype == torch.bool):
        raise TypeError(f"{name}: expected {count} class indices, got {found.dtype}")
    if found.shape != (count,):
        raise ValueError(f"{name}: expected {count} class indices, got shape {tuple(found.shape)}")
    found = found.to(torch.int64)
    if count and int(found.min()) < 0:
        raise ValueError(f"{name}: expected class indices >= 0, got {int(found.min())} at {int(found.argmin())}")
    return found


def check_classes(name: str, labels: Tensor, classes: int) -> None:
    """ValueError for labels int64 [N] that are not classes of a model with so many."""
    if labels.numel() and int(labels.max()) >= classes:
        raise ValueError(
            f"{name}: the model has classes 0..{classes - 1}, got {int(labels.max())} at {int(labels.argmax())}"
        )


def check_targets(target: object, classes: int | None = None) -> list[int]:
    """Distinct classes, of a model with so many; anything that counts as an integer (also of numpy or torch) will do.

    Raises:
        TypeError: if it holds something else than integers.
        ValueError: if it is empty or names a class twice, or one that the model does not have.
    """
    given: Any = target.tolist() if hasattr(target, "tolist") else target  # numpy or torch
    values = list(given) if isinstance(given, Iterable) else [given]
    try:
        if any(isinstance(value, bool) for value in values):
            raise TypeError
        targets = [operator.index(value) for value in values]
    except TypeError:
        raise TypeError(f"target: expected a class index or several, got {target!r}") from None
    if not targets:
        raise ValueError("target: expected a class index or several, got none")
    if len(set(targets)) != len(targets):
        raise ValueError(f"target: a class is named twice in {targets}")
    for value in targets:
        if classes is not None and not 0 <= value < classes:
            raise ValueError(f"target: the model has classes 0..{classes - 1}, got {value}")
        if not 0 <= value < 2**63:
            raise ValueError(f"target: expected a class index >= 0, got {value}")
    return targets


def check_int(name: str, value: object, low: int, high: int | None = None) -> int:
    """An integer from `low` to `high`."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name}: expected at least {low}{'' if high is None else f', at most {high}'}, got {value}")
    return value


def check_seed(seed: object) -> int:
    """A seed that torch, numpy and scikit-learn all take."""
    return check_int("seed", seed, 0, 2**32 - 1)
