"""Rules that take relevance in and give relevance out: inputs that are zero get some, where c = R / x says nothing."""

import torch
from torch import Tensor

from zsu_fast.ops.lrp import LinearMap
from zsu_fast.reference.layout import accumulate_dtype, per_unit

from .rules import Flat, InputRule, Pass, WSquare, ZBox


def input_relevance(
    rule: InputRule,
    map: LinearMap,
    relevance: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor,
    scale: Tensor | None,
) -> Tensor:
    """Relevance of `input` from the relevance of the layer's output y = scale * map(x, weight) + bias.

    Args:
        bias: [units] or None; a folded BatchNorm's shift is in it.
        output: y.
        scale: [units] or None: factor of a folded BatchNorm.
    """
    match rule:
        case Flat():
            return _flat(map, relevance, input, weight)
        case WSquare():
            return _wsquare(map, relevance, input, weight, bias if rule.bias else None, scale)
        case ZBox():
            return _zbox(rule, map, relevance, input, weight, bias, output, scale)
        case Pass():
            if relevance.shape != input.shape:
                raise ValueError(
                    "composite: Pass() needs a layer that keeps the shape, but one makes "
                    f"{tuple(relevance.shape)} of {tuple(input.shape)}"
                )
            return relevance.to(input.dtype)
        case _:
            raise TypeError(f"no such input rule: {rule!r}")


def _flat(map: LinearMap, relevance: Tensor, input: Tensor, weight: Tensor) -> Tensor:
    """R_in = 1^T (R / (1 1)), where taps that fall on padding are not connected (Lapuschkin et al. 2019).

    Every input channel of a group gets the same, so a convolution of one channel per group does.
    """
    if map.kind == "linear":
        return (relevance.sum(-1, keepdim=True) / input.shape[-1]).expand_as(input).to(input.dtype)
    groups = map.groups
    ones = weight.new_ones((groups, 1, *weight.shape[2:]))
    spatial = input.shape[2:]
    channels = input.shape[1] // groups
    connected = channels * map.forward(weight.new_ones((1, groups, *spatial)), ones)
    per_group = relevance.unflatten(1, (groups, -1)).sum(2)
    share = torch.where(connected > 0, per_group / connected, 0.0).to(weight.dtype)
    spread = map.transpose(share, ones, (len(input), groups, *spatial))
    return spread.repeat_interleave(channels, 1).to(input.dtype)


def _wsquare(
    map: LinearMap, relevance: Tensor, input: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor | None
) -> Tensor:
    """R_in = (W^2)^T (R / (W^2 1 + b^2)), where taps that fall on padding are not connected."""
    unit_dim = relevance.dim() - 1 if map.kind == "linear" else 1
    squares = (weight if scale is None else map.fold(weight, scale)).to(accumulate_dtype(weight.dtype)).square()
    ones = squares.new_ones(input.shape[-1:] if map.kind == "linear" else (1, *input.shape[1:]))
    z = map.forward(ones, squares)
    z = z if bias is None else z + per_unit(bias, unit_dim, relevance).square()
    s = torch.where(z > 0, relevance / z, 0.0)
    return map.transpose(s.to(squares.dtype), squares, input.shape).to(input.dtype)


def _zbox(
    rule: ZBox,
    map: LinearMap,
    relevance: Tensor,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    output: Tensor,
    scale: Tensor | None,
) -> Tensor:
    """With m = (low + high) / 2, d = (high - low) / 2: z = W (x - m) + |W| d, R_in = (x - m) W^T s + d |W|^T s.

    The bias has no share: it would count as b - b+ - b- = 0.
    """
    linear = map.kind == "linear"
    if bias is not None:
        output = output - per_unit(bias, output.dim() - 1 if linear else 1, output).to(output.dtype)
    if scale is not None:
        weight = map.fold(weight, scale)
    low, high = rule.bounds(input, -1 if linear else 1)
    middle, half = (low + high) / 2, (high - low) / 2
    magnitude = weight.abs()
    # One sample is enough: the bounds are the same for all. Full size, because padding is not connected.
    one = input[:1]
    offset = map.forward(half.expand_as(one), magnitude) - map.forward(middle.expand_as(one), weight)
    z = output + offset
    s = relevance / (z + torch.where(z >= 0, rule.epsilon, -rule.epsilon))
    s = torch.where(z == 0, 0.0, s) if rule.epsilon == 0 else s
    through_weight = map.transpose(s.to(weight.dtype), weight, input.shape)
    through_magnitude = map.transpose(s.to(weight.dtype), magnitude, input.shape)
    return (input - middle) * through_weight + half * through_magnitude
