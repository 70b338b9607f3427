"""Metrics of what a generator makes: distances of two sets of images by their features, and how smooth it is.

Features [N, D] are of any network that is fit to tell such images apart; figures by different networks, or of sets of
different size, are not comparable.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def frechet_distance(features: Tensor, others: Tensor) -> float:
    """Squared Fréchet distance of the normal distributions with the means and covariances of two sets of features.

    |m - n|^2 + tr(S + T - 2 (S^1/2 T S^1/2)^1/2), S and T with N - 1 in the denominator; 0 for the same two moments.
    In float64. Biased upwards where N is not much larger than D.
    Source: M. Heusel et al., arXiv 1706.08500, Eq. 6 (there with the features of Inception: FID).
    """
    one, two = _features("features", features), _features("others", others)
    if one.shape[1] != two.shape[1]:
        raise ValueError(f"others: expected {one.shape[1]} features as in the first set, got {two.shape[1]}")
    first, second = torch.cov(one.T).reshape(one.shape[1], -1), torch.cov(two.T).reshape(one.shape[1], -1)
    values, vectors = torch.linalg.eigh(first)
    root = (vectors * values.clamp_min(0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    distance = (one.mean(0) - two.mean(0)).square().sum() + first.trace() + second.trace() - 2 * shared
    return max(0.0, float(distance))


def precision_recall(real: Tensor, made: Tensor, nearest: int = 3) -> tuple[float, float]:
    """Shares of `made` that lie in the manifold of `real` (how good), and of `real` in that of `made` (how diverse).

    A point lies in the manifold of a set if it is no farther from some point of it than that one's `nearest`-th
    neighbour in the set. Takes memory for N x M distances.
    Source: T. Kynkäänniemi et al., arXiv 1904.06991, Eqs. 1 and 2.
    """
    one, two = _features("real", real), _features("made", made)
    if not 1 <= nearest < min(len(one), len(two)):
        raise ValueError(f"nearest: expected 1..{min(len(one), len(two)) - 1}, got {nearest}")
    across = torch.cdist(one, two)
    reach = [torch.cdist(points, points).kthvalue(nearest + 1).values for points in (one, two)]  # 0 is to itself
    precision = (across <= reach[0][:, None]).any(0).double().mean()
    recall = (across <= reach[1][None]).any(1).double().mean()
    return float(precision), float(recall)


def roughness(images: Callable[[Tensor], Tensor], latents: Tensor, step: float = 0.1, seed: int = 0) -> float:
    """Mean over latents [N, ...] of |G(z + d) - G(z)| / sqrt(pixels), d of length `step` in a random direction.

    images: latents -> images [N, ...]. How much neighbours differ; an edit that tears the latent space raises it.
    """
    if len(latents) == 0:
        raise ValueError("latents: expected at least one, got none")
    drawn = torch.randn(latents.shape, generator=torch.Generator().manual_seed(seed)).to(latents).flatten(1)
    away = latents + step * (drawn / drawn.norm(dim=1, keepdim=True)).view_as(latents)
    change = (images(away) - images(latents)).flatten(1).double()
    return float(change.square().mean(1).sqrt().mean())


def _features(name: str, given: Tensor) -> Tensor:
    """float64 [N, D], finite, at least two of them."""
    if not isinstance(given, Tensor) or given.dim() != 2 or len(given) < 2:
        got = f"shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
        raise ValueError(f"{name}: expected features [N, D] of at least two images, got {got}")
    found = given.detach().double()
    if not bool(found.isfinite().all()):
        raise ValueError(f"{name}: expected finite features, got NaN or infinity")
    return found
