"""Concept activation vectors: the direction that tells images with a concept from images without it, and how surely.

TCAV (Kim et al., ICML 2018, arXiv 1711.11279) with a ridge classifier, of which everything held out is exact: the
prediction for an image by the classifier that is fitted without it follows from the one fit on all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGE = 0.1
"""Of the variance of a feature, added to it."""


@dataclass(frozen=True, eq=False)
class Cav:
    """vector: float32 [D], offset: `activations @ vector + offset` is above 0 with the concept.

    accuracy: share of images that the vector fitted without them gets right; chance is one half, or a little less: what
    is fitted without an image leans away from it. p_value: share of random assignments of the same images to the two
    sides that are told apart as well, by all the same steps. images: how many, half of them with the concept.
    """

    vector: Tensor
    offset: float
    accuracy: float
    p_value: float
    images: int


def fit(activations: Tensor, labels: Tensor, *, permutations: int = 999, seed: int = 0) -> Cav:
    """activations: [N, D]. labels: bool [N], with the concept; as many with as without."""
    ridge = _Ridge(activations)
    y = _signs(labels)
    right = (ridge.held_out(y) * y > 0).double().mean()
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.stack([y[torch.randperm(len(y), generator=generator)] for _ in range(permutations)], 1)
    by_chance = (ridge.held_out(drawn) * drawn > 0).double().mean(0)
    p_value = (1 + int((by_chance >= right).sum())) / (1 + permutations)
    vector, offset = ridge.direction(y)
    return Cav(vector.float(), offset, float(right), p_value, len(y))


def held_out_margins(activations: Tensor, labels: Tensor) -> Tensor:
    """[N]: above 0 for each image that a vector fitted on all the others puts on the right side; in units of labels."""
    y = _signs(labels)
    return (_Ridge(activations).held_out(y) * y).to(activations.device, torch.float32)


def ridge_direction(activations: Tensor, labels: Tensor) -> Tensor:
    """float64 [D]: the vector alone, of no particular length."""
    return _Ridge(activations).direction(_signs(labels))[0]


class _Ridge:
    """Ridge regression on standardised features, for any targets [N] or [N, P]. In float64, on the CPU."""

    def __init__(self, activations: Tensor) -> None:
        values = activations.detach().double().cpu()
        self.mean = values.mean(0)
        spread = (values - self.mean).square().mean(0).sqrt()
        self.scale = torch.where(spread > 1e-12 * spread.max().clamp_min(1e-300), spread, torch.ones(()).double())
        self.left, sizes, self.right = torch.linalg.svd((values - self.mean) / self.scale, full_matrices=False)
        self.shrunk = sizes / (sizes.square() + RIDGE * len(values))
        self.weights = sizes * self.shrunk

    def held_out(self, targets: Tensor) -> Tensor:
        """Like targets: for each row the prediction of the regression (with intercept) on all rows but that one.

        y_i - (y_i - f_i) / (1 - h_i), f = H y, H = 1/n + U diag(s^2 / (s^2 + l)) U^T (Allen's PRESS).
        """
        own = 1 / len(targets) + (self.left.square() * self.weights).sum(1)
        columns = targets.view(len(targets), -1)
        fitted = columns.mean(0) + self.left @ (self.weights[:, None] * (self.left.T @ columns))
        held_out = columns - (columns - fitted) / (1 - own).clamp_min(1e-12)[:, None]
        return held_out.view_as(targets)

    def direction(self, targets: Tensor) -> tuple[Tensor, float]:
        """Vector [D] and offset, of the regression on all rows, for activations as they are."""
        vector = (self.right.T @ (self.shrunk * (self.left.T @ targets))) / self.scale
        return vector, float(targets.mean() - vector @ self.mean)


def _signs(labels: Tensor) -> Tensor:
    return torch.where(labels.cpu().bool(), 1.0, -1.0).double()
