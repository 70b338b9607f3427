"""DAMP: in front of every layer, what only the class has is projected out of what the layer reads."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.unlearn.methods.base import FORGET, RETAIN, Given
from zsu_fast.unlearn.methods.baselines.baseline import Baseline, retained
from zsu_fast.unlearn.methods.baselines.layer_inputs import Layer, features, layers_of, watch_inputs
from zsu_fast.unlearn.options import Options, option

SMALL = 1e-3
"""A residual of this share of its prototype is rounding: the retain prototypes span the layer's whole input."""


@dataclass(frozen=True)
class DampOptions(Options):
    relative_to: str = option(
        "What is taken from a prototype: the retain prototypes' mean, or its projection on their span.",
        "mean",
        choices=("mean", "span"),
    )


class Damp(Baseline):
    """W becomes W - s (W U) U^T in every linear layer and 2-d convolution (there on its input channels). No training.

    U is an orthonormal basis of the residuals of the forget classes' prototypes (mean inputs of the layer) relative to
    the retain classes'. s in [0, 1] is how well the class stands apart in the layer's input: the share of its images
    that lie nearer to their prototype than to any other, between chance (0) and all (1); so little is edited in early
    layers and much in deep ones.

    Needs both, retain images of all classes. BatchNorm statistics stay. Source: Hatami, Aalishah and Monosov, "Class
    unlearning via depth-aware removal of forget-specific directions" (arXiv 2604.15166), after its abstract: what
    "residual" and "probe separability" are in numbers is our reading.
    """

    name: ClassVar[str] = "damp"
    options: ClassVar[type[DampOptions]] = DampOptions
    needs: ClassVar[frozenset[str]] = frozenset({FORGET, RETAIN})

    asked: DampOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        retain_images, retain_labels = retained(given)
        own = self._features(student, images)
        others = self._features(student, retain_images)
        for name, layer in layers_of(student).items():
            if name not in own or own[name].shape[1] != layer.weight.shape[1]:
                continue
            forget, retain = prototypes(own[name], labels), prototypes(others[name], retain_labels)
            directions = residual_basis(forget, retain, self.asked.relative_to)
            strength = separability(own[name], labels, forget, retain)
            with torch.no_grad():
                removed = torch.einsum("oi...,ij->oj...", layer.weight, (directions @ directions.T).to(layer.weight))
                layer.weight -= strength * removed

    def _features(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """Layer -> its inputs [N, D] in double precision; of layers that see each image once, and whole."""
        found: dict[str, list[Tensor]] = defaultdict(list)

        def take(name: str, layer: Layer, given: Tensor) -> None:
            found[name].append(features(layer, given).cpu().double())

        watch_inputs(model, self.asked.batches(images), take)
        return {name: torch.cat(parts) for name, parts in found.items() if sum(map(len, parts)) == len(images)}


def prototypes(inputs: Tensor, labels: Tensor) -> Tensor:
    """[classes, D]: the mean of each class that occurs, in the order of their numbers."""
    return torch.stack([inputs[(labels == c).to(inputs.device)].mean(0) for c in labels.unique()])


def residual_basis(forget: Tensor, retain: Tensor, relative_to: str) -> Tensor:
    """[D, k], orthonormal, of what is left of the forget prototypes [f, D] without the mean or the span of [r, D]."""
    taken = retain.mean(0) if relative_to == "mean" else forget @ (basis := row_space(retain)) @ basis.T
    residual = forget - taken
    return row_space(residual[residual.norm(dim=1) > SMALL * forget.norm(dim=1)])


def row_space(rows: Tensor) -> Tensor:
    """[D, k], orthonormal: what the rows [n, D] span."""
    _, sizes, directions = torch.linalg.svd(rows, full_matrices=False)
    return directions[sizes > SMALL * sizes.amax(0)].T if len(rows) else rows.T


def separability(inputs: Tensor, labels: Tensor, forget: Tensor, retain: Tensor) -> float:
    """Of images of the forget classes, how many lie nearest to their prototype: 0 as by chance, 1 all."""
    _, own = labels.unique(return_inverse=True)  # prototypes are in this order
    nearest = torch.cdist(inputs, torch.cat([forget, retain])).argmin(1)
    accuracy = (nearest == own.to(nearest.device)).double().mean().item()
    chance = 1 / (len(forget) + len(retain))
    return max(0.0, (accuracy - chance) / (1 - chance))
