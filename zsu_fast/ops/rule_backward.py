"""One LRP rule at one linear layer, in modified-gradient form: c = R / a in, c out.

With c carried instead of R, a rule is one elementwise pass s = c * a / st(z) followed by the layer's ordinary
backward-data GEMM or convolution; what differs is z, and how many weights it is transposed through:

| rule                          | extra forwards | backward-data | weights                         |
| ----------------------------- | -------------- | ------------- | ------------------------------- |
| epsilon, zero                 | 0              | 1             | W                               |
| z+, input >= 0                | 1              | 1             | W+                              |
| gamma, input >= 0, ReLU gated | 1              | 1             | W + gamma W+                    |
| z+, gamma, alpha-beta         | 1              | 2             | W and |W|                       |

The last row rests on x+ W+ + x- W- = (|W||x| + W x) / 2 and x+ W- + x- W+ = (W x - |W||x|) / 2.
"""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .linear_map import LinearMap
from .prepared import Kept, Kind, derived, keeping, modify, open_kept, prepared

_ops = torch.ops.zsu_fast
_RELU_LIKE = (1, 5)  # activations that are 0 for every y <= 0: no relevance arrives there

Rule = Literal["epsilon", "gamma", "zplus", "alpha_beta", "zero"]


class ForwardTerms(NamedTuple):
    """What a rule needs of the forward pass beyond the layer's output; depends on the input, not on the relevance."""

    magnitude: Tensor | None = None
    denominator: Tensor | None = None


def _single_weight(rule: str, activation: int, nonnegative_input: bool, gamma: float, beta: float) -> Kind | None:
    """How to modify W so that the rule is s = c a / st(z) with z = W' x + b'; None if no one weight will do."""
    if not nonnegative_input:
        return None
    if rule == "zplus" or (rule == "alpha_beta" and beta == 0):
        return "positive"
    if rule == "gamma" and activation in _RELU_LIKE:
        return ("gamma", gamma)
    return None


def _folded(map: LinearMap, weight: Tensor, scale: Tensor | None, kind: Kind) -> Tensor:
    """The modified weight of the folded layer; folding comes first, since a negative scale exchanges W+ and W-."""
    if scale is None:
        return derived(kind, (weight,), lambda w: modify(w, kind))
    return derived((map, kind), (weight, scale), lambda w, factor: modify(map.fold(w, factor), kind))


@torch.no_grad()
def forward_terms(
    map: LinearMap,
    rule: Rule,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    *,
    scale: Tensor | None = None,
    activation: int = 0,
    nonnegative_input: bool = False,
    gamma: float = 0.25,
    beta: float = 1.0,
) -> ForwardTerms:
    """The extra forward pass of `rule`, if it has one. Arguments as for `rule_backward`, which takes the result.

    Computed once, the terms serve every relevance that is sent back through the same input.
    """
    if rule in ("epsilon", "zero"):
        return ForwardTerms()
    kind = _single_weight(rule, activation, nonnegative_input, gamma, beta)
    if kind is None:
        absolute = input if nonnegative_input else input.abs()
        return ForwardTerms(magnitude=map.forward(absolute, _folded(map, weight, None, "abs")))
    shift = None if bias is None else prepared(bias, kind).to(weight.dtype)
    return ForwardTerms(denominator=map.forward(input, _folded(map, weight, scale, kind), shift))


@torch.no_grad()
def rule_backward(
    map: LinearMap,
    rule: Rule,
    gradient: Tensor,
    input: Tensor | torch.Size,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor,
    *,
    scale: Tensor | None = None,
    activation: int = 0,
    unit_dim: int,
    nonnegative_input: bool = False,
    collect: bool = False,
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    alpha: float = 2.0,
    beta: float = 1.0,
    magnitude: Tensor | None = None,
    denominator: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The modified gradient at a layer's input, and the relevance of the layer's units.

    The building block of the engine: arguments are trusted (the public functions of `zsu_fast.ops` validate theirs).

    Args:
        map: The layer y = scale * map.forward(x, weight) + bias.
        gradient: c at the layer's activated output a = act(y), like `output`. With activation -1 it is the relevance.
        input: x; its shape suffices for epsilon and zero, and for the rules that take one modified weight (z+ on a
            non-negative input, gamma on one behind a ReLU) if their `denominator` is given.
        bias: [units] or None, of the folded layer (BatchNorm's shift included).
        output: y, or behind a ReLU the activation itself (where they differ, no relevance arrives).
        scale: [units] or None: the factor of a folded BatchNorm.
        activation: Code of act (`zsu_fast.reference.gates.ACTIVATIONS`), or -1.
        unit_dim: Dimension of the units in `output`; at least 1, dimension 0 counts samples.
        nonnegative_input: A promise that input >= 0, which makes some rules cheaper; unused by others.
        collect: Whether to sum the relevance per unit.
        epsilon, gamma, alpha, beta: The parameters of the rules. Rule "zero" is epsilon with epsilon = 0.
        magnitude, denominator: From `forward_terms`; computed here if they are None and the rule needs one.

    Returns:
        (c at the input, [N, units] relevance per sample and unit in float32 or float64; empty without `collect`).
    """
    shape = input if isinstance(input, torch.Size) else input.shape
    if rule in ("epsilon", "zero"):
        strength = epsilon if rule == "epsilon" else 0.0
        s, neurons = _ops.lrp_epsilon_pass(gradient, output, None, scale, strength, activation, unit_dim, collect)
        return map.transpose(s, weight, shape), neurons

    if magnitude is None and denominator is None:
        if isinstance(input, torch.Size):
            raise TypeError(f"rule {rule!r} needs the input itself, or the terms of its forward pass")
        if not torch.compiler.is_compiling() and not open_kept():
            with keeping(Kept()):  # the forward and the backward pass share a modified weight
                return rule_backward(
                    map, rule, gradient, input, weight, bias, output,
                    scale=scale, activation=activation, unit_dim=unit_dim, nonnegative_input=nonnegative_input,
                    collect=collect, epsilon=epsilon, gamma=gamma, alpha=alpha, beta=beta,
                )  # fmt: skip
        magnitude, denominator = forward_terms(
            map,
            rule,
            input,
            weight,
            bias,
            scale=scale,
            activation=activation,
            nonnegative_input=nonnegative_input,
            gamma=gamma,
            beta=beta,
        )
    kind = _single_weight(rule, activation, nonnegative_input, gamma, beta)
    if kind is not None:
        s, neurons = _ops.lrp_epsilon_pass(gradient, output, denominator, None, epsilon, activation, unit_dim, collect)
        del denominator  # a tensor of the size of the output, which the next one need not find still there
        return map.transpose(s, _folded(map, weight, scale, kind), shape), neurons

    if rule == "gamma":
        plain, absolute, neurons = _ops.lrp_gamma_pass(
            gradient, output, magnitude, bias, scale, gamma, epsilon, activation, unit_dim, collect
        )
        factors = (1 + gamma / 2, gamma / 2)
    else:
        if rule == "zplus":
            alpha, beta = 1.0, 0.0
        plain, absolute, neurons = _ops.lrp_alpha_beta_pass(
            gradient, output, magnitude, bias, scale, alpha, beta, epsilon, activation, unit_dim, collect
        )
        factors = (0.5, 0.5)
    del magnitude
    through_plain = map.transpose(plain, weight, shape)
    del plain
    through_absolute = map.transpose(absolute, _folded(map, weight, None, "abs"), shape)
    del absolute
    return _ops.lrp_combine(through_plain, through_absolute, input, *factors), neurons
