"""Each rule in each dtype, against the same rule in float64: what the documentation of `relevance` promises."""

import copy
import statistics

import pytest
import torch
from torch import Tensor, nn

from tests.lrp.nets import VGG, ResNet, ViT, randomize
from zsu_fast.lrp import AlphaBeta, Composite, Gamma, Rule, ZPlus, relevance

TYPICAL = {torch.float32: 2e-6, torch.bfloat16: 0.06, torch.float16: 0.006}


def error(found: Tensor, exact: Tensor) -> float:
    """Euclidean, relative."""
    return ((found.double() - exact).norm() / exact.norm()).item()


def sample(kind: type, seed: int) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(seed)
    return randomize(kind()), torch.randn(4, 3, *((8, 8) if kind is ViT else (16, 16)), dtype=torch.float64)


def largest_error(kind: type, seed: int, rule: Rule, dtype: torch.dtype) -> float:
    """Of the input's relevance and of the neurons of every layer."""
    model, x = sample(kind, seed)
    rules = Composite(rule, rule)
    exact = relevance(model, x, 1, composite=rules)
    found = relevance(copy.deepcopy(model).to(dtype), x.to(dtype), 1, composite=rules)
    assert found.input.dtype == dtype
    layers = (error(found.neurons[layer], units) for layer, units in exact.neurons.items())
    return max(error(found.input, exact.input), *layers)


@pytest.mark.parametrize("dtype", TYPICAL, ids=str)
@pytest.mark.parametrize("rule", [ZPlus(), Gamma(0.25), Gamma(10.0), AlphaBeta(2.0, 1.0)], ids=str)
def test_typical_errors(rule: Rule, dtype: torch.dtype) -> None:
    """The median: where hardly anything has the sign that a rule asks for, it is ill-conditioned in every dtype."""
    errors = [largest_error(kind, seed, rule, dtype) for kind in (VGG, ResNet, ViT) for seed in range(5)]
    assert statistics.median(errors) < TYPICAL[dtype] * (2.5 if isinstance(rule, AlphaBeta) else 1)


@pytest.mark.parametrize("dtype", TYPICAL, ids=str)
@pytest.mark.parametrize("kind", [VGG, ResNet, ViT])
def test_epsilon_is_as_exact_as_the_gradient(kind: type, dtype: torch.dtype) -> None:
    def gradient_times_input(model: nn.Module, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        return (torch.autograd.grad(model(x)[:, 1].sum(), x)[0] * x).detach()

    model, x = sample(kind, 0)
    narrow = copy.deepcopy(model).to(dtype)
    plain = error(gradient_times_input(narrow, x.to(dtype)), gradient_times_input(model, x))
    assert error(relevance(narrow, x.to(dtype), 1).input, relevance(model, x, 1).input) < 1.5 * plain + 1e-6


def test_float16_does_not_lose_small_shares() -> None:
    """Gamma 10 takes shares below the smallest float16; at full size they would be lost, and most of the result."""
    errors = [largest_error(VGG, seed, Gamma(10.0), torch.float16) for seed in range(5)]
    assert max(errors) < 0.02


def test_float16_under_autocast(device: torch.device) -> None:
    model, x = sample(VGG, 0)
    expected = relevance(model, x, 1, composite="epsilon_plus", conservation=True)
    model, x = model.to(device, torch.float32), x.to(device, torch.float32)
    with torch.autocast(device.type, torch.float16):
        found = relevance(model, x, 1, composite="epsilon_plus", conservation=True)
        torch.testing.assert_close(found.logits, model(x))
    assert found.input.dtype == torch.float32
    assert error(found.input.cpu(), expected.input) < 0.02
    assert found.check(0.05).ok
    assert found.check().start == pytest.approx(expected.check().start, rel=0.02)
    for layer, balance in expected.check().layers.items():
        assert found.check().layers[layer].output == pytest.approx(balance.output, rel=0.05, abs=0.01)
