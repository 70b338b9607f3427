"""The LRP rules of a linear layer, twice.

`propagate` is the definition: relevance in, relevance out, positive and negative parts written out, the transposed map
taken from autograd. It is slow, and it is what every faster form is tested against.

The `*_pass` functions are the plain twins of the fused ops: one elementwise expression each, in modified-gradient form.

Notation: y = W x + b, R the relevance of y, x+ = max(x, 0), x- = min(x, 0), st(z) = z + epsilon for z >= 0, otherwise
z - epsilon.
Sources: epsilon, alpha-beta: Bach et al. 2015, eq. 58 and 60; z+: Montavon et al. 2017; gamma: Montavon et al. 2019,
for signed inputs Andeol et al. 2021.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .gates import RELEVANCE, activate
from .layout import narrow, per_unit, sum_per_unit, widen

RULES = ("epsilon", "gamma", "zplus", "alpha_beta", "zero")

Forward = Callable[[Tensor, Tensor], Tensor]
"""A map without bias, linear in the input and in the weight: (input, weight) -> output."""


def stabilize(z: Tensor, epsilon: float) -> Tensor:
    return torch.where(z >= 0, z + epsilon, z - epsilon)


def ratio(numerator: Tensor, z: Tensor, epsilon: float) -> Tensor:
    """numerator / st(z); 0 where st(z) is exactly 0 (only epsilon = 0 allows it): there nothing can be distributed."""
    stabilized = stabilize(z, epsilon)
    return torch.where(stabilized == 0, 0.0, numerator / stabilized)


def sign(x: Tensor) -> Tensor:
    """-1, 0 or 1, and NaN for NaN (torch.sign gives 0)."""
    return torch.where(x > 0, 1.0, torch.where(x < 0, -1.0, x))


def propagate(
    rule: str,
    relevance: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    forward: Forward,
    *,
    unit_dim: int = 1,
    epsilon: float = 1e-6,
    gamma: float = 0.25,
    alpha: float = 2.0,
    beta: float = 1.0,
) -> Tensor:
    """Relevance of the input of y = forward(input, weight) + bias (bias along `unit_dim`), from the relevance of y."""
    bias = torch.zeros((), dtype=input.dtype, device=input.device) if bias is None else bias
    if bias.dim():
        shape = [1] * relevance.dim()
        shape[unit_dim] = -1
        bias = bias.view(shape)

    def transpose(s: Tensor, w: Tensor) -> Tensor:
        return torch.func.vjp(lambda x: forward(x, w), torch.zeros_like(input))[1](s)[0]

    def split(relevance: Tensor, on_positive: Tensor, on_negative: Tensor, b: Tensor) -> Tensor:
        """Distribute over x+ through one weight and over x- through another; b takes its share and keeps it."""
        z = forward(positive, on_positive) + forward(negative, on_negative) + b
        s = ratio(relevance, z, epsilon)
        return positive * transpose(s, on_positive) + negative * transpose(s, on_negative)

    positive, negative = input.clamp(min=0), input.clamp(max=0)
    excitatory, inhibitory = weight.clamp(min=0), weight.clamp(max=0)
    y = forward(input, weight) + bias
    match rule:
        case "epsilon" | "zero":
            return input * transpose(ratio(relevance, y, epsilon if rule == "epsilon" else 0.0), weight)
        case "zplus":
            return split(relevance, excitatory, inhibitory, bias.clamp(min=0))
        case "alpha_beta":
            activating = split(relevance, excitatory, inhibitory, bias.clamp(min=0))
            inhibiting = split(relevance, inhibitory, excitatory, bias.clamp(max=0))
            return alpha * activating - beta * inhibiting
        case "gamma":
            # The sign of the unmodified output says which contributions are favoured; at y = 0 relevance is dropped.
            raised, lowered = weight + gamma * excitatory, weight + gamma * inhibitory
            firing = split(relevance * (y > 0), raised, lowered, bias + gamma * bias.clamp(min=0))
            silent = split(relevance * (y < 0), lowered, raised, bias + gamma * bias.clamp(max=0))
            return firing + silent
        case _:
            raise ValueError(f"rule must be one of {RULES}, got {rule!r}")


def _numerator(gradient: Tensor, output: Tensor, activation: int) -> Tensor:
    return gradient if activation == RELEVANCE else gradient * activate(output, activation)


def _collect(numerator: Tensor, unit_dim: int, collect: bool) -> Tensor:
    return sum_per_unit(numerator, unit_dim) if collect else numerator.new_empty(0)


def lrp_epsilon_pass(
    gradient: Tensor,
    output: Tensor,
    denominator: Tensor | None,
    scale: Tensor | None,
    epsilon: float,
    activation: int,
    unit_dim: int,
    collect: bool,
) -> tuple[Tensor, Tensor]:
    """(s, neurons): s = c a / st(z) * scale, of which the transposed layer makes the input's c.

    gradient: c, or R where `activation` is RELEVANCE. output: y, the layer's output before its activation. denominator:
    z, where it is not y. scale: of a folded norm, per unit. neurons: [N, units] relevance of each unit, in the dtype of
    the arithmetic; [0] without `collect`.
    """
    numerator = _numerator(widen(gradient), widen(output), activation)
    s = ratio(numerator, widen(output if denominator is None else denominator), epsilon)
    if scale is not None:
        s = s * per_unit(scale, unit_dim, gradient)
    return narrow(s, gradient), _collect(numerator, unit_dim, collect)


def _signed_parts(
    output: Tensor, magnitude: Tensor, bias: Tensor | None, scale: Tensor | None, unit_dim: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(W x, |W| |x|, b, scale) of the folded layer: the first two give every split into positive and negative parts."""
    one = torch.ones((), dtype=widen(output).dtype, device=output.device)
    factor = one if scale is None else per_unit(scale, unit_dim, output)
    b = one * 0 if bias is None else per_unit(bias, unit_dim, output)
    return widen(output) - b, widen(magnitude) * factor.abs(), b, factor


