"""Metrics of what a generator makes, held against values by hand and against another formula."""

import math

import numpy as np
import pytest
import torch

from zsu_fast.evaluate.generated import frechet_distance, precision_recall, roughness


def test_frechet_distance_by_hand():
    """In one dimension (m - n)^2 + (s - t)^2: means 0 and 5, deviations sqrt(2) and sqrt(8)."""
    one, two = torch.tensor([[-1.0], [1.0]]), torch.tensor([[3.0], [7.0]])
    assert frechet_distance(one, two) == pytest.approx(25 + (math.sqrt(2) - math.sqrt(8)) ** 2)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-12)
    # Diagonal covariances: the sum over the dimensions.
    square = torch.tensor([[1.0, 2], [-1, 2], [1, -2], [-1, -2]])
    expected = 1 + (math.sqrt(4 / 3) - math.sqrt(16 / 3)) ** 2 + 0 * 2
    assert frechet_distance(square, square * torch.tensor([2.0, 1]) + torch.tensor([0.0, 1])) == pytest.approx(expected)


def test_frechet_distance_by_the_root_of_the_product():
    """tr (S T)^1/2 by the eigenvalues of the product, which is not symmetric; and it is the same both ways."""
    drawn = np.random.default_rng(0)
    one, two = drawn.normal(size=(200, 5)) @ drawn.normal(size=(5, 5)), drawn.normal(size=(150, 5)) + 0.5
    s, t = np.cov(one.T), np.cov(two.T)
    root = np.sqrt(np.linalg.eigvals(s @ t).real).sum()
    expected = ((one.mean(0) - two.mean(0)) ** 2).sum() + np.trace(s) + np.trace(t) - 2 * root
    first, second = torch.from_numpy(one), torch.from_numpy(two)
    assert frechet_distance(first, second) == pytest.approx(expected)
    assert frechet_distance(second, first) == pytest.approx(expected)
    # Fewer images than features: singular covariances are no trouble.
    assert frechet_distance(first[:3], second[:4]) > 0


def test_precision_and_recall_by_hand():
    """Reach to the nearest neighbour: 1 in both sets. Of what is made 0.5 is near the real ones and 9, 10 are not."""
    real, made = torch.tensor([[0.0], [1], [2]]), torch.tensor([[0.5], [9], [10]])
    assert precision_recall(real, made, 1) == pytest.approx((1 / 3, 1.0))  # 0.5 reaches 8.5 far, all that is real
    assert precision_recall(made, real, 1) == pytest.approx((1.0, 1 / 3))
    assert precision_recall(real, real, 1) == (1.0, 1.0)
    assert precision_recall(real, real + 100, 2) == (0.0, 0.0)


def test_roughness_of_a_linear_generator():
    latents = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    assert roughness(lambda z: 3 * z, latents, step=0.2) == pytest.approx(0.6 / 2, rel=1e-5)  # |3 d| / sqrt(4)
    assert roughness(lambda z: torch.ones(len(z), 2, 3, 3), latents) == 0
    assert roughness(lambda z: 3 * z, latents.view(50, 4, 1, 1), step=0.2) == pytest.approx(0.3, rel=1e-5)


def test_what_is_refused():
    good = torch.rand(5, 2)
    for bad in (torch.rand(5), torch.rand(1, 2), torch.full((5, 2), math.nan), [1]):
        with pytest.raises(ValueError, match="^features: expected"):
            frechet_distance(bad, good)
    with pytest.raises(ValueError, match="^others: expected 2 features"):
        frechet_distance(good, torch.rand(5, 3))
    with pytest.raises(ValueError, match=r"^nearest: expected 1..4, got 5"):
        precision_recall(good, good, 5)
    with pytest.raises(ValueError, match="^latents"):
        roughness(lambda z: z, good[:0])
