"""Rules of activations, fused with the layer that they stand on: relevance passes unchanged, c_in = c act(x) / x."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsu_fast.reference.gates import ACTIVATIONS

from .engine import Engine, handles
from .functions import Activation, Identity
from .marks import GATE, WEAK_GATE, Mark


def _activate(engine: Engine, name: str, input: Tensor, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """An activation with a kernel of ours, as part of the layer before it if it stands directly on one."""
    code = ACTIVATIONS[name]
    mark = engine.marks[input]
    with torch.no_grad():
        result = compute(input.detach())
    if mark.call is not None and mark.call.activation == 0 and mark.source is not None:
        return engine.node(mark.source, mark.call._replace(activation=code), input.detach(), result, input)
    result = Activation.apply(input, (result,), code)
    engine.marks[result] = Mark(
        nonnegative=name in ("relu", "relu6") or mark.nonnegative,
        gate=WEAK_GATE if name == "tanh" else 0,
        layer=mark.layer,
        carrier=engine.carrier_through(input),
    )
    return result


@handles("relu")
def _relu(engine: Engine, func: Callable, input: Tensor) -> Tensor:
    mark = engine.marks[input]
    if mark.call is not None:
        return _activate(engine, "relu", input, torch.relu_ if engine.overwrites else torch.relu)
    # Autograd's own backward is the rule.
    in_place = engine.overwrites and type(input.grad_fn).__name__ == "AddBackward0"  # which needs no result
    result = torch.relu_(input) if in_place else torch.relu(input)
    engine.marks[result] = Mark(nonnegative=True, layer=mark.layer, carrier=engine.carrier_through(input))
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


def identity(engine: Engine, input: Tensor, result: Tensor, limit: float | Tensor) -> Tensor:
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
    "hardshrink": 0.0,
    "softshrink": 0.0,
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
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        if engine.depends(low) or engine.depends(high):
            return NotImplemented
        with torch.no_grad():
            result = func(input, *args, **kwargs)
            through_zero = func(torch.zeros_like(input), *args, **kwargs) == 0
        return identity(engine, input, result, through_zero.to(input.dtype))
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
    """(low, high), each a number or a tensor."""
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
