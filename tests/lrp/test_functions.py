"""Functions that are met more rarely, each against its rule written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsu_fast.lrp import Composite, Gamma, UncoveredFunctionError, Zero, ZPlus, relevance

ZERO = Composite(Zero(), Zero())


def gradient_times_input(model, x: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    return gradient * x


def images(channels: int = 4) -> Tensor:
    return torch.randn(2, channels, 6, 6, dtype=torch.float64)


def check(model, by_hand, x: Tensor) -> None:
    found = relevance(model, x, 1, composite=ZERO)
    torch.testing.assert_close(found.logits, model(x))
    torch.testing.assert_close(found.input, gradient_times_input(by_hand, x))


def test_local_response_norm_divides_by_a_constant() -> None:
    x = images()
    for size in (1, 2, 3):
        divisor = x / F.local_response_norm(x, size, 0.5)
        check(
            lambda t, n=size: F.local_response_norm(t, n, 0.5).sum((2, 3)), lambda t, d=divisor: (t / d).sum((2, 3)), x
        )


def test_softplus_is_linearised() -> None:
    x = images()
    check(lambda t: F.softplus(t).mean((2, 3)), lambda t: (t * x.sigmoid()).mean((2, 3)), x)


def test_what_is_seen_takes_all_from_where_to_look() -> None:
    """A spatial transformer: the grid depends on the image too."""
    x = images()
    theta = torch.tensor([[0.8, 0.1, 0.05], [-0.1, 0.9, 0.1]], dtype=torch.float64).expand(2, 2, 3)

    def look(t: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(t, grid, align_corners=False).mean((2, 3))

    def grid(t: Tensor) -> Tensor:
        return F.affine_grid(theta, [2, 4, 6, 6], align_corners=False) + 0.1 * t.mean((1, 2, 3)).view(2, 1, 1, 1)

    check(lambda t: look(t, grid(t)), lambda t: look(t, grid(x)), x)


def test_lerp_is_two_products_and_a_sum() -> None:
    x = images()
    gate = x.mean((2, 3), keepdim=True).sigmoid()
    check(
        lambda t: torch.lerp(t, 2 * t.abs(), t.mean((2, 3), keepdim=True).sigmoid()).mean((2, 3)),
        lambda t: ((1 - gate) * t + gate * 2 * t.abs()).mean((2, 3)),
        x,
    )
    check(lambda t: t.lerp(t.abs(), 0.3).mean((2, 3)), lambda t: (0.7 * t + 0.3 * t.abs()).mean((2, 3)), x)


def test_medians_and_scattered_values_are_moved() -> None:
    x = torch.randn(3, 7, dtype=torch.float64)
    index = torch.tensor([2, 0, 1, 1, 0, 2, 1]).expand(3, 7)

    def model(t: Tensor) -> Tensor:
        return t.new_zeros(3, 3).scatter_add(1, index, t) + t.median(1, keepdim=True).values

    check(model, model, x)


class Grouped(nn.Module):
    """A linear layer for each of three groups of the channels of tokens [N, tokens, groups, channels]."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        self.weight = nn.Parameter(torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(0)))
        self.head = nn.Linear(6, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.way == "matmul":
            y = (x.transpose(1, 2) @ self.weight).transpose(1, 2)
        elif self.way == "einsum":
            y = torch.einsum("ntgi,gio->ntgo", x, self.weight)
        elif self.way == "einsum, transposed":
            y = torch.einsum("ntgi,gio->notg", x, self.weight).movedim(1, -1)
        else:
            y = torch.stack([F.linear(x[:, :, g], self.weight[g].T) for g in range(3)], 2)
        return self.head(y.flatten(2).mean(1))


@pytest.mark.parametrize("way", ["matmul", "einsum", "einsum, transposed"])
@pytest.mark.parametrize("rule", [Zero(), Gamma(0.3)])
def test_a_weight_for_each_group(way: str, rule) -> None:
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    rules = Composite(rule, ZPlus())
    torch.manual_seed(1)
    model = Grouped(way).double()
    written_out = Grouped("written out").double()
    written_out.load_state_dict(model.state_dict())
    found, expected = (relevance(m, x, 1, composite=rules) for m in (model, written_out))
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.input, expected.input)
    (units,) = (n for name, n in found.neurons.items() if name != "head")
    assert units.shape == (2, 6)
    torch.testing.assert_close(found.neurons["head"], expected.neurons["head"])


def test_other_weights_with_batch_dimensions_are_refused() -> None:
    weight = nn.Parameter(torch.randn(3, 5, 2))

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = weight

        def forward(self, x: Tensor) -> Tensor:
            return (x @ self.weight).sum(0)

    with pytest.raises(UncoveredFunctionError, match="batch dimensions"):
        relevance(Model(), torch.randn(4, 5))
