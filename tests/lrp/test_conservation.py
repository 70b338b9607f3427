"""The books of relevance: laws that they must obey, and formulas written out by hand for what a layer keeps."""

import gc
import json
import math
import pickle
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lrp.nets import VGG, ReluNet, ResNet, ViT, randomize
from zsu_fast.lrp import (
    AlphaBeta,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    Rule,
    ZBox,
    Zero,
    ZPlus,
    epsilon_gamma_box,
    relevance,
)

ZERO = Composite(Zero(), Zero())
NAMED = ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "attnlrp", "cp_lrp"]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, dtype=torch.float64)


def close(a: float, b: float, tolerance: float = 1e-10) -> bool:
    return math.isclose(a, b, rel_tol=tolerance, abs_tol=tolerance)


def test_lrp_zero_without_biases_loses_nothing() -> None:
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    found = relevance(randomize(ReluNet(bias=False)), x, 2, composite=ZERO, conservation=True)
    books = found.check()
    assert list(books.layers) == ["conv1", "conv2", "fc1", "fc2"]
    for layer in books.layers.values():
        assert close(layer.input, layer.output)
        assert layer.bias == layer.stabiliser == layer.unplaced == 0
    logit = found.logits[:, 2].sum().item()
    assert close(books.start, logit)
    assert close(books.input, logit)
    assert close(found.input.sum().item(), logit)
    assert books.elsewhere == ()
    assert books.ok


def test_lrp_zero_gives_biases_their_gradient_times_value() -> None:
    """A ReLU net is linear in (x, biases) as long as no unit flips: logit = gradient x + sum of gradient b."""
    model = randomize(ReluNet(bias=True))
    x = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    found = relevance(model, x, 1, composite=ZERO, conservation=True)
    biases = {name.removesuffix(".bias"): b for name, b in model.named_parameters() if name.endswith("bias")}
    gradients = torch.autograd.grad(model(x)[:, 1].sum(), list(biases.values()))
    for (name, bias), gradient in zip(biases.items(), gradients, strict=True):
        assert close(found.check().layers[name].bias, (gradient * bias).sum().item())
    assert close(found.check().start - found.check().input, found.check().totals["bias"])


