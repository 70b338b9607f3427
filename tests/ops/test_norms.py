"""The gates of normalisation layers: against autograd with 1/sigma detached, and eval BatchNorm."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zsu_fast.ops import batch_norm_gate, layer_norm_gate, rms_norm_gate


def by_autograd(x: Tensor, gradient: Tensor, weight: Tensor | None, dims: int, centred: bool) -> tuple[Tensor, Tensor]:
    """(c at the input by autograd through a norm whose 1/sigma is a constant, that 1/sigma)."""
    x = x.clone().requires_grad_()
    axes = list(range(-dims, 0))
    deviation = x - x.mean(axes, keepdim=True) if centred else x
    rstd = (deviation.square().mean(axes, keepdim=True) + 1e-5).rsqrt().detach()
    normalized = deviation * rstd
    output = normalized if weight is None else normalized * weight
    return torch.autograd.grad(output, x, gradient)[0], rstd


@pytest.mark.parametrize("with_weight", [True, False])
@pytest.mark.parametrize("shape, dims", [((2, 5, 33), 1), ((3, 4, 6), 2), ((7,), 1), ((2, 3, 4, 5), 3), ((2, 1030), 1)])
@pytest.mark.parametrize("centred", [True, False])
def test_equals_autograd_with_constant_sigma(
    centred: bool, shape: tuple[int, ...], dims: int, with_weight: bool, device: torch.device
) -> None:
    x, gradient = torch.randn(2, *shape, dtype=torch.float64, device=device)
    weight = torch.randn(shape[-dims:], dtype=torch.float64, device=device) if with_weight else None
    expected, rstd = by_autograd(x, gradient, weight, dims, centred)
    gate = layer_norm_gate if centred else rms_norm_gate
    torch.testing.assert_close(gate(gradient, weight, rstd, dims), expected)
    flat = rstd.reshape(shape[: len(shape) - dims])
    torch.testing.assert_close(gate(gradient, weight, flat, dims), expected)


def test_takes_what_torch_saves_of_a_layer_norm() -> None:
    x, gradient = torch.randn(2, 4, 16)
    norm = nn.LayerNorm(16)
    nn.init.normal_(norm.weight)
    _, _, rstd = torch.native_layer_norm(x, [16], norm.weight, norm.bias, norm.eps)
    expected, _ = by_autograd(x, gradient, norm.weight, 1, centred=True)
    torch.testing.assert_close(layer_norm_gate(gradient, norm.weight, rstd), expected)


def test_relevance_of_a_layer_norm_without_bias_is_conserved() -> None:
    x, c = torch.randn(2, 4, 16, dtype=torch.float64)
    rstd = x.var(-1, unbiased=False).rsqrt()
    output = (x - x.mean(-1, keepdim=True)) * rstd[:, None]
    torch.testing.assert_close((layer_norm_gate(c, None, rstd) * x).sum(-1), (c * output).sum(-1))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_batch_norm_equals_its_backward_in_eval_mode(layout: torch.memory_format, device: torch.device) -> None:
    norm = nn.BatchNorm2d(6).to(device).eval()
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)
    nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(2, 6, 5, 5, device=device, requires_grad=True)
    gradient = torch.randn(2, 6, 5, 5, device=device).contiguous(memory_format=layout)
    (expected,) = torch.autograd.grad(norm(x), x, gradient)
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach()
    result = batch_norm_gate(gradient, scale)
    torch.testing.assert_close(result, expected)
    assert result.is_contiguous(memory_format=layout)


def test_half_precision_takes_parameters_in_float32() -> None:
    gradient, scale = torch.randn(3, 8).half(), torch.rand(8)
    torch.testing.assert_close(batch_norm_gate(gradient, scale), (gradient.float() * scale).half())
    rstd = torch.rand(3)
    torch.testing.assert_close(rms_norm_gate(gradient, scale, rstd), (gradient.float() * scale * rstd[:, None]).half())


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"normalized_dims": 0}, ValueError, "normalized_dims must be 1 to 2"),
        ({"normalized_dims": 1.0}, TypeError, "normalized_dims must be an int, got float"),
        ({"weight": torch.zeros(3)}, ValueError, r"weight must have shape \(4,\), got \(3,\)"),
        ({"rstd": torch.zeros(3)}, ValueError, r"rstd must have shape \(2,\), got \(3,\)"),
        ({"rstd": torch.zeros(2, dtype=torch.float64)}, TypeError, "rstd must be torch.float32"),
        ({"weight": 1.0}, TypeError, "weight must be a Tensor, got float"),
        ({"gradient": torch.zeros(2, 4, dtype=torch.int32)}, TypeError, "gradient must be a floating-point tensor"),
    ],
)
def test_bad_arguments_of_layer_norm_gate(change: dict[str, Any], error: type[Exception], message: str) -> None:
    arguments = {"gradient": torch.zeros(2, 4), "weight": torch.zeros(4), "rstd": torch.zeros(2), "normalized_dims": 1}
    with pytest.raises(error, match=message):
        layer_norm_gate(**{**arguments, **change})


@pytest.mark.parametrize(
    "change, message",
    [
        ({"scale": torch.zeros(3)}, r"scale must have shape \(4,\), got \(3,\)"),
        ({"unit_dim": 0}, "unit_dim must be 1 to 1"),
        ({"unit_dim": 2}, "unit_dim must be 1 to 1"),
    ],
)
def test_bad_arguments_of_batch_norm_gate(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch_norm_gate(**{"gradient": torch.zeros(2, 4), "scale": torch.zeros(4), **change})
