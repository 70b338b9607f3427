"""Vectors of concepts: what is held out against fits that really leave it out, chance as chance."""

import pytest
import torch
from torch import nn

from zsu_fast.concepts import cav
from zsu_fast.concepts.erasure import erase_, eraser, outputs_of
from zsu_fast.model.tensors import Tensors


def data(count=40, width=7, gap=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 2 == 0
    values = torch.randn(count, width, generator=generator) * torch.logspace(-2, 2, width)
    values[labels] += gap * torch.logspace(-2, 2, width)
    return values + 5, labels


@pytest.mark.parametrize("width", [3, 7, 90])  # fewer features than images, and more
def test_held_out_is_the_fit_without_the_image(width):
    values, labels = data(width=width, gap=0.3)
    found = cav.held_out_margins(values, labels)
    x = values.double()
    x = (x - x.mean(0)) / x.std(0, correction=0)
    y = torch.where(labels, 1.0, -1.0).double()
    for i in range(len(y)):
        rest = torch.arange(len(y)) != i
        design = torch.cat([x[rest], torch.ones(len(y) - 1, 1).double()], 1)
        penalty = cav.RIDGE * len(y) * torch.eye(width + 1).double()
        penalty[-1, -1] = 0  # the intercept is free
        weights = torch.linalg.solve(design.T @ design + penalty, design.T @ y[rest])
        assert found[i].item() == pytest.approx(float((x[i] @ weights[:-1] + weights[-1]) * y[i]), abs=1e-5)


def test_the_vector_is_that_of_the_fit_on_all():
    values, labels = data(gap=1.5)
    found = cav.fit(values, labels, permutations=99)
    x = values.double()
    z = (x - x.mean(0)) / x.std(0, correction=0)
    y = torch.where(labels, 1.0, -1.0).double()
    weights = torch.linalg.solve(z.T @ z + cav.RIDGE * len(y) * torch.eye(7).double(), z.T @ y) / x.std(0, correction=0)
    torch.testing.assert_close(found.vector.double(), weights, rtol=1e-5, atol=1e-7)
    assert found.offset == pytest.approx(float(-weights @ x.mean(0)), rel=1e-5)
    assert found.accuracy >= 0.9 and found.p_value == 0.01 and found.images == 40


def test_chance_is_seldom_taken_for_a_concept():
    """Of fifty concepts that are none about alpha of them have p <= alpha: 5 are expected of 0.1, 12 would be rare."""
    found = [cav.fit(*data(gap=0.0, seed=seed), permutations=99, seed=seed) for seed in range(50)]
    assert sum(one.p_value <= 0.1 for one in found) <= 11
    assert 0.35 <= sum(one.accuracy for one in found) / 50 <= 0.52


def test_features_that_say_nothing():
    found = cav.fit(torch.ones(20, 4), torch.arange(20) < 10, permutations=99)
    assert found.accuracy <= 0.5 and found.p_value > 0.5 and not found.vector.any()


# --- erasure


def test_the_eraser_by_its_definition():
    values, labels = data(gap=2.0)
    d, w, m = eraser(values, labels)
    x = values.double()
    torch.testing.assert_close(d, x[labels].mean(0) - x[~labels].mean(0))
    torch.testing.assert_close(w @ d, torch.ones(()).double())
    erased = x - (x - m) @ w[:, None] * d
    torch.testing.assert_close(erased[labels].mean(0), erased[~labels].mean(0), rtol=0, atol=1e-9)
    torch.testing.assert_close(erased[~labels].mean(0), x[~labels].mean(0))
    assert cav.fit(erased, labels, permutations=99).p_value > 0.3 > cav.fit(x, labels, permutations=99).p_value


def test_the_eraser_is_the_least_change_that_erases():
    """Without a ridge it is LEACE: no other rank-one map with the same d that erases has less mean squared change."""
    values, labels = data(count=4000, width=4, gap=0.5)
    d, w, m = eraser(values, labels)
    x = values.double() - m
    x = x - x.mean(0)
    least = (x @ w).square().mean()
    for seed in range(5):
        other = torch.randn(4, generator=torch.Generator().manual_seed(seed)).double() / d.abs()
        other = w + 0.3 * (other - w * (other @ d))  # with other @ d = 1
        assert other @ d == pytest.approx(1) and (x @ other).square().mean() > 0.98 * least


def test_two_sides_alike_are_left_alone():
    values = torch.randn(10, 3).repeat(2, 1)
    d, w, _ = eraser(values, torch.arange(20) < 10)
    assert not d.any() and not w.any()


@pytest.mark.parametrize("kind", ["linear", "conv", "conv and norm", "tokens"])
def test_erasing_folds_into_the_layer(kind):
    """Outputs afterwards are y - d w^T (y - m), at every place, and the two sides are alike in the mean."""
    torch.manual_seed(0)
    labels = torch.arange(30) < 15
    net = (
        {
            "linear": nn.Sequential(nn.Linear(5, 4)),
            "tokens": nn.Sequential(nn.Linear(5, 4)),
            "conv": nn.Sequential(nn.Conv2d(2, 4, 3, padding=1)),
            "conv and norm": nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)),
        }[kind]
        .double()
        .eval()
    )
    x = {"linear": torch.randn(30, 5), "tokens": torch.randn(30, 6, 5)}.get(kind, torch.randn(30, 2, 6, 6)).double()
    x[labels] += 0.5
    if kind == "conv and norm":
        with torch.no_grad():
            net[1].running_mean.normal_(), net[1].running_var.uniform_(0.5, 2), net[1].weight.normal_()
    before, whole = net[0](x).detach(), net(x).detach()
    outputs = outputs_of(net, net[0], x.split(7), kind.startswith("conv"))
    d, w, m = eraser(outputs, labels)
    mean = "1.running_mean" if kind == "conv and norm" else None
    erase_(Tensors(net), "0.weight", None if mean else "0.bias", mean, outputs, labels)
    dims = (1, -1) if kind.startswith("conv") else (-1, -1)
    moved = before.movedim(*dims)
    wanted = (moved - ((moved - m) @ w)[..., None] * d).movedim(-1, dims[0])
    if mean:
        norm = nn.BatchNorm2d(4).double().eval()
        norm.load_state_dict(net[1].state_dict() | {"running_mean": net[1].running_mean + d * (w @ m)})
        wanted = norm(wanted)
    torch.testing.assert_close(net(x), wanted)
    pooled = net(x).flatten(2).mean(2) if kind.startswith("conv") else net(x).reshape(30, -1, 4).mean(1)
    torch.testing.assert_close(pooled[labels].mean(0), pooled[~labels].mean(0))
    assert not torch.allclose(whole, net(x))