def shares(rule: Rule, contributions: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
    """What one unit's input, bias and stabiliser get of its y > 0, from contributions [N, inputs] written out, and what
    finds nothing to go to."""
    y = contributions.sum(1) + bias

    def divide(c: Tensor, b: Tensor, epsilon: float) -> tuple[Tensor, ...]:
        z = c.sum(1) + b
        share = torch.where(z == 0, 0.0, y / (z + epsilon * z.sign()))
        return share * c.sum(1), share * b, share * epsilon * z.sign(), torch.where(z == 0, y, 0.0)

    match rule:
        case Epsilon(epsilon):
            return divide(contributions, bias, epsilon)
        case ZPlus(epsilon):
            return divide(contributions.clamp(min=0), bias.clamp(min=0), epsilon)
        case Gamma(gamma, epsilon):
            return divide(contributions + gamma * contributions.clamp(min=0), bias + gamma * bias.clamp(min=0), epsilon)
        case AlphaBeta(alpha, beta, epsilon):
            positive = divide(contributions.clamp(min=0), bias.clamp(min=0), epsilon)
            negative = divide(contributions.clamp(max=0), bias.clamp(max=0), epsilon)
            return tuple(alpha * p - beta * n for p, n in zip(positive, negative, strict=True))
    raise NotImplementedError(rule)


@pytest.mark.parametrize("nonnegative", [True, False], ids=["input >= 0", "signed input"])
@pytest.mark.parametrize("bias", [0.7, -0.2])
@pytest.mark.parametrize("rule", [Epsilon(0.3), ZPlus(0.1), Gamma(0.4, 0.2), AlphaBeta(2, 1, 0.05)], ids=str)
def test_shares_of_a_layer_are_those_of_the_formula(rule: Rule, bias: float, nonnegative: bool) -> None:
    layer = nn.Linear(6, 4).double()
    nn.init.constant_(layer.bias, bias)
    x = torch.randn(40, 6, dtype=torch.float64)

    def model(x: Tensor) -> Tensor:
        return F.relu(layer(F.relu(x) if nonnegative else x))

    found = relevance(model, x, 1, composite=Composite(rule), conservation=True)
    x = x.clamp(min=0) if nonnegative else x
    x = x[found.logits[:, 1] > 0]
    assert len(x) > 10
    input, of_bias, stabiliser, unplaced = shares(rule, x * layer.weight[1].detach(), layer.bias[1].detach())
    (balance,) = found.check().layers.values()
    assert close(balance.output, found.logits[:, 1].sum().item())
    assert close(balance.input, input.sum().item())
    assert close(balance.bias, of_bias.sum().item())
    assert close(balance.stabiliser, stabiliser.sum().item())
    assert close(balance.unplaced, unplaced.sum().item())
    assert close(balance.rest, 0)


def test_alpha_beta_without_negative_contributions_says_what_found_no_place() -> None:
    layer = nn.Linear(4, 2, bias=False).double()
    nn.init.uniform_(layer.weight, 0.1, 1)
    x = torch.rand(3, 4, dtype=torch.float64)
    found = relevance(layer, x, 0, composite=Composite(AlphaBeta(2, 1, 0.0)), conservation=True)
    (balance,) = found.check().layers.values()
    assert close(balance.unplaced, -balance.output)
    assert close(balance.input, 2 * balance.output)
    assert close(balance.rest, 0)


@pytest.mark.parametrize("name", [*NAMED, "gamma", "box"])
@pytest.mark.parametrize("kind", [VGG, ResNet])
def test_books_of_relu_networks_balance(kind: type, name: str, images: Tensor) -> None:
    """With biases, folded BatchNorm, residual sums, pooling: layers explain all there is."""
    model = randomize(kind())
    rules = {"gamma": Composite(Gamma(0.1), Gamma(0.5)), "box": epsilon_gamma_box(-5, 5)}.get(name, name)
    found = relevance(model, images, 1, composite=rules, conservation=True)
    books = found.check()
    assert list(books.layers) == list(found.neurons)
    assert books.elsewhere == ()
    for layer, balance in books.layers.items():
        assert close(balance.output, found.neurons[layer].sum().item())
        assert balance.error < (1e-6 if name == "box" and balance.bias == 0 else 1e-14)
    assert close(books.input, found.input.sum().item())
    assert close(books.start, found.logits[:, 1].sum().item())
    assert abs(books.totals["unaccounted"]) < 1e-12
    kept = sum(books.totals.values())
    assert close(books.start, books.input + kept)
    assert books.ok


def test_constants_outside_of_layers_are_named() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    books = relevance(randomize(ViT()), x, 1, composite="cp_lrp", conservation=True).check()
    norms = [f"blocks.{i}.norm{j}" for i in (0, 1) for j in (1, 2)]
    assert [(loss.function, loss.module) for loss in books.elsewhere] == [
        ("cat of token", ""),
        ("add of position", ""),
        *(("layer_norm", norm) for norm in norms),
        ("layer_norm", "norm"),
    ]
    assert {loss.reason for loss in books.elsewhere} == {"constant"}
    assert abs(books.totals["unaccounted"]) < 1e-12
    assert books.ok


def test_a_position_keeps_its_gradient_times_value() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position, self.norm = nn.Parameter(torch.randn(6)), nn.LayerNorm(6)
            self.hidden, self.head = nn.Linear(6, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor, sigma: Tensor | None = None) -> Tensor:
            x = x + self.position
            if sigma is None:
                x = self.norm(x)
            else:
                x = (x - x.mean(1, keepdim=True)) / sigma * self.norm.weight + self.norm.bias
            return self.head(F.relu(self.hidden(x)))

    model = randomize(Model())
    x = torch.randn(4, 6, dtype=torch.float64)
    books = relevance(model, x, 2, composite=ZERO, conservation=True).check()
    sigma = ((x + model.position).var(1, correction=0, keepdim=True) + model.norm.eps).sqrt().detach()
    constants = (model.position, model.norm.bias)
    gradients = torch.autograd.grad(model(x, sigma)[:, 2].sum(), constants)
    expected = [(g * c).sum().item() for g, c in zip(gradients, constants, strict=True)]
    assert [loss.function for loss in books.elsewhere] == ["add of position", "layer_norm"]
    for loss, value in zip(books.elsewhere, expected, strict=True):
        assert close(loss.absorbed, value)


def test_softmax_is_linearised() -> None:
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    for fused in (True, False):
        books = relevance(randomize(ViT(fused=fused)), x, 1, composite="attnlrp", conservation=True).check()
        name = "scaled_dot_product_attention" if fused else "softmax"
        lossy = [loss for loss in books.elsewhere if loss.reason == "linearised"]
        assert [(loss.function, loss.module) for loss in lossy] == [(name, f"blocks.{i}.attn") for i in (0, 1)]
        assert abs(books.totals["unaccounted"]) < 1e-12


class Gated(nn.Module):
    """Squeeze and excitation, a GELU, in-place assignment, a shared layer, nn.MultiheadAttention."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.gate, self.shared = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 6, 1)
        self.attention, self.head = nn.MultiheadAttention(6, 2, batch_first=True), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.conv(x))
        x = x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()
        x = F.silu(self.shared(F.relu(self.shared(x))))
        x[:, 1] += x[:, 2]
        x[:, 3] = 0
        tokens = F.avg_pool2d(x, 3).flatten(2).transpose(1, 2)
        y, _ = self.attention(tokens, tokens, tokens)
        return self.head((tokens + y).amax(1))


@pytest.mark.parametrize("name", ["epsilon", "epsilon_plus", "cp_lrp"])
def test_books_balance_whatever_the_model_is_made_of(name: str, images: Tensor) -> None:
    books = relevance(randomize(Gated()), images, 1, composite=name, conservation=True).check()
    layers = ["conv", "shared", "attention.in_proj_weight", "attention.out_proj", "head"]
    assert list(books.layers) == layers  # none goes through the gate
    assert abs(books.totals["unaccounted"]) < 1e-12
    assert all(layer.error < 1e-14 for layer in books.layers.values())
    assert books.totals["constant"] == 0


@pytest.mark.parametrize("rule", [Flat(), ZBox(-5, 5, 0.0), Pass()], ids=str)
def test_books_balance_with_input_rules_in_the_middle(rule: Rule, images: Tensor) -> None:
    """R itself is carried from there on; where the activation is zero it is dropped, and that is said."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(196, 3)
    )
    rules = Composite(Epsilon(), ZPlus(), names={"3": rule})
    books = relevance(model.double().eval(), images, 1, composite=rules, conservation=True).check()
    assert books.layers["3"].error < 1e-13
    assert close(books.layers["3"].input, books.layers["3"].output)
    assert abs(books.totals["unaccounted"]) < 1e-12
    assert books.ok


