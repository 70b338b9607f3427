"""Layer-wise relevance propagation through linear layers and convolutions."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..reference import lrp as reference
from ..reference.gates import RELEVANCE
from ..reference.layout import accumulate_dtype, empty_dense
from ._library import define
from .check import check_shape, check_tensors
from .linear_map import LinearMap
from .prepared import clear_prepared, derived, prepared
from .rule_backward import ForwardTerms, Rule, forward_terms, rule_backward

__all__ = [
    "ForwardTerms",
    "LinearMap",
    "clear_prepared",
    "derived",
    "forward_terms",
    "lrp_conv1d",
    "lrp_conv2d",
    "lrp_conv3d",
    "lrp_linear",
    "prepared",
    "rule_backward",
]


def _fake_neurons(gradient: Tensor, unit_dim: int, collect: bool) -> Tensor:
    shape = (gradient.shape[0], gradient.shape[unit_dim]) if collect else (0,)
    return gradient.new_empty(shape, dtype=accumulate_dtype(gradient.dtype))


def _fake_epsilon(gradient, output, denominator, scale, epsilon, activation, unit_dim, collect):
    return empty_dense(gradient), _fake_neurons(gradient, unit_dim, collect)


def _fake_two(gradient, *arguments):
    unit_dim, collect = arguments[-2:]
    return empty_dense(gradient), empty_dense(gradient), _fake_neurons(gradient, unit_dim, collect)


define(
    "lrp_epsilon_pass(Tensor gradient, Tensor output, Tensor? denominator, Tensor? scale, float epsilon, "
    "int activation, int unit_dim, bool collect) -> (Tensor s, Tensor neurons)",
    reference.lrp_epsilon_pass,
    _fake_epsilon,
)
define(
    "lrp_gamma_pass(Tensor gradient, Tensor output, Tensor magnitude, Tensor? bias, Tensor? scale, float gamma, "
    "float epsilon, int activation, int unit_dim, bool collect) -> (Tensor s, Tensor signed_s, Tensor neurons)",
    reference.lrp_gamma_pass,
    _fake_two,
)
define(
    "lrp_alpha_beta_pass(Tensor gradient, Tensor output, Tensor magnitude, Tensor? bias, Tensor? scale, float alpha, "
    "float beta, float epsilon, int activation, int unit_dim, bool collect) -> (Tensor u, Tensor v, Tensor neurons)",
    reference.lrp_alpha_beta_pass,
    _fake_two,
)
define(
    "lrp_combine(Tensor plain, Tensor absolute, Tensor input, float plain_factor, float absolute_factor) -> Tensor",
    reference.lrp_combine,
    lambda plain, absolute, input, plain_factor, absolute_factor: empty_dense(plain),
)


@torch.no_grad()
def lrp_linear(
    relevance: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    rule: Rule = "epsilon",
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    alpha: float = 2.0,
    beta: float = 1.0,
    output: Tensor | None = None,
    nonnegative_input: bool = False,
) -> Tensor:
    """Relevance of the input of `torch.nn.functional.linear(input, weight, bias)` from the relevance of its output.

    Rules (y = W x + b, st(z) = z + epsilon * sgn(z) with sgn(0) = 1; the bias keeps its share):

    - "epsilon" (Bach et al. 2015, eq. 58): x * W^T (R / st(y)); "zero" is epsilon = 0, and drops relevance at y = 0.
    - "zplus" (Montavon et al. 2017; alpha = 1, beta = 0): positive contributions only.
    - "gamma" (Andeol et al. 2021): contributions of the sign of y count (1 + gamma) fold.
    - "alpha_beta" (Bach et al. 2015, eq. 60): alpha times the positive share minus beta times the negative one.

    Args:
        relevance: [*, out].
        input: [*, in].
        weight: [out, in].
        bias: [out] or None.
        output: [*, out], the layer's output if it is at hand; otherwise it is computed.
        nonnegative_input: Promise that input >= 0 (as behind a ReLU); halves the cost of "zplus". Not checked.

    All tensors share one floating dtype and device; float16 and bfloat16 compute in float32 between the GEMMs. In
    float16, epsilon should be large enough that relevance / epsilon stays below 65504.

    Returns:
        [*, in], the relevance of the input. It is a constant: gradients do not flow through this function.

    Raises:
        TypeError, ValueError: an argument is not what is asked for above.
    """
    _check_rule(rule, epsilon, gamma, alpha, beta)
    check_tensors("bias", "output", relevance=relevance, input=input, weight=weight, bias=bias, output=output)
    check_shape("weight", weight, "[out, in]", weight.dim() == 2)
    check_shape("input", input, f"[*, {weight.shape[1]}]", input.dim() > 0 and input.shape[-1] == weight.shape[1])
    return _relevance(
        "lrp_linear",
        LinearMap(),
        relevance,
        input,
        weight,
        bias,
        output,
        batched=input.dim() > 1,
        rule=rule,
        epsilon=epsilon,
        gamma=gamma,
        alpha=alpha,
        beta=beta,
        nonnegative_input=nonnegative_input,
    )


def lrp_conv1d(
    relevance: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    rule: Rule = "epsilon",
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    alpha: float = 2.0,
    beta: float = 1.0,
    output: Tensor | None = None,
    nonnegative_input: bool = False,
) -> Tensor:
    """Relevance of the input of `torch.nn.functional.conv1d`: `lrp_conv2d` with one spatial dimension."""
    keywords = {"rule": rule, "epsilon": epsilon, "gamma": gamma, "alpha": alpha, "beta": beta}
    geometry = (stride, padding, dilation, groups)
    return _lrp_conv(1, relevance, input, weight, bias, output, geometry, nonnegative_input, keywords)


def lrp_conv2d(
    relevance: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    rule: Rule = "epsilon",
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    alpha: float = 2.0,
    beta: float = 1.0,
    output: Tensor | None = None,
    nonnegative_input: bool = False,
) -> Tensor:
    """Relevance of the input of `torch.nn.functional.conv2d` from the relevance of its output.

    Args:
        relevance: [N, C_out, H_out, W_out], or without N.
        input: [N, C_in, H, W], or without N.
        weight: [C_out, C_in / groups, kH, kW].
        bias: [C_out] or None.
        stride, padding, dilation, groups: As for `torch.nn.functional.conv2d`; padding may be "same" or "valid".
        output: Like `relevance`, the layer's output if it is at hand; otherwise it is computed.

    Rules, remaining arguments, dtypes, result and errors: see `lrp_linear`. Contiguous and channels_last tensors are
    taken as they are.
    """
    keywords = {"rule": rule, "epsilon": epsilon, "gamma": gamma, "alpha": alpha, "beta": beta}
    geometry = (stride, padding, dilation, groups)
    return _lrp_conv(2, relevance, input, weight, bias, output, geometry, nonnegative_input, keywords)


def lrp_conv3d(
    relevance: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    *,
    rule: Rule = "epsilon",
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    alpha: float = 2.0,
    beta: float = 1.0,
    output: Tensor | None = None,
    nonnegative_input: bool = False,
) -> Tensor:
    """Relevance of the input of `torch.nn.functional.conv3d`: `lrp_conv2d` with three spatial dimensions."""
    keywords = {"rule": rule, "epsilon": epsilon, "gamma": gamma, "alpha": alpha, "beta": beta}
    geometry = (stride, padding, dilation, groups)
    return _lrp_conv(3, relevance, input, weight, bias, output, geometry, nonnegative_input, keywords)


@torch.no_grad()
def _lrp_conv(rank, relevance, input, weight, bias, output, geometry, nonnegative_input, keywords) -> Tensor:
    name = f"lrp_conv{rank}d"
    _check_rule(**keywords)
    check_tensors("bias", "output", relevance=relevance, input=input, weight=weight, bias=bias, output=output)
    spatial = ", ".join(("D", "H", "W")[-rank:])
    check_shape("weight", weight, f"[C_out, C_in / groups, {rank} kernel sizes]", weight.dim() == rank + 2)
    check_shape("input", input, f"[N, C_in, {spatial}] or [C_in, {spatial}]", input.dim() in (rank + 1, rank + 2))
    stride, padding, dilation, groups = geometry
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups must be a positive int that divides C_out = {weight.shape[0]}, got {groups!r}")
    map = LinearMap.conv(weight.shape[2:], stride, padding, dilation, groups)
    channels = weight.shape[1] * groups
    check_shape("input", input, f"{channels} channels ({groups} groups)", input.shape[-rank - 1] == channels)
    batched = input.dim() == rank + 2
    return _relevance(
        name,
        map,
        relevance,
        input,
        weight,
        bias,
        output,
        batched=batched,
        nonnegative_input=nonnegative_input,
        **keywords,
    )


def _relevance(name, map, relevance, input, weight, bias, output, *, batched, **keywords) -> Tensor:
    """Relevance in, relevance out, on validated dtypes: compare the shapes, then multiply c by the input."""
    if not batched:
        return _relevance(
            name,
            map,
            relevance.unsqueeze(0),
            input.unsqueeze(0),
            weight,
            bias,
            None if output is None else output.unsqueeze(0),
            batched=True,
            **keywords,
        ).squeeze(0)
    expected = map.output_shape(input.shape, weight.shape)
    if min(expected) < 0:
        raise ValueError(f"{name}: input {tuple(input.shape)} is smaller than the kernel {tuple(weight.shape[2:])}")
    units = expected[-1 if map.kind == "linear" else 1]
    shapes = (("relevance", relevance, expected), ("output", output, expected), ("bias", bias, (units,)))
    for label, tensor, shape in shapes:
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(
                f"{label} must have shape {shape} for input {tuple(input.shape)} and weight {tuple(weight.shape)}, "
                f"got {tuple(tensor.shape)}"
            )
    if output is None:
        output = map.forward(input, weight, bias)
    c, _ = rule_backward(
        map,
        keywords.pop("rule"),
        relevance,
        input,
        weight,
        bias,
        output,
        activation=RELEVANCE,
        unit_dim=input.dim() - 1 if map.kind == "linear" else 1,
        **keywords,
    )
    return c.mul_(input)


def _check_rule(rule: str, epsilon: float, gamma: float, alpha: float, beta: float) -> None:
    if rule not in reference.RULES:
        raise ValueError(f"rule must be one of {', '.join(reference.RULES)}, got {rule!r}")
    for label, value in (("epsilon", epsilon), ("gamma", gamma), ("alpha", alpha), ("beta", beta)):
        if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
            raise ValueError(f"{label} must be a finite number >= 0, got {value!r}")
    if rule == "alpha_beta" and not math.isclose(alpha - beta, 1.0):
        raise ValueError(f"alpha - beta must be 1 (relevance is conserved), got alpha = {alpha}, beta = {beta}")
