"""Trained models of the data folder."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lrp.test_plan import assert_same
from zsu_fast.lrp import (
    COMPOSITES,
    Composite,
    Zero,
    compile,
    epsilon_gamma_box,
    estimate_patterns,
    pattern_attribution,
    pattern_net,
    relevance,
)

SHAPES = {
    "lenet5_mnist": (2, 1, 28, 28),
    "lenet_cifar10": (2, 3, 32, 32),
    "resnet20_cifar10": (2, 3, 32, 32),
    "resnet56_45k_cifar10": (1, 3, 32, 32),
    "vit_mnist": (2, 1, 28, 28),
    "vit_p8_45k_cifar10": (2, 3, 32, 32),
    "deit_tiny_imagenet": (1, 3, 224, 224),
    "efficientnet_lite0_imagenet": (1, 3, 64, 64),
}


def load(data_dir: Path, name: str) -> nn.Module:
    sys.path.insert(0, str(data_dir))
    try:
        from models import load
    finally:
        sys.path.remove(str(data_dir))
    return load(name)[0]


def check(model: nn.Module, x: Tensor, composite: Composite | str) -> None:
    with torch.no_grad():
        logits = model(x)
    found = relevance(model, x, composite=composite, conservation=True)
    torch.testing.assert_close(found.logits, logits)
    assert found.check().ok, found.check()
    assert torch.isfinite(found.input).all()
    assert all(torch.isfinite(n).all() for n in found.neurons.values())
    last = list(found.neurons.values())[-1]
    torch.testing.assert_close(last.sum(1), logits.amax(1), rtol=1e-4, atol=1e-5)


@pytest.mark.data
@pytest.mark.parametrize("name", SHAPES)
def test_trained_models(data_dir: Path, name: str) -> None:
    model, x = load(data_dir, name), torch.randn(SHAPES[name])
    for composite in ("epsilon", "epsilon_plus_flat", epsilon_gamma_box(-3, 3)):
        check(model, x, composite)
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    found = relevance(model, x)
    assert {n for n in found.neurons if not n.endswith(".heads")} == layers
    if "vit" not in name and "deit" not in name:
        exact = model.double()
        y = x.double().requires_grad_()
        (gradient,) = torch.autograd.grad(exact(y).amax(1).sum(), y)
        zero = relevance(exact, x.double(), composite=Composite(Zero(), Zero()))
        if name == "efficientnet_lite0_imagenet":  # above 6 the gradient of ReLU6 is 0, its relevance passes
            assert F.cosine_similarity(zero.input.flatten(), (gradient * y).detach().flatten(), 0) > 0.5
        else:
            torch.testing.assert_close(zero.input, (gradient * y).detach())


@pytest.mark.data
@pytest.mark.parametrize("name, composite", [
    ("lenet5_mnist", "epsilon_plus_flat"), ("resnet20_cifar10", "epsilon_plus_flat"), ("vit_mnist", "epsilon"),
])  # fmt: skip
def test_plans(data_dir: Path, name: str, composite: str) -> None:
    model, x = load(data_dir, name), torch.randn(SHAPES[name])
    plan = compile(model, x, composite=composite)
    with torch.no_grad():
        next(model.parameters())[0] = 0
    assert_same(plan(x.flip(0), 3), relevance(model, x.flip(0), 3, composite=composite))


@pytest.mark.data
@pytest.mark.parametrize("rule", [pattern_attribution, pattern_net])
def test_patterns_find_the_strokes_of_digits(data_dir: Path, rule) -> None:
    """Without the tenth of the pixels that they name, the logit is gone; without a random tenth, it stays."""
    model = load(data_dir, "lenet5_mnist")
    with np.load(data_dir / "mnist.npz") as archive:
        images = torch.from_numpy(archive["x_test"][:864]).float().view(-1, 1, 28, 28) / 255
        labels = torch.from_numpy(archive["y_test"][800:864]).long()
    patterns, digits = estimate_patterns(model, images[:800].split(200)), images[800:]
    found = relevance(model, digits, labels, composite=rule(patterns)).input
    found = found * digits if rule is pattern_net else found
    logits = []
    for score in (torch.zeros_like(found), found, torch.rand_like(found)):
        named = score.flatten(1).argsort(1, descending=True)[:, : 28 * 28 // 10]
        masked = digits.flatten(1).scatter(1, named, 0.0) if score.any() else digits
        logits.append(model(masked.view_as(digits)).gather(1, labels[:, None]).mean().item())
    plain, without_named, without_random = logits
    assert without_named < 0.25 * plain
    assert without_random > 0.7 * plain


@pytest.mark.data
@pytest.mark.parametrize("name", ["resnet20_cifar10", "vit_mnist"])
@pytest.mark.parametrize("composite", [name for name in COMPOSITES if not name.endswith("_box")])
def test_float32_is_close_to_float64(data_dir: Path, name: str, composite: str) -> None:
    model, x = load(data_dir, name), torch.randn(SHAPES[name])
    single = relevance(model, x, 3, composite=composite)
    double = relevance(model.double(), x.double(), 3, composite=composite)
    assert F.cosine_similarity(single.input.double().flatten(), double.input.flatten(), 0) > 0.9999
    for layer, units in double.neurons.items():
        torch.testing.assert_close(
            single.neurons[layer].double(), units, rtol=1e-2, atol=2e-3 * units.abs().max().item()
        )
