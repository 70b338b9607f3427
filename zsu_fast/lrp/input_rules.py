"""Rules of the layer that is fed by the input: relevance in, relevance out.

They give relevance to inputs that are zero, where c = R / x says nothing; so R leaves the layer as it is.
"""

import torch
from torch import Tensor

from zsu_fast.ops.lrp import LinearMap

from .rules import Flat, InputRule, Pass, ZBox


def input_relevance(
    rule: InputRule,
    map: LinearMap,
    relevance: Tensor,
    input: Tensor,
    weight: Tensor,
    linear_output: Tensor,
    scale: Tensor | None,
) -> Tensor:
    """Relevance of `input` from the relevance of the layer's output.

    Args:
        linear_output: The layer's output without its bias, folded BatchNorm's shift included: scale * map(x).
        scale: [units] or None: factor of a folded BatchNorm.

    `linear_output` and `scale` are used by ZBox alone.
    """
    match rule:
        case Flat():
            return _flat(map, relevance, input, weight)
        case ZBox():
            return _zbox(rule, map, relevance, input, weight, linear_output, scale)
        case Pass():
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


def _zbox(
    rule: ZBox, map: LinearMap, relevance: Tensor, input: Tensor, weight: Tensor, output: Tensor, scale: Tensor | None
) -> Tensor:
    """With m = (low + high) / 2, d = (high - low) / 2: z = W (x - m) + |W| d, R_in = (x - m) W^T s + d |W|^T s."""
    if scale is not None:
        weight = map.fold(weight, scale)
    low, high = rule.bounds(input, -1 if map.kind == "linear" else 1)
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
