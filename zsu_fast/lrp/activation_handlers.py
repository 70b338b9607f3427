"""Rules of activations and norms, fused with the layer that they stand on. Importing registers them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsu_fast.ops.lrp import derived
from zsu_fast.reference.gates import ACTIVATIONS

from .engine import Engine, handles
from .functions import Activation, Identity, Norm, Scale
from .linear_handlers import autocast_dtype
from .marks import GATE, WEAK_GATE, Mark

# -------------------------------------------------------------------------------------------- activations


def _activate(engine: Engine, name: str, input: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """An activation with a kernel of ours, as part of the layer before it if it stands directly on one."""
    code = ACTIVATIONS[name]
    mark = engine.marks[input]
    with torch.no_grad():
        result = compute(input)
    if mark.call is not None and mark.call.activation == 0 and mark.source is not None:
        return engine.node(mark.source, replace(mark.call, activation=code), input.detach(), result)
    result = Activation.apply(input, (result,), code)
    engine.marks[result] = Mark(
        nonnegative=name in ("relu", "relu6") or mark.nonnegative,
        gate=WEAK_GATE if name == "tanh" else 0,
        layer=mark.layer,
    )
    return result


@handles("relu")
def _relu(engine: Engine, func: Callable, input: Tensor) -> Tensor:
    mark = engine.marks[input]
    if mark.call is not None:
        return _activate(engine, "relu", input, torch.relu)
    result = torch.relu(input)  # autograd's own backward is the rule
    engine.marks[result] = Mark(nonnegative=True, layer=mark.layer)
    return result


def _without_inplace(handler: Callable) -> Callable:
    """F.relu and the like take `inplace`, which the engine has dealt with by the time a handler runs."""

    def wrapped(engine: Engine, func: Callable, input: Tensor, inplace: bool = False) -> Tensor:
        return handler(engine, func, input)

    return wrapped


for _name, _function in (
    ("relu6", F.relu6),
    ("silu", F.silu),
    ("hardswish", F.hardswish),
    ("tanh", torch.tanh),
):

    def _plain(
        engine: Engine, func: Callable, input: Tensor, *, _name: str = _name, _f: Callable = _function
    ) -> Tensor:
        return _activate(engine, _name, input, _f)

    handles(_name)(_without_inplace(_plain))
handles("relu")(_without_inplace(_relu))


@handles("gelu")
def _gelu(engine: Engine, func: Callable, input: Tensor, *, approximate: str = "none") -> Tensor:
    name = "gelu" if approximate == "none" else "gelu_tanh"
    return _activate(engine, name, input, lambda x: F.gelu(x, approximate=approximate))


def identity(engine: Engine, input: Tensor, result: Tensor, limit: float) -> Tensor:
    """An elementwise f with f(x) = `result` under the identity rule R_in = R_out; `limit` of f(x) / x at x = 0."""
    with torch.no_grad():
        factor = torch.where(input == 0, limit, result / input)
    return Identity.apply(input, (result,), (factor,))


_LIMITS = {
    "elu": 1.0,
    "selu": 1.0507009873554805,
    "celu": 1.0,
    "mish": 0.6,
    "softsign": 1.0,
    "tanhshrink": 0.0,
    "sin": 1.0,
}


@handles(*_LIMITS)
def _elementwise(engine: Engine, func: Callable, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    with torch.no_grad():
        result = func(input, *args, **kwargs)
    return identity(engine, input, result, _LIMITS[func.__name__])


@handles("clamp", "clip", "clamp_min", "clamp_max", "hardtanh")
def _clamp(engine: Engine, func: Callable, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    mark = engine.marks[input]
    low, high = _clamp_bounds(func, *args, **kwargs)
    if mark.pending:  # a norm that is kept from being zero
        result = func(input, *engine.frozen(args), **engine.frozen(kwargs))
        engine.marks[result] = mark
        return result
    if low is NotImplemented:
        return NotImplemented
    if low == 0 and high in (6, math.inf):
        name = "relu" if high == math.inf else "relu6"
        if name == "relu":
            return _relu(engine, func, input)
        return _activate(engine, name, input, lambda x: x.clamp(0, 6))
    with torch.no_grad():
        result = input.clamp(low, high)
    result = identity(engine, input, result, 1.0 if low <= 0 <= high else 0.0)
    engine.marks[result] = Mark(nonnegative=low >= 0 or (mark.nonnegative and high >= 0))
    return result


def _clamp_bounds(func: Callable, *args: Any, **kwargs: Any) -> tuple[Any, Any]:
    """(low, high) as numbers; NotImplemented twice if they are tensors."""
    if func is F.hardtanh:
        args, kwargs = args[:2], {k: v for k, v in kwargs.items() if k in ("min_val", "max_val")}
        low, high = args[0] if args else kwargs.get("min_val", -1.0), kwargs.get("max_val", 1.0)
        high = args[1] if len(args) > 1 else high
    elif func.__name__ == "clamp_min":
        low, high = (*args, *kwargs.values())[0], None
    elif func.__name__ == "clamp_max":
        low, high = None, (*args, *kwargs.values())[0]
    else:
        low = args[0] if args else kwargs.get("min")
        high = args[1] if len(args) > 1 else kwargs.get("max")
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return NotImplemented, NotImplemented
    return (-math.inf if low is None else low), (math.inf if high is None else high)


@handles("pow", "__pow__", "square")
def _power(engine: Engine, func: Callable, input: Any, exponent: Any = 2) -> Tensor:
    """x^n is a product of n factors: each gets 1/n of the relevance, all of it in sum (n >= 1)."""
    if not isinstance(exponent, int | float) or not isinstance(input, Tensor):
        return NotImplemented
    with torch.no_grad():
        result = input**exponent
    if exponent >= 1:
        factor = torch.ones_like(input) if exponent == 1 else input.detach() ** (exponent - 1)
        result = Identity.apply(input, (result,), (factor,))
        engine.marks[result] = Mark(nonnegative=exponent % 2 == 0 or engine.marks[input].nonnegative)
        return result
    result = input**exponent
    engine.marks[result] = Mark(gate=GATE, pending=f"power {exponent}")
    return result


@handles("abs", "absolute", "__abs__")
def _abs(engine: Engine, func: Callable, input: Tensor) -> Tensor:
    result = torch.abs(input)  # |x| = sign(x) x: the ordinary backward is the identity rule
    engine.marks[result] = Mark(nonnegative=True)
    return result


@handles("erf")
def _erf(engine: Engine, func: Callable, input: Tensor) -> Tensor:
    """The gate of a GELU written out, x (1 + erf(x / sqrt 2)) / 2."""
    result = torch.erf(input)
    engine.marks[result] = Mark(gate=GATE, pending="erf")
    return result


@handles("glu")
def _glu(engine: Engine, func: Callable, input: Tensor, dim: int = -1) -> Tensor:
    signal, gate = engine.call(torch.chunk, input, 2, dim)
    return engine.call(torch.mul, signal, engine.call(torch.sigmoid, gate))


@handles("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_dropout", "feature_alpha_dropout")
def _dropout(
    engine: Engine,
    func: Callable,
    input: Tensor,
    p: float = 0.5,
    training: bool | None = None,
    inplace: bool = False,
    **kw: Any,
) -> Tensor:
    training = kw.get("train", training)
    if (True if training is None else training) and p > 0:
        raise ValueError("model: dropout is active; call model.eval() first")
    return input


# -------------------------------------------------------------------------------------------------- norms


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
        return Scale.apply(input, (output,), scale)
    if call.unit_dim(output) != 1:
        return Scale.apply(input, (output,), scale)
    with torch.no_grad():
        shift = -mean * scale if call.bias is None else (call.bias - mean) * scale
        shift = shift if bias is None else shift + bias
        scale = scale if call.scale is None else scale * call.scale
    folded = replace(call, scale=scale, bias=shift.to(call.weight.dtype))
    return engine.node(mark.source, folded, output, output)


def _batch_norm_scale(weight: Tensor | None, variance: Tensor, eps: float) -> Tensor:
    """weight / sqrt(variance + eps), remembered, so that weights folded with it are found again too."""
    if weight is None:
        return derived(("batch_norm", eps), (variance,), lambda v: torch.rsqrt(v + eps))
    return derived(("batch_norm", eps), (variance, weight), lambda v, w: w * torch.rsqrt(v + eps))


@handles("normalize")
def _normalize_vectors(
    engine: Engine, func: Callable, input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: None = None
) -> Tensor:
    """x / |x| with the norm held constant."""
    with torch.no_grad():
        norm = torch.linalg.vector_norm(input, p, dim, keepdim=True).clamp_min(eps)
    return engine.call(torch.div, input, norm)
