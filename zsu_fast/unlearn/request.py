"""What `forget` and `select` are asked: checked before anything runs, and completed with defaults."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.unlearn.perturb import MODES, PATHS, check_choice
from zsu_fast.unlearn.picks import SCOPES, SCORES
from zsu_fast.unlearn.presets import AUTHORS_PRESETS, preset_for
from zsu_fast.unlearn.structure import Structure, logits_of

METHODS = ("lra-npp", "channels")


@dataclass(frozen=True)
class Settings:
    """What was asked, completed with defaults. JSON-able by `dataclasses.asdict`; see `forget` for the meaning."""

    targets: tuple[int, ...]
    method: str = "lra-npp"
    k: int | float | None = None
    budget: int | float | None = None
    until: float | None = None
    utility_floor: float | None = None
    mode: str | None = None
    strength: float | None = None
    path: str | None = None
    score: str | None = None
    scope: str = "layer"
    layers: tuple[str, ...] | None = None
    composite: Any = "epsilon"
    preset: str | None = None
    authors_compat: bool = False
    seed: int = 0
    batch_size: int = 64


def complete(settings: Settings, structure: Structure, has_retain: bool) -> Settings:
    """Settings with the preset's values and the defaults that depend on the model and the images filled in."""
    head = structure.head
    settings = replace(settings, score=settings.score or ("contrastive" if has_retain else "frequency"))
    if settings.method != "lra-npp" or head is None:
        return settings
    if settings.authors_compat and settings.preset is None:
        hidden = head.producer is not None and structure.layers[head.producer].kind == "linear"
        settings = replace(settings, preset=preset_for(bool(structure.heads), hidden, head.features))
    if settings.preset is None:
        return replace(settings, k=0.25 if settings.k is None else settings.k, path=settings.path or "target")
    preset = AUTHORS_PRESETS[settings.preset]
    k, budget = preset.scaled(head.features)
    return replace(
        settings,
        k=k if settings.k is None else settings.k,
        budget=budget if settings.budget is None and settings.until is None else settings.budget,
        path=settings.path or preset.path,
        mode=settings.mode or "zero",
    )


def target_classes(target: int | Sequence[int]) -> tuple[int, ...]:
    """The classes as distinct ints; anything that counts as an integer (also of numpy or torch) will do."""
    single = hasattr(target, "__index__") and getattr(target, "ndim", 0) == 0
    given: Any = [target] if single else target
    try:
        if isinstance(given, str) or any(isinstance(value, bool) for value in given):
            raise TypeError
        values = [operator.index(value) for value in given]
    except TypeError:
        values = []
    if not values:
        raise TypeError(f"target: expected a class index or several, got {target!r}")
    if len(set(values)) != len(values):
        raise ValueError(f"target: a class is named twice in {values}")
    return tuple(values)


def check_settings(settings: Settings, has_retain: bool) -> None:
    check_choice("method", settings.method, METHODS)
    check_choice("scope", settings.scope, SCOPES)
    optional = (("preset", tuple(AUTHORS_PRESETS)), ("path", PATHS), ("score", SCORES), ("mode", MODES))
    for name, choices in optional:
        if getattr(settings, name) is not None:
            check_choice(name, getattr(settings, name), choices)
    for name, value, low in (("k", settings.k, 1), ("budget", settings.budget, 0)):
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{name}: expected a count or a fraction, got {value!r}")
        if isinstance(value, float) and not 0 < value <= 1:
            raise ValueError(f"{name}: expected a fraction in (0, 1] or an integer count, got {value}")
        if isinstance(value, int) and value < low:
            raise ValueError(f"{name}: expected at least {low}, got {value}")
    if settings.method == "channels" and isinstance(settings.k, int):
        raise ValueError(f'k: method "channels" takes a share in (0, 1] of each layer, got the count {settings.k}')
    for name, share in (("until", settings.until), ("utility_floor", settings.utility_floor)):
        if share is not None and not 0 <= share <= 1:
            raise ValueError(f"{name}: expected an accuracy in [0, 1], got {share}")
    if settings.utility_floor is not None and not has_retain:
        raise ValueError("utility_floor: needs retain_probes to measure it on")
    if settings.method == "channels" and settings.score == "contrastive" and not has_retain:
        raise ValueError('score: "contrastive" needs retain_probes')
    if settings.batch_size < 1:
        raise ValueError(f"batch_size: expected at least 1, got {settings.batch_size}")


def probe_classes(probes: Tensor, labels: Tensor | Sequence[int] | None, targets: tuple[int, ...]) -> Tensor:
    if not isinstance(probes, Tensor) or probes.dim() < 2 or len(probes) == 0:
        got = tuple(probes.shape) if isinstance(probes, Tensor) else type(probes).__name__
        raise ValueError(f"probes: expected a tensor of images [N, ...] with N >= 1, got {got}")
    if labels is None:
        if len(targets) > 1:
            raise ValueError("probe_labels: needed with several targets, to say which probe belongs to which")
        return torch.full((len(probes),), targets[0], device=probes.device)
    found = torch.as_tensor(labels, device=probes.device)
    if found.shape != (len(probes),) or found.is_floating_point():
        raise ValueError(f"probe_labels: expected {len(probes)} integers, got {tuple(found.shape)} of {found.dtype}")
    if set(found.unique().tolist()) != set(targets):
        raise ValueError(
            f"probe_labels: expected each of the targets {list(targets)}, got {sorted(found.unique().tolist())}"
        )
    return found.to(torch.int64)


def retain_images(
    model: nn.Module, retain: Tensor | tuple[Tensor, Tensor] | None, targets: tuple[int, ...], batch_size: int
) -> tuple[Tensor, Tensor] | None:
    """Images and labels of other classes; without labels, the model's own answers."""
    if retain is None:
        return None
    if isinstance(retain, Tensor):
        with torch.no_grad():
            labels = torch.cat([logits_of(model(batch)).argmax(1) for batch in retain.split(batch_size)])
        keep = ~torch.isin(labels, torch.tensor(targets, device=labels.device))
        images, labels = retain[keep], labels[keep]
    else:
        images, labels = retain
        labels = torch.as_tensor(labels, device=images.device)
    if len(images) == 0 or labels.shape != (len(images),):
        raise ValueError(
            f"retain_probes: expected images with one label each, got {len(images)} and {tuple(labels.shape)}"
        )
    if torch.isin(labels, torch.tensor(targets, device=labels.device)).any():
        raise ValueError(f"retain_probes: hold images of the classes to forget, {list(targets)}")
    return images, labels.to(torch.int64)
