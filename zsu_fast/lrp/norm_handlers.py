"""Rules of norms: 1/sigma is held constant; BatchNorm in eval mode is folded into the layer before it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from zsu_fast.ops.lrp import derived

from .engine import HANDLERS, Engine, handles
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
def _batch_norm(
    engine: Engine,
    func: Callable,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Eval mode: an affine function per unit, folded into the layer before it (their weights are one for the rule)."""
    if training or running_mean is None or running_var is None:
        raise ValueError("model: a BatchNorm uses the statistics of the batch; call model.eval() (tracked statistics)")
    with torch.no_grad():
        output = F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    call, source = engine.marks[input].call, engine.marks[input].source
    if call is not None and (call.activation != 0 or call.unit_dim(output) != 1):
        call = None  # no layer takes it in
    layer_bias = None if call is None else call.bias
    scale, shift = _batch_norm_affine(running_mean, running_var, weight, bias, eps, layer_bias)
    if call is None or source is None:
        rule = engine.composite.linear
        return Scale.apply(input, (output,), pattern_scale(rule, scale) if isinstance(rule, PatternRule) else scale)
    if call.scale is not None:
        with torch.no_grad():
            scale = scale * call.scale
    return engine.node(source, call._replace(scale=scale, bias=shift.to(call.weight.dtype)), output, output, input)


def _batch_norm_of_torch(
    engine: Engine,
    func: Callable,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    """`torch.batch_norm` has its arguments in another order than the function of `torch.nn`."""
    return _batch_norm(engine, func, input, running_mean, running_var, weight, bias, training, momentum, eps)


HANDLERS[torch.batch_norm] = _batch_norm_of_torch


def _batch_norm_affine(
    mean: Tensor,
    variance: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    layer_bias: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """scale = weight / sqrt(variance + eps) and shift = (layer_bias - mean) scale + bias. Remembered, so that weights
    that were folded with them are found again too."""
    optional = {"weight": weight, "bias": bias, "layer_bias": layer_bias}
    given = {name: tensor for name, tensor in optional.items() if tensor is not None}

    def affine(mean: Tensor, variance: Tensor, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        by_name = dict(zip(given, tensors, strict=True))
        scale = by_name.get("weight", 1) * torch.rsqrt(variance + eps)
        return scale, (by_name.get("layer_bias", 0) - mean) * scale + by_name.get("bias", 0)

    return derived(("batch_norm", eps, *given), (mean, variance, *given.values()), affine)


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
