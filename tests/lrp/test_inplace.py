"""Functions that write into their argument: relevance is that of the model written without them."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lrp.nets import ResNet, randomize
from zsu_fast.lrp import Composite, Zero, relevance

ZERO = Composite(Zero(), Zero())


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, dtype=torch.float64)


def test_residual_sum_and_activations(images: Tensor) -> None:
    """ResNet is written with `+=` and in-place ReLUs; the out-of-place twin must agree."""
    model = randomize(ResNet())
    twin = randomize(ResNet(sum_module=True))
    twin.load_state_dict(model.state_dict())
    for name in ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1"):
        torch.testing.assert_close(
            relevance(model, images, 0, composite=name).input, relevance(twin, images, 0, composite=name).input
        )


@pytest.mark.parametrize("bind", [True, False], ids=["rebound", "not rebound"])
def test_functions_that_do_not_return_the_name(bind: bool) -> None:
    first, second = nn.Linear(6, 6), nn.Linear(6, 3)

    def model(x: Tensor) -> Tensor:
        y = first(x)
        if bind:
            y = F.relu(y)
            y = y * 2
            y = y + x
        else:
            F.relu(y, inplace=True)
            y.mul_(2)
            y.add_(x)
            y.unsqueeze_(1).squeeze_(1)
        return second(y)

    x = torch.randn(4, 6)
    found = relevance(model, x, 1)
    with torch.no_grad():
        torch.testing.assert_close(found.logits, second(2 * F.relu(first(x)) + x))
    (gradient,) = torch.autograd.grad(second(2 * F.relu(first(x.requires_grad_())) + x)[:, 1].sum(), x)
    torch.testing.assert_close(found.input, (gradient * x).detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus", "epsilon_alpha2_beta1"])
@pytest.mark.parametrize("use", [lambda y: y * 3, lambda y: F.gelu(y), lambda y: y.chunk(2, 1)[0].repeat(1, 2, 1, 1)])
def test_values_that_something_else_uses_are_kept(use: Callable, composite: str, images: Tensor) -> None:
    conv, norm, last = nn.Conv2d(3, 6, 3), randomize(nn.BatchNorm2d(6)), nn.Conv2d(6, 5, 3)
    conv.double(), last.double()

    def model(x: Tensor, inplace: bool) -> Tensor:
        y = norm(conv(x))
        z = use(y)
        y = F.relu(y, inplace=inplace)
        total = y + z
        other = F.relu(total + 1, inplace=inplace)  # nothing else uses that sum
        return last(F.relu(total, inplace=inplace) + other).mean((2, 3))

    found, expected = (relevance(lambda x, i=i: model(x, i), images, 2, composite=composite) for i in (True, False))
    assert torch.equal(found.input, expected.input)
    for name, units in expected.neurons.items():
        assert torch.equal(found.neurons[name], units), name


def test_relu_takes_no_memory_where_the_model_says_so(images: Tensor) -> None:
    model = randomize(ResNet())
    same: dict[str, bool] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.ReLU):
            module.inplace = name != "blocks.1.relu"
            module.register_forward_hook(
                lambda _, inputs, output, name=name: same.update({name: inputs[0].data_ptr() == output.data_ptr()})
            )
    relevance(model, images)
    assert same == {"relu": True, "blocks.0.relu": True, "blocks.1.relu": False, "blocks.2.relu": True}


def test_assignment_into_slices() -> None:
    layer = nn.Linear(6, 6).double()

    def model(x: Tensor) -> Tensor:
        y = layer(x)
        y[:, 1] = 0
        y[:, 2:4] += x[:, 2:4]
        out = torch.zeros_like(y)
        out[:, :3] = y[:, 3:]
        out[:, 3:] = y[:, :3]
        return out

    def plain(x: Tensor) -> Tensor:
        y = layer(x) * torch.tensor([1.0, 0, 1, 1, 1, 1]).double() + x * torch.tensor([0.0, 0, 1, 1, 0, 0]).double()
        return torch.cat([y[:, 3:], y[:, :3]], 1)

    x = torch.randn(2, 6, dtype=torch.float64)
    for target in range(6):
        if target != 4:  # set to zero: no relevance, whatever the bias
            first, second = (relevance(f, x, target, composite=ZERO) for f in (model, plain))
            torch.testing.assert_close(first.logits, second.logits)
            torch.testing.assert_close(first.input, second.input)


def test_stale_views_are_refused() -> None:
    layer = nn.Linear(6, 6)

    def model(x: Tensor) -> Tensor:
        y = layer(x)
        view = y[:, :3]
        y.relu_()
        return view + 0

    with pytest.raises(RuntimeError, match="shares memory"):
        relevance(model, torch.randn(2, 6))


def test_inputs_are_not_written_to() -> None:
    layer = nn.Linear(6, 3)
    x = torch.randn(2, 6)
    before, version = x.clone(), x._version
    relevance(lambda t: layer(t.sub_(1).div_(2)), x)
    assert torch.equal(x, before)
    assert x._version == version
