"""Rules that give relevance to inputs of zero: their definitions, and R carried on below them, wherever they stand."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lrp.nets import VGG, ResNet, ViT, randomize
from zsu_fast.lrp import Composite, Epsilon, Flat, Gamma, InputRule, Pass, Rule, WSquare, ZBox, Zero, ZPlus, relevance


@pytest.mark.parametrize("rule", [Flat(), WSquare(), WSquare(bias=True), ZBox(0.0, 3.0)], ids=repr)
def test_by_hand_between_layers(rule: InputRule) -> None:
    """conv - ReLU - max pool - linear(rule): R reaches units that do not fire, and the layer below takes it."""
    conv, linear = nn.Conv2d(2, 3, 3).double(), nn.Linear(12, 2).double()
    x = torch.randn(2, 2, 6, 6, dtype=torch.float64)

    def model(t: Tensor) -> Tensor:
        return linear(F.max_pool2d(F.relu(conv(t)), 2).flatten(1))

    found = relevance(model, x, 1, composite=Composite(linear=rule, convolution=Epsilon(0.1)))

    y, weight, bias = conv(x), linear.weight[1], linear.bias[1]
    pooled, winner = F.max_pool2d(F.relu(y), 2, return_indices=True)
    a = pooled.flatten(1)
    match rule:
        case Flat():
            parts, z = torch.ones_like(a), torch.tensor(12.0)
        case WSquare():
            parts = (weight**2).expand_as(a)
            z = parts[0].sum() + (bias**2 if rule.bias else 0)
        case _:
            parts = a * weight - 3.0 * weight.clamp(max=0)
            z = parts.sum(1, keepdim=True) + 1e-6
    taken = (parts / z * found.logits[:, 1:]).view_as(pooled)
    r = torch.zeros(2, 3, 16, dtype=torch.float64).scatter_add(2, winner.flatten(2), taken.flatten(2)).view_as(y)
    expected = x * F.conv_transpose2d(r / (y + torch.where(y >= 0, 0.1, -0.1)), conv.weight)
    assert (y.detach()[r.detach() != 0] < 0).any()
    torch.testing.assert_close(found.neurons["convolution"], r.sum((2, 3)).detach())
    torch.testing.assert_close(found.input, expected.detach())


@pytest.mark.parametrize("below", [Zero(), ZPlus(), Gamma(0.3), Flat(), WSquare()], ids=repr)
@pytest.mark.parametrize("rule", [Flat(), WSquare(), Pass()], ids=repr)
def test_conserves_anywhere(rule: InputRule, below: Rule) -> None:
    """Units that do not fire pass R on as well: all of it arrives, through pooling, residual sums, shared modules."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.same = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 4, 1, bias=False)
            self.head = nn.Linear(4 * 4, 3, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            x = F.max_pool2d(F.relu(self.stem(x)), 2)
            x = F.relu(x + self.same(F.relu(self.same(x))))
            return self.head(F.avg_pool2d(x, 2).flatten(1))

    model = Net().double()
    x = torch.rand(2, 3, 10, 10, dtype=torch.float64) + 0.1
    found = relevance(model, x, 1, composite=Composite(linear=Zero(), convolution=below, names={"same": rule}))
    torch.testing.assert_close(found.input.sum((1, 2, 3)), found.logits[:, 1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", [VGG, ResNet, ViT])
def test_every_layer_of_a_network(kind: type[nn.Module]) -> None:
    """Through BatchNorm, LayerNorm, attention and GELU too, where R goes on in proportion to the values."""
    x = torch.randn(2, 3, *((8, 8) if kind is ViT else (16, 16)), dtype=torch.float64)
    for rule in (Flat(), WSquare()):
        assert torch.isfinite(relevance(randomize(kind()), x, 1, composite=Composite(rule, rule)).input).all()


def test_the_lowest_layers_flat() -> None:
    """As in presets that are flat up to some depth: below the topmost flat layer every input gets relevance."""
    model = randomize(VGG(bias=False))
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    x[:, :, :4] = 0
    found = relevance(model, x, 1, composite=Composite(Epsilon(), ZPlus(), depth=((0.5, Flat()),)))
    assert (found.input[:, :, :4] != 0).any()
    torch.testing.assert_close(found.input.sum((1, 2, 3)), found.neurons["features.0"].sum(1))
    torch.testing.assert_close(found.neurons["features.0"].sum(1), found.neurons["features.3"].sum(1))


@pytest.mark.parametrize("kind", [VGG, ResNet])
def test_several_targets_and_half_precision(kind: type[nn.Module]) -> None:
    model, x = randomize(kind()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    composite = Composite(Flat(), WSquare(), last=Gamma())
    both = relevance(model, x, [0, 3], composite=composite)
    for found, target in zip(both, (0, 3), strict=True):
        expected = relevance(model, x, target, composite=composite)
        torch.testing.assert_close(found.input, expected.input)
        for name, units in expected.neurons.items():
            torch.testing.assert_close(found.neurons[name], units)
    single = relevance(model.float(), x.float(), 0, composite=composite)
    scale = both[0].input.abs().max()
    torch.testing.assert_close(single.input.double() / scale, both[0].input / scale, rtol=0, atol=2e-3)
    for dtype in (torch.bfloat16, torch.float16):
        half = relevance(copy.deepcopy(model).to(dtype), x.to(dtype), 0, composite=composite)
        assert half.input.dtype == dtype
        assert torch.isfinite(half.input).all()


def test_books_balance() -> None:
    """Between layers R is carried, and what is dropped where values are zero is in the books."""
    model, x = randomize(VGG()), torch.randn(2, 3, 16, 16, dtype=torch.float64)
    for rule in (Flat(), WSquare()):
        found = relevance(model, x, 1, composite=Composite(rule, rule, last=Epsilon()), conservation=True)
        assert found.check().ok, str(found.check())
        torch.testing.assert_close(found.input.sum((1, 2, 3)), found.neurons["features.0"].sum(1))
