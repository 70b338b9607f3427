"""Rules of norms: 1/sigma is held constant; BatchNorm in eval mode is folded into the layer before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsu_fast.ops.lrp import derived

from .engine import Engine, handles
from .functions import Norm, Scale
from .linear_handlers import autocast_dtype
from .patterns import PatternRule, pattern_scale


@handles("layer_norm")
def _layer_norm(
    engine: Engine,
    func: Callable,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    shape = tuple(normalized_shape)
    with torch.no_grad():
        if autocast_dtype(input) is None:
            output, _, rstd = torch.native_layer_norm(input, shape, weight, bias, eps)
        else:  # autocast has its say on the function that the model calls
            output = F.layer_norm(input, shape, weight, bias, eps)
            rstd = _rstd(input.flatten(input.dim() - len(shape)), eps)
    return _normalize(input, output, rstd, weight, shape, centred=True)


@handles("rms_norm")
def _rms_norm(
    engine: Engine,
    func: Callable,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    shape = tuple(normalized_shape)
    with torch.no_grad():
        output = F.rms_norm(input, shape, weight, eps)
        eps = torch.finfo(input.dtype).eps if eps is None else eps
        rstd = _widened(input.flatten(input.dim() - len(shape))).square().mean(-1).add(eps).rsqrt()
    return _normalize(input, output, rstd, weight, shape, centred=False)


@handles("group_norm")
def _group_norm(
    engine: Engine,
    func: Callable,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    with torch.no_grad():
        output = F.group_norm(input, num_groups, weight, bias, eps)
        rstd = _rstd(input.reshape(input.shape[0] * num_groups, -1), eps)
    return _normalize_groups(input, output, rstd, weight)


@handles("instance_norm")
def _instance_norm(
    engine: Engine,
    func: Callable,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Tensor:
    if not use_input_stats:
        return _batch_norm(engine, func, input, running_mean, running_var, weight, bias, False, momentum, eps)
    if running_mean is not None:
        raise ValueError("model: an InstanceNorm would update its running statistics; call model.eval() first")
    with torch.no_grad():
        output = F.instance_norm(input, None, None, weight, bias, True, momentum, eps)
        rstd = _rstd(input.reshape(input.shape[0] * input.shape[1], -1), eps)
    return _normalize_groups(input, output, rstd, weight)


def _widened(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _rstd(rows: Tensor, eps: float) -> Tensor:
    return _widened(rows).var(-1, correction=0).add(eps).rsqrt()


def _normalize(
    input: Tensor, output: Tensor, rstd: Tensor, weight: Tensor | None, shape: tuple[int, ...], centred: bool
) -> Tensor:
    rows = input.numel() // max(math.prod(shape), 1)
    return Norm.apply(input, (output, rstd), None if weight is None else weight.detach(), (rows, *shape), centred)


def _normalize_groups(input: Tensor, output: Tensor, rstd: Tensor, weight: Tensor | None) -> Tensor:
    shape = (rstd.numel(), input.numel() // max(rstd.numel(), 1))
    result = Norm.apply(input, (output, rstd), None, shape, True)
    if weight is None:
        return result
    # The weight belongs to channels, the rows to groups: its factor is a node of its own, behind the rows'.
    return Scale.apply(result, (output,), weight.detach())


@handles("batch_norm")
def _batch_norm(engine: Engine, func: Callable, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Eval mode: an affine function per unit, folded into the layer before it (their weights are one for the rule)."""
    names = (
        ("running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        if func is not torch.batch_norm
        else ("weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
    )
    given: dict[str, Any] = {"weight": None, "bias": None, "training": False, "eps": 1e-5, "momentum": 0.1}
    given |= dict(zip(names, args, strict=False)) | kwargs
    mean, variance, weight, bias, eps = (given[k] for k in ("running_mean", "running_var", "weight", "bias", "eps"))
    if given["training"] or mean is None or variance is None:
        raise ValueError("model: a BatchNorm uses the statistics of the batch; call model.eval() (tracked statistics)")
    with torch.no_grad():
        output = F.batch_norm(input, mean, variance, weight, bias, False, given["momentum"], eps)
    scale = _batch_norm_scale(weight, variance, eps)
    mark = engine.marks[input]
    call = mark.call
    if call is None or call.activation != 0 or mark.source is None or input.shape[1] != scale.numel():
        return _scaled(engine, input, output, scale)
    if call.unit_dim(output) != 1:
        return _scaled(engine, input, output, scale)
    shift = _batch_norm_shift(mean, scale, bias, call.bias).to(call.weight.dtype)
    if call.scale is not None:
        with torch.no_grad():
            scale = scale * call.scale
    return engine.node(mark.source, replace(call, scale=scale, bias=shift), output, output)


def _scaled(engine: Engine, input: Tensor, output: Tensor, scale: Tensor) -> Tensor:
    """A BatchNorm that no layer takes in."""
    rule = engine.composite.linear
    return Scale.apply(input, (output,), pattern_scale(rule, scale) if isinstance(rule, PatternRule) else scale)


def _batch_norm_scale(weight: Tensor | None, variance: Tensor, eps: float) -> Tensor:
    """weight / sqrt(variance + eps), remembered, so that weights folded with it are found again too."""
    if weight is None:
        return derived(("batch_norm", eps), (variance,), lambda v: torch.rsqrt(v + eps))
    return derived(("batch_norm", eps), (variance, weight), lambda v, w: w * torch.rsqrt(v + eps))


def _batch_norm_shift(mean: Tensor, scale: Tensor, bias: Tensor | None, layer_bias: Tensor | None) -> Tensor:
    """(layer_bias - mean) scale + bias, remembered like the scale."""
    given = {"mean": mean, "scale": scale, "bias": bias, "layer_bias": layer_bias}
    sources = {name: tensor for name, tensor in given.items() if tensor is not None}

    def shift(*tensors: Tensor) -> Tensor:
        by_name = dict(zip(sources, tensors, strict=True))
        return (by_name.get("layer_bias", 0) - by_name["mean"]) * by_name["scale"] + by_name.get("bias", 0)

    return derived(("batch_norm_shift", *sources), tuple(sources.values()), shift)


@handles("normalize")
def _normalize_vectors(
    engine: Engine, func: Callable, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    """x / |x| with the norm held constant."""
    with torch.no_grad():
        norm = torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps)
    return engine.call(torch.div, input, norm)


@handles("local_response_norm")
def _local_response_norm(
    engine: Engine, func: Callable, input: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """x over a power of the mean square of its neighbouring channels, which is held constant."""
    with torch.no_grad():
        squares = input.square().movedim(1, -1)
        mean = F.avg_pool1d(F.pad(squares.flatten(1, -2), (size // 2, (size - 1) // 2)), size, 1)
        divisor = mean.view(squares.shape).movedim(-1, 1).mul(alpha).add(k).pow(beta)
    return engine.call(torch.div, input, divisor)