def lrp_gamma_pass(
    gradient: Tensor,
    output: Tensor,
    magnitude: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    gamma: float,
    epsilon: float,
    activation: int,
    unit_dim: int,
    collect: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """(s, signed s, neurons): what goes back through W and through |W|, for inputs of any sign (Andeol et al. 2021).

    magnitude: |W| |x|. The rest is as for `lrp_epsilon_pass`.
    """
    numerator = _numerator(widen(gradient), widen(output), activation)
    linear, absolute, b, factor = _signed_parts(output, magnitude, bias, scale, unit_dim)
    side = sign(widen(output))
    favoured = torch.where(side > 0, b.clamp(min=0), b.clamp(max=0))
    z = (1 + gamma / 2) * linear + side * (gamma / 2) * absolute + b + gamma * favoured
    v = torch.where(side == 0, 0.0, ratio(numerator, z, epsilon))
    return (
        narrow(v * factor, gradient),
        narrow(side * v * factor.abs(), gradient),
        _collect(numerator, unit_dim, collect),
    )


def rounding_noise(dtype: torch.dtype) -> float:
    """What rounding may leave of |W||x| + |y| where nothing should be left.

    Half precision rounds each operand once, at the end; wider types add up their own errors.
    """
    return (1 if dtype.itemsize == 2 else 4) * torch.finfo(dtype).eps


def lrp_alpha_beta_pass(
    gradient: Tensor,
    output: Tensor,
    magnitude: Tensor,
    bias: Tensor | None,
    scale: Tensor | None,
    alpha: float,
    beta: float,
    epsilon: float,
    activation: int,
    unit_dim: int,
    collect: bool,
    *,
    noise: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """(u, v, neurons): what goes back through W and through |W|, so that x+ W+ + x- W- get alpha, the others beta.

    magnitude: |W| |x|. noise: what counts as rounding, in parts of |W| |x| + |y|; by default that of the dtype. The
    rest is as for `lrp_epsilon_pass`.
    """
    numerator = _numerator(widen(gradient), widen(output), activation)
    linear, absolute, b, factor = _signed_parts(output, magnitude, bias, scale, unit_dim)
    # A half this small is the rounding noise of |W||x| - |Wx|: it is empty, and must not be divided by.
    noise = rounding_noise(gradient.dtype) if noise is None else noise
    floor = noise * (absolute + widen(output).abs())

    def half(z: Tensor) -> Tensor:
        return torch.where(z.abs() <= floor, 0.0, ratio(numerator, z, epsilon))

    activating = alpha * half((absolute + linear) / 2 + b.clamp(min=0))
    inhibiting = beta * half((linear - absolute) / 2 + b.clamp(max=0))
    return (
        narrow((activating - inhibiting) * factor, gradient),
        narrow((activating + inhibiting) * factor.abs(), gradient),
        _collect(numerator, unit_dim, collect),
    )


def lrp_combine(plain: Tensor, absolute: Tensor, input: Tensor, plain_factor: float, absolute_factor: float) -> Tensor:
    """plain_factor * plain + absolute_factor * sign(input) * absolute: c, of what came back through W and |W|."""
    combined = plain_factor * widen(plain) + absolute_factor * sign(widen(input)) * widen(absolute)
    return narrow(combined, plain)