def test_every_target_has_books_of_its_own(images: Tensor) -> None:
    model = randomize(ResNet())
    together = relevance(model, images, [0, None, 3], composite="epsilon_plus", conservation=True)
    for target, found in zip([0, None, 3], together, strict=True):
        alone = relevance(model, images, target, composite="epsilon_plus", conservation=True)
        assert found.check().to_dict() == alone.check().to_dict()
    assert together[0].check().start != together[2].check().start


def test_what_has_no_rule_is_not_ok() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LogSigmoid(), nn.Linear(4, 3)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    with pytest.warns(UserWarning, match="log_sigmoid"):
        books = relevance(model, x, 0, strict=False, conservation=True).check()
    assert [(loss.function, loss.module, loss.reason) for loss in books.elsewhere] == [
        ("log_sigmoid", "1", "uncovered")
    ]
    assert not books.ok
    assert "do not balance" in str(books)


def test_not_a_number_is_not_ok() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    nn.init.constant_(model[0].bias, torch.nan)
    books = relevance(model, torch.randn(3, 4), 0, conservation=True).check()
    assert not books.ok


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("kind", [VGG, ViT])
def test_the_tolerance_is_that_of_the_dtype(kind: type, name: str, dtype: torch.dtype) -> None:
    x = torch.randn(3, 3, *((8, 8) if kind is ViT else (16, 16)))
    model = randomize(kind())
    books = relevance(model.to(dtype), x.to(dtype), 1, composite=name, conservation=True).check()
    assert books.tolerance == (1e-3 if dtype == torch.float32 else 0.05)
    assert books.ok, books


def test_asking_changes_nothing(images: Tensor) -> None:
    model = randomize(ResNet())
    for name in NAMED:
        plain = relevance(model, images, 1, composite=name)
        asked = relevance(model, images, 1, composite=name, conservation=True)
        assert torch.equal(plain.input, asked.input)
        assert all(torch.equal(units, plain.neurons[layer]) for layer, units in asked.neurons.items())
        assert plain.conservation is None
        with pytest.raises(ValueError, match="conservation=True"):
            plain.check()


def test_as_text_and_as_data(images: Tensor) -> None:
    found = relevance(randomize(VGG()), images, 1, conservation=True)
    books = found.check(tolerance=1e-18)
    assert not books.ok
    assert books.worst in books.layers
    assert found.check(tolerance=0.1).ok
    for tolerance in (-1, math.nan):
        with pytest.raises(ValueError, match="tolerance must be a number >= 0"):
            found.check(tolerance=tolerance)
    lines = str(found.check()).splitlines()
    assert lines[0].split() == ["layer", "output", "input", "bias", "stabiliser", "unplaced", "rest"]
    assert [line.split()[0] for line in lines[1:6]] == list(books.layers)
    assert lines[-1] == "accounts balance (tolerance 1e-06)"
    data = json.loads(json.dumps(books.to_dict()))
    assert data["layers"]["features.0"]["bias"] == books.layers["features.0"].bias
    assert data["totals"].keys() == books.totals.keys()
    again = pickle.loads(pickle.dumps(found))
    assert again.check() == found.check()


def test_nothing_is_kept(images: Tensor) -> None:
    model = randomize(ResNet())
    kept: list[weakref.ref] = []
    handle = model.blocks[1].register_forward_hook(lambda module, inputs, output: kept.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        found = relevance(model, images, [0, 1], composite="epsilon_plus_flat", conservation=True)
        assert len(kept) == 1
        assert kept[0]() is None
        assert found[1].check().ok
    finally:
        gc.enable()
        handle.remove()
