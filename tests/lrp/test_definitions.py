"""Every rule on every kind of layer, in float64, against its definition in matrix form."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lrp.definitions import Matrix, by_definition, connections, lrp_zero
from tests.lrp.nets import randomize
from zsu_fast.lrp import AlphaBeta, Composite, Epsilon, Flat, Gamma, Pass, Rule, WSquare, ZBox, Zero, ZPlus, relevance

RULES = [
    Zero(),
    Epsilon(0.3),
    Gamma(0.4),
    Gamma(0.1, epsilon=0.5),
    ZPlus(),
    AlphaBeta(2, 1),
    AlphaBeta(1, 0, epsilon=0.1),
    Flat(),
    WSquare(),
    WSquare(bias=True),
    ZBox(-3.0, 4.0),
    ZBox((-3.0, -2.5, -4.0, -3.5), (4.0, 3.0, 2.5, 5.0)),
]


def layers(bias: bool) -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """Layer and shape of its input, by label; the inputs have 4 channels."""
    b = {"bias": bias}
    return {
        "linear": (nn.Linear(4, 5, **b), (4,)),
        "linear, tokens": (nn.Linear(4, 5, **b), (3, 4)),
        "linear, BatchNorm": (nn.Sequential(nn.Linear(4, 5, **b), nn.BatchNorm1d(5)), (4,)),
        "conv1d": (nn.Conv1d(4, 3, 3, stride=2, padding=1, **b), (4, 7)),
        "conv2d": (nn.Conv2d(4, 3, 3, padding=1, **b), (4, 5, 4)),
        "conv2d, strided, dilated": (nn.Conv2d(4, 3, (2, 3), (1, 2), (0, 2), (2, 1), **b), (4, 5, 5)),
        "conv2d, grouped": (nn.Conv2d(4, 6, 3, padding=1, groups=2, **b), (4, 4, 4)),
        "conv2d, depthwise": (nn.Conv2d(4, 8, 3, groups=4, **b), (4, 5, 5)),
        "conv2d, even kernel, same": (nn.Conv2d(4, 3, (2, 4), padding="same", **b), (4, 4, 5)),
        "conv2d, BatchNorm": (nn.Sequential(nn.Conv2d(4, 5, 3, padding=1, **b), nn.BatchNorm2d(5)), (4, 4, 4)),
        "conv3d": (nn.Conv3d(4, 2, 2, padding=1, **b), (4, 2, 3, 2)),
        "conv_transpose1d": (nn.ConvTranspose1d(4, 3, 3, stride=2, padding=1, **b), (4, 4)),
        "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2, **b), (4, 3, 3)),
        "conv_transpose2d, BatchNorm": (
            nn.Sequential(nn.ConvTranspose2d(4, 6, 3, groups=2, **b), nn.BatchNorm2d(6)),
            (4, 3, 3),
        ),
        "conv_transpose3d": (nn.ConvTranspose3d(4, 2, 2, **b), (4, 2, 2, 2)),
    }  # fmt: skip


def propagated(rule: Rule, layer: nn.Module, x: Tensor, c: Tensor, nonnegative: bool) -> Tensor:
    """Relevance of x where the relevance of the layer's output y is c y."""

    def model(t: Tensor) -> Tensor:
        y = layer(F.relu(t) if nonnegative else t)
        return (y * c).flatten(1).sum(1, keepdim=True)

    return relevance(model, x, 0, composite=Composite(rule, rule)).input


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("nonnegative", [False, True], ids=["signed", "nonnegative"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("kind", layers(True))
def test_by_definition(kind: str, bias: bool, nonnegative: bool) -> None:
    """With relevance of both signs at the output, and inputs that are exactly zero."""
    layer, shape = layers(bias)[kind]
    layer = randomize(layer)
    x = torch.randn(2, *shape, dtype=torch.float64).clamp(-2.5, 2.5)
    x = x.relu() if nonnegative else torch.where(torch.rand_like(x) < 0.1, 0.0, x)
    y = layer(x).detach()
    c, matrix = torch.randn_like(y), Matrix.of(layer, x)
    for rule in RULES:
        expected = by_definition(rule, matrix, x, c * y)
        found = propagated(rule, layer, x, c, nonnegative)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9, msg=lambda m, r=rule: f"{r!r}: {m}")
        if isinstance(rule, Flat | WSquare) and not getattr(rule, "bias", False):
            torch.testing.assert_close(found.flatten(1).sum(1), (c * y).flatten(1).sum(1))


def test_pass_by_definition() -> None:
    layer, x = nn.Linear(4, 4).double(), torch.randn(2, 4, dtype=torch.float64)
    c = torch.randn(2, 4, dtype=torch.float64)
    expected = by_definition(Pass(), Matrix.of(layer, x), x, c * layer(x).detach())
    torch.testing.assert_close(propagated(Pass(), layer, x, c, False), expected)


def test_connections_count_no_padding() -> None:
    connected = connections(nn.Conv2d(1, 1, 3, padding=1).double(), torch.zeros(1, 3, 3, dtype=torch.float64))
    assert connected.sum(1).tolist() == [4, 6, 4, 6, 9, 6, 4, 6, 4]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.avg_pool2d(x, 2),
        lambda x: F.avg_pool2d(x, 3, 2, 1),
        lambda x: F.adaptive_avg_pool2d(x, 3),
        lambda x: x.mean((2, 3)),
        lambda x: x.sum(1),
        lambda x: x[:, :2] + x[:, 2:],
        lambda x: x[:, :2] - 2 * x[:, 2:],
        lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    ],
)
def test_the_norm_rule_of_functions_without_parameters(function) -> None:
    """Average pooling, sums, residual connections: LRP-0 of the linear map that they are."""
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    y = function(x)
    c = torch.randn_like(y)
    found = relevance(lambda t: (function(t) * c).flatten(1).sum(1, keepdim=True), x, 0).input
    for n in range(2):
        w = torch.func.jacrev(lambda t: function(t.view(1, 4, 5, 5)).flatten())(x[n].flatten())
        expected = lrp_zero(x[n].flatten(), w, torch.zeros(len(w), dtype=torch.float64), (c * y)[n].flatten())
        torch.testing.assert_close(found[n].flatten(), expected)
