"""The ops of relevance against `zsu_fast.reference`: the same values up to rounding, wherever there are values."""

import random
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.fuzz.operands import DTYPES, WRONG_DTYPES, call, operand, shape
from zsu_fast import ops
from zsu_fast.reference import gates, lrp, neurons, norms

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}


def _close(found: Tensor, expected: Tensor, dtype: torch.dtype, check_stride: bool = False) -> None:
    tolerance = TOLERANCE[dtype]
    size = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(
        found, expected, rtol=tolerance, atol=tolerance * max(size, 1e-3), equal_nan=True, check_stride=check_stride
    )


def _pair(rng: random.Random, least: int = 0, most: int = 4) -> tuple[Tensor, Tensor, bool]:
    """Two operands of one shape, and whether they fit each other."""
    dtype, size = rng.choice(DTYPES), shape(rng, least, most)
    first, second = (
        operand(rng, dtype, size, "expanded" if rng.random() < 0.1 else None, special=False) for _ in range(2)
    )
    if rng.random() < 0.06:
        second = operand(rng, rng.choice((*DTYPES, *WRONG_DTYPES)), size, special=False)
        return first, second, second.dtype != first.dtype
    if rng.random() < 0.06:
        second = operand(rng, dtype, shape(rng), special=False)
        return first, second, second.shape != first.shape
    return first, second, False


def _wrong(rng: random.Random, right: Any, *wrong: Any) -> tuple[Any, bool]:
    return (rng.choice(wrong), True) if rng.random() < 0.06 else (right, False)


def activation_gate(rng: random.Random) -> None:
    gradient, input, wrong = _pair(rng)
    name, wrong_name = _wrong(rng, rng.choice(list(gates.ACTIVATIONS)), "other", None, 0, ["relu"])
    found = call(ops.activation_gate, wrong or wrong_name, [gradient, input], gradient, input, name)
    _close(found, gates.activation_gate(gradient, input, gates.ACTIVATIONS[name]), gradient.dtype, True)


def neuron_relevance(rng: random.Random) -> None:
    gradient, activation, wrong = _pair(rng, 1)
    wrong = wrong or gradient.dim() < 2
    unit_dim = rng.randrange(1, max(gradient.dim(), 2))
    dim, wrong_dim = _wrong(rng, unit_dim - rng.choice((0, gradient.dim())), 0, 9, -9, None, 1.0, True)
    per_sample, wrong_flag = _wrong(rng, rng.random() < 0.5, None, 1, "yes")
    found = call(
        ops.neuron_relevance, wrong or wrong_dim or wrong_flag, [gradient, activation],
        gradient, activation, dim, per_sample,
    )  # fmt: skip
    expected = neurons.neuron_relevance(gradient.double(), activation.double(), unit_dim, per_sample)
    _close(found.double(), expected, torch.float64 if gradient.dtype == torch.float64 else torch.float32)


def norm_gates(rng: random.Random) -> None:
    dtype, size = rng.choice(DTYPES), shape(rng, 1)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    dims = rng.randint(1, len(size))
    gradient = operand(rng, dtype, size, special=False)
    weight_size, wrong_weight = _wrong(rng, size[-dims:], (*size, 3))
    weight = None if rng.random() < 0.3 else operand(rng, rng.choice((dtype, wide)), weight_size, special=False)
    rstd = operand(rng, rng.choice((dtype, wide)), size[:-dims], special=False)
    given, wrong = _wrong(rng, dims, 0, len(size) + 1, -1, None, 1.0, True)
    wrong = wrong or (wrong_weight and weight is not None)
    which = rng.choice(("layer_norm_gate", "rms_norm_gate"))
    inputs = [gradient, rstd] if weight is None else [gradient, rstd, weight]
    found = call(getattr(ops, which), wrong, inputs, gradient, weight, rstd, given)
    _close(found, getattr(norms, which)(gradient, weight, rstd, dims), dtype, True)


def batch_norm_gate(rng: random.Random) -> None:
    dtype, size = rng.choice(DTYPES), shape(rng, 2)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    gradient = operand(rng, dtype, size, special=False)
    unit_dim = rng.randrange(1, len(size))
    units, wrong = _wrong(rng, size[unit_dim], size[unit_dim] + 1)
    scale = operand(rng, rng.choice((dtype, wide)), (units,), special=False)
    found = call(ops.batch_norm_gate, wrong, [gradient, scale], gradient, scale, unit_dim - rng.choice((0, len(size))))
    _close(found, norms.batch_norm_gate(gradient, scale, unit_dim), dtype, True)


def lrp_layers(rng: random.Random) -> None:
    """`lrp_linear` and `lrp_conv1d` ... `lrp_conv3d`, with an epsilon that keeps quotients of rounding errors small."""
    rank = rng.choice((0, 0, 1, 2, 3))
    dtype = rng.choice((torch.float32, torch.float64))
    outs, ins, samples = rng.randint(1, 5), rng.randint(1, 5), rng.randint(0, 3)
    kernel = tuple(rng.randint(1, 3) for _ in range(rank))
    spatial = tuple(k + rng.randint(0, 3) for k in kernel)
    geometry: dict[str, Any] = {}
    if rank:
        geometry = {"stride": rng.randint(1, 2), "padding": rng.randint(0, 1)}

    def forward(x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x, w) if rank == 0 else getattr(F, f"conv{rank}d")(x, w, **geometry)

    input = operand(rng, dtype, (samples, ins, *spatial), special=False)
    weight = operand(rng, dtype, (outs, ins, *kernel), special=False)
    bias = operand(rng, dtype, (outs,), special=False) if rng.random() < 0.5 else None
    size = forward(input, weight).shape
    wrong_size, wrong = _wrong(rng, size, (*size[:-1], size[-1] + 1), (*size, 2))
    relevance = operand(rng, dtype, wrong_size, special=False)
    rule, wrong_rule = _wrong(rng, rng.choice(lrp.RULES[:3]), "other", None, 3)
    epsilon, wrong_epsilon = _wrong(rng, 0.25, -1.0, float("nan"), "1", None)
    function = ops.lrp_linear if rank == 0 else getattr(ops, f"lrp_conv{rank}d")
    found = call(
        function, wrong or wrong_rule or wrong_epsilon, [relevance, input, weight],
        relevance, input, weight, bias, rule=rule, epsilon=epsilon, **geometry,
    )  # fmt: skip
    expected = lrp.propagate(rule, relevance, input, weight, bias, forward, epsilon=epsilon)
    _close(found, expected, dtype)


SUBJECTS = (activation_gate, neuron_relevance, norm_gates, batch_norm_gate, lrp_layers)
