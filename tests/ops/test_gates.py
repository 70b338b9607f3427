"""activation_gate: against torch's activations, at zero, and where the division would fail."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from zsu_fast.ops import activation_gate
from zsu_fast.ops.gates import ACTIVATIONS

# torch's own activation, and the limit of act(x) / x at 0
TORCH: dict[str, tuple[Any, float]] = {
    "identity": (lambda x: x, 1.0),
    "relu": (F.relu, 0.0),
    "gelu": (F.gelu, 0.5),
    "gelu_tanh": (lambda x: F.gelu(x, approximate="tanh"), 0.5),
    "silu": (F.silu, 0.5),
    "relu6": (F.relu6, 0.0),
    "hardswish": (F.hardswish, 0.5),
    "tanh": (torch.tanh, 1.0),
}


def test_every_activation_is_covered() -> None:
    assert TORCH.keys() == ACTIVATIONS.keys()


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_gate_times_input_is_the_activation(name: str, device: torch.device) -> None:
    x = torch.linspace(-9, 9, 4001, dtype=torch.float64, device=device)
    gradient = torch.randn_like(x)
    expected = gradient * TORCH[name][0](x)
    torch.testing.assert_close(activation_gate(gradient, x, name) * x, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_at_zero_and_next_to_it_the_gate_takes_its_limit(name: str, dtype: torch.dtype, device: torch.device) -> None:
    tiny = torch.finfo(dtype).smallest_normal
    subnormal = torch.finfo(torch.float32).tiny / 4 if dtype == torch.float32 else tiny
    x = torch.tensor([0.0, -0.0, tiny, -tiny, subnormal, -subnormal], dtype=dtype, device=device)
    result = activation_gate(torch.ones_like(x), x, name).double()
    expected = torch.full((6,), TORCH[name][1], dtype=torch.float64, device=device)
    if name in ("relu", "relu6"):
        expected[[2, 4]] = 1.0  # the limit from the right
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_finite_for_every_finite_input(name: str, dtype: torch.dtype, device: torch.device) -> None:
    info = torch.finfo(dtype)
    x = torch.cat([torch.logspace(-6, 4.5, 400), torch.tensor([1.0])]).to(device, dtype)
    x = torch.cat([x, -x, torch.tensor([info.max, info.min, info.tiny, -1e-10], device=device, dtype=dtype)])
    result = activation_gate(torch.ones_like(x), x, name)
    assert result.isfinite().all()
    assert (result.abs() <= 1.01).all()


def relative_error(actual: Tensor, expected: Tensor) -> float:
    return float(((actual.double() - expected) / expected).abs().max())


@pytest.mark.parametrize("name", ["gelu", "gelu_tanh", "silu"])
def test_the_gate_keeps_its_relative_accuracy_far_below_zero(name: str) -> None:
    # act(x) / x computed as written loses everything here: 1 + erf(x / sqrt(2)) cancels.
    x = torch.linspace(-12 if name == "gelu" else -5, -2, 1001)
    exact = activation_gate(torch.ones(1001, dtype=torch.float64), x.double(), name)
    assert relative_error(activation_gate(torch.ones(1001), x, name), exact) < 2e-5


def test_nan_stays_nan_and_infinity_gives_the_limit() -> None:
    x = torch.tensor([float("nan"), float("inf"), -float("inf")])
    for name, limit in (("relu", 1.0), ("gelu", 1.0), ("silu", 1.0), ("hardswish", 1.0), ("relu6", 0.0), ("tanh", 0.0)):
        result = activation_gate(torch.ones(3), x, name)
        assert result[0].isnan()
        assert result[1:].tolist() == [limit, 0.0]


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"activation": "elu"}, ValueError, "activation must be one of identity, relu"),
        ({"input": torch.zeros(2)}, ValueError, r"input must have shape \(3,\), the gradient's, got \(2,\)"),
        ({"input": torch.zeros(3).half()}, TypeError, "input must be torch.float32"),
        ({"gradient": 1.0}, TypeError, "gradient must be a Tensor, got float"),
        ({"activation": None}, TypeError, "activation must be one of .*, got NoneType"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        activation_gate(**{"gradient": torch.zeros(3), "input": torch.zeros(3), "activation": "relu", **change})
