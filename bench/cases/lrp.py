"""The LRP passes against eager and compiled PyTorch, and the public functions against a plain input gradient."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.registry import Case, register
from zsu_fast import ops
from zsu_fast.reference import lrp as reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
RELU, GELU, EPSILON = 1, 2, 1e-3

# label, shape, unit dimension, channels_last; convolutions are followed by ReLU, linear layers of tokens by GELU
SHAPES = (
    ("conv 8x256x56x56", (8, 256, 56, 56), 1, False),
    ("conv 8x256x56x56 channels_last", (8, 256, 56, 56), 1, True),
    ("conv 8x512x7x7", (8, 512, 7, 7), 1, False),
    ("tokens 8x197x3072", (8, 197, 3072), 2, False),
)


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, fullgraph=True, dynamic=False)


def operands(
    device: torch.device, dtype: torch.dtype, shape: tuple[int, ...], channels_last: bool, count: int
) -> list[Tensor]:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return [torch.randn(shape, device=device).to(dtype).contiguous(memory_format=layout) for _ in range(count)]


def activation_after(unit_dim: int) -> int:
    return RELU if unit_dim == 1 else GELU


def epsilon_arguments(
    device: torch.device, dtype: torch.dtype, *, shape: tuple[int, ...], unit_dim: int, channels_last: bool
) -> tuple[Any, ...]:
    gradient, output = operands(device, dtype, shape, channels_last, 2)
    scale = torch.rand(shape[unit_dim], device=device) + 0.5
    return gradient, output, None, scale, EPSILON, activation_after(unit_dim), unit_dim, True


def signed_arguments(
    device: torch.device, dtype: torch.dtype, *, shape: tuple[int, ...], unit_dim: int, channels_last: bool, rule: str
) -> tuple[Any, ...]:
    gradient, output, magnitude = operands(device, dtype, shape, channels_last, 3)
    bias, scale = torch.randn(2, shape[unit_dim], device=device)
    parameters = (0.25,) if rule == "gamma" else (2.0, 1.0)
    # Far from z = 0, where results would be as large as 1 / EPSILON and their errors a matter of luck.
    magnitude = 2 * (magnitude.abs() + output.abs()) + 8
    return gradient, output, magnitude, bias, scale, *parameters, EPSILON, activation_after(unit_dim), unit_dim, True


def eager_epsilon(
    gradient: Tensor,
    output: Tensor,
    denominator: None,
    scale: Tensor,
    epsilon: float,
    code: int,
    unit_dim: int,
    _: bool,
) -> tuple[Tensor, Tensor]:
    """What one writes without the op, in the dtype of the operands."""
    numerator = gradient * (output.relu() if code == RELU else F.gelu(output))
    s = numerator / (output + torch.where(output >= 0, epsilon, -epsilon).to(output.dtype))
    shape = [-1 if d == unit_dim else 1 for d in range(output.dim())]
    rest = [d for d in range(1, output.dim()) if d != unit_dim]
    return s * scale.view(shape).to(s.dtype), numerator.sum(rest, dtype=torch.float32)


def traffic(outputs: int) -> Callable[..., int]:
    """Operands of the activation's shape, read once; as many results, written once. Vectors and sums are nothing."""

    def count(gradient: Tensor, *arguments: Any) -> int:
        alike = sum(isinstance(a, Tensor) and a.shape == gradient.shape for a in arguments)
        return gradient.nbytes * (1 + alike + outputs)

    return count


for _label, _shape, _unit_dim, _channels_last in SHAPES:
    _layout: dict[str, Any] = {"shape": _shape, "unit_dim": _unit_dim, "channels_last": _channels_last}
    register(
        Case(
            name=f"lrp_epsilon_pass/{_label}",
            make=partial(epsilon_arguments, **_layout),
            run=torch.ops.zsu_fast.lrp_epsilon_pass,
            reference=reference.lrp_epsilon_pass,
            bytes=traffic(1),
            peers={
                "eager": eager_epsilon,
                "compiled": lambda *arguments: compiled(reference.lrp_epsilon_pass)(*arguments),
            },
            tolerance=512,
            peers_agree=False,  # eager rounds after every step
            dtypes=DTYPES,
        )
    )
    for _rule in ("gamma", "alpha_beta"):
        _twin = getattr(reference, f"lrp_{_rule}_pass")
        register(
            Case(
                name=f"lrp_{_rule}_pass/{_label}",
                make=partial(signed_arguments, **_layout, rule=_rule),
                run=getattr(torch.ops.zsu_fast, f"lrp_{_rule}_pass"),
                reference=_twin,
                bytes=traffic(2),
                peers={"eager": _twin, "compiled": lambda *arguments, _twin=_twin: compiled(_twin)(*arguments)},
                tolerance=512,
                dtypes=DTYPES,
            )
        )


def conv_arguments(device: torch.device, dtype: torch.dtype, images: int = 8) -> tuple[Tensor, ...]:
    input = torch.rand(images, 128, 28, 28, device=device).to(dtype)
    weight = (torch.randn(128, 128, 3, 3, device=device) / 32).to(dtype)
    bias = torch.rand(128, device=device).to(dtype)
    output = F.conv2d(input, weight, bias, padding=1)
    return torch.randn_like(output), input, weight, bias, output


def linear_arguments(device: torch.device, dtype: torch.dtype, images: int = 8) -> tuple[Tensor, ...]:
    input = torch.rand(images * 197, 768, device=device).to(dtype)
    weight = (torch.randn(3072, 768, device=device) / 32).to(dtype)
    bias = torch.rand(3072, device=device).to(dtype)
    output = F.linear(input, weight, bias)
    return torch.randn_like(output), input, weight, bias, output


def conv_gradient(relevance: Tensor, input: Tensor, weight: Tensor, bias: Tensor, output: Tensor) -> Tensor:
    """The floor: one backward-data convolution."""
    return torch.ops.aten.convolution_backward(
        relevance, input, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False]
    )[0]


def linear_gradient(relevance: Tensor, input: Tensor, weight: Tensor, bias: Tensor, output: Tensor) -> Tensor:
    return relevance @ weight


_PUBLIC: tuple[
    tuple[str, Callable[..., Tensor], Callable[..., Any], Callable[..., Tensor], Callable[..., Tensor]], ...
] = (
    ("lrp_conv2d", partial(ops.lrp_conv2d, padding=1), conv_arguments, partial(F.conv2d, padding=1), conv_gradient),
    ("lrp_linear", ops.lrp_linear, linear_arguments, F.linear, linear_gradient),
)
for _name, _function, _make, _forward, _gradient in _PUBLIC:
    for _rule in ("epsilon", "gamma", "zplus", "alpha_beta"):
        register(
            Case(
                name=f"{_name}/{_rule}",
                make=_make,
                small=partial(_make, images=1),
                run=lambda relevance, input, weight, bias, output, _function=_function, _rule=_rule: _function(
                    relevance, input, weight, bias, rule=_rule, epsilon=0.1, output=output, nonnegative_input=True
                ),
                reference=lambda relevance, input, weight, bias, output, _forward=_forward, _rule=_rule: (
                    reference.propagate(_rule, relevance, input, weight, bias, _forward, epsilon=0.1)
                ),
                bytes=lambda relevance, input, weight, bias, output: (
                    relevance.nbytes + output.nbytes + 2 * input.nbytes + weight.nbytes
                ),
                peers={"input gradient": _gradient},
                tolerance=4096,
                peers_agree=False,  # the plain input gradient is the floor, not the same thing
            )
        )
