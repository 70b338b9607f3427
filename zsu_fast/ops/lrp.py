"""Layer-wise relevance propagation through linear layers and convolutions."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..reference import lrp as reference
from ..reference.gates import RELEVANCE
from ..reference.layout import accumulate_dtype, empty_dense
from .check import check_shape, check_tensors
from .constant import define_constant
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


def _fake_epsilon(gradient: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    return empty_dense(gradient), _fake_neurons(gradient, *arguments[-2:])


def _fake_signed(gradient: Tensor, *arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return empty_dense(gradient), empty_dense(gradient), _fake_neurons(gradient, *arguments[-2:])


define_constant(
    "lrp_epsilon_pass(Tensor gradient, Tensor output, Tensor? denominator, Tensor? scale, float epsilon, "
    "int activation, int unit_dim, bool collect) -> (Tensor s, Tensor neurons)",
    reference.lrp_epsilon_pass,
    _fake_epsilon,
)
define_constant(
    "lrp_gamma_pass(Tensor gradient, Tensor output, Tensor magnitude, Tensor? bias, Tensor? scale, float gamma, "
    "float epsilon, int activation, int unit_dim, bool collect) -> (Tensor s, Tensor signed_s, Tensor neurons)",
    reference.lrp_gamma_pass,
    _fake_signed,
)
define_constant(
    "lrp_alpha_beta_pass(Tensor gradient, Tensor output, Tensor magnitude, Tensor? bias, Tensor? scale, float alpha, "
    "float beta, float epsilon, int activation, int unit_dim, bool collect) -> (Tensor u, Tensor v, Tensor neurons)",
    reference.lrp_alpha_beta_pass,
    _fake_signed,
)
define_constant(
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
    choice = _Choice(rule, epsilon, gamma, alpha, beta, nonnegative_input)
    choice.check()
    check_tensors("bias", "output", relevance=relevance, input=input, weight=weight, bias=bias, output=output)
    check_shape("weight", weight, "[out, in]", weight.dim() == 2)
    check_shape("input", input, f"[*, {weight.shape[1]}]", input.dim() > 0 and input.shape[-1] == weight.shape[1])
    return _relevance(LinearMap(), relevance, input, weight, bias, output, choice, batched=input.dim() > 1)


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
    choice = _Choice(rule, epsilon, gamma, alpha, beta, nonnegative_input)
    geometry = _Geometry(stride, padding, dilation, groups)
    return _lrp_conv(1, relevance, input, weight, bias, output, geometry, choice)


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
    choice = _Choice(rule, epsilon, gamma, alpha, beta, nonnegative_input)
    geometry = _Geometry(stride, padding, dilation, groups)
    return _lrp_conv(2, relevance, input, weight, bias, output, geometry, choice)


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
    choice = _Choice(rule, epsilon, gamma, alpha, beta, nonnegative_input)
    geometry = _Geometry(stride, padding, dilation, groups)
    return _lrp_conv(3, relevance, input, weight, bias, output, geometry, choice)


class _Choice(NamedTuple):
    """Which rule, with which parameters."""

    rule: Rule
    epsilon: float
    gamma: float
    alpha: float
    beta: float
    nonnegative_input: bool

    def check(self) -> None:
        if not isinstance(self.rule, str):
            raise TypeError(f"rule must be one of {', '.join(reference.RULES)}, got {type(self.rule).__name__}")
        if self.rule not in reference.RULES:
            raise ValueError(f"rule must be one of {', '.join(reference.RULES)}, got {self.rule!r}")
        for label in ("epsilon", "gamma", "alpha", "beta"):
            value = getattr(self, label)
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise TypeError(f"{label} must be a finite number >= 0, got {type(value).__name__}")
            if not math.isfinite(value) or value < 0:
                raise ValueError(f"{label} must be a finite number >= 0, got {value!r}")
        if self.rule == "alpha_beta" and not math.isclose(self.alpha - self.beta, 1.0):
            raise ValueError(f"alpha - beta must be 1, got alpha = {self.alpha} and beta = {self.beta}")


class _Geometry(NamedTuple):
    """A convolution's, as its caller gave it."""

    stride: int | Sequence[int]
    padding: int | Sequence[int] | str
    dilation: int | Sequence[int]
    groups: int


@torch.no_grad()
def _lrp_conv(
    rank: int,
    relevance: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor | None,
    geometry: _Geometry,
    choice: _Choice,
) -> Tensor:
    choice.check()
    check_tensors("bias", "output", relevance=relevance, input=input, weight=weight, bias=bias, output=output)
    spatial = ", ".join(("D", "H", "W")[-rank:])
    check_shape("weight", weight, f"[C_out, C_in / groups, {rank} kernel sizes]", weight.dim() == rank + 2)
    check_shape("input", input, f"[N, C_in, {spatial}] or [C_in, {spatial}]", input.dim() in (rank + 1, rank + 2))
    stride, padding, dilation, groups = geometry
    if isinstance(groups, bool) or not isinstance(groups, int):
        raise TypeError(f"groups must be an int, got {type(groups).__name__}")
    if groups < 1 or weight.shape[0] % groups:
        raise ValueError(f"groups must be a positive int that divides C_out = {weight.shape[0]}, got {groups!r}")
    map = LinearMap.conv(weight.shape[2:], stride, padding, dilation, groups)
    channels = weight.shape[1] * groups
    check_shape("input", input, f"with {channels} channels ({groups} groups)", input.shape[-rank - 1] == channels)
    return _relevance(map, relevance, input, weight, bias, output, choice, batched=input.dim() == rank + 2)


def _relevance(
    map: LinearMap,
    relevance: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor | None,
    choice: _Choice,
    *,
    batched: bool,
) -> Tensor:
    """Relevance in, relevance out, for arguments that fit each other but for the shapes compared here."""
    if not batched:
        output = None if output is None else output.unsqueeze(0)
        relevance, input = relevance.unsqueeze(0), input.unsqueeze(0)
        return _relevance(map, relevance, input, weight, bias, output, choice, batched=True).squeeze(0)
    expected = map.output_shape(input.shape, weight.shape)
    if map.kind == "conv" and min(expected[2:]) < 1:
        raise ValueError(f"input {tuple(input.shape)} is smaller than the kernel of weight {tuple(weight.shape)}")
    unit_dim = input.dim() - 1 if map.kind == "linear" else 1
    shapes = (("relevance", relevance, expected), ("output", output, expected), ("bias", bias, (expected[unit_dim],)))
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
        choice.rule,
        relevance,
        input,
        weight,
        bias,
        output,
        activation=RELEVANCE,
        unit_dim=unit_dim,
        nonnegative_input=choice.nonnegative_input,
        epsilon=choice.epsilon,
        gamma=choice.gamma,
        alpha=choice.alpha,
        beta=choice.beta,
    )
    return c.mul_(input)
