"""Rules of elementwise arithmetic: products, quotients, sums, statistics, and functions that only copy a shape."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .engine import Engine, handles
from .functions import Share
from .marks import GATE, Mark
from .tables import functions_named

_SUBTRACTIONS = frozenset(functions_named("sub", "subtract", "__sub__", "rsub", "__rsub__"))


@handles("mul", "multiply", "__mul__", "__rmul__")
def multiply(engine: Engine, func: Callable, a: Any, b: Any) -> Tensor:
    """A constant factor takes nothing. Of two activations a gate is held constant (signal takes all, Arras et al.
    2019: squeeze-and-excitation, x * sigmoid(x)); two of a kind get half each (AttnLRP, Prop. 3.3)."""
    if engine.depends(a) and engine.depends(b):
        first, second = engine.marks[a], engine.marks[b]
        both = Mark(nonnegative=first.nonnegative and second.nonnegative)
        if first.gate != second.gate:
            a, b = (a.detach(), b) if first.gate > second.gate else (a, b.detach())
        elif first.pending or second.pending:
            both = both._replace(gate=GATE, pending=first.pending or second.pending)
        else:
            a, b = Share.apply(a, 0.5), Share.apply(b, 0.5)
        result = func(a, b)
        engine.marks[result] = both
        return result
    return _rescaled(engine, func, a, b)


def _rescaled(engine: Engine, func: Callable, a: Any, b: Any, **keywords: Any) -> Tensor:
    """An elementwise affine function of the one operand that depends on the input."""
    result = func(engine.frozen(a), engine.frozen(b), **keywords)
    moving, constant = (a, b) if engine.depends(a) else (b, a)
    mark = engine.marks[moving]
    carrier = mark.carrier
    engine.marks[result] = Mark(
        nonnegative=mark.nonnegative
        and not keywords
        and isinstance(constant, int | float)
        and constant >= 0
        and func not in _SUBTRACTIONS,
        gate=mark.gate,
        pending=mark.pending,
        carrier=None if carrier is None else carrier.expand(result.shape),
    )
    return result


@handles("addcmul", "addcdiv")
def _add_product(engine: Engine, func: Callable, input: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    product = engine.call(torch.mul if func.__name__ == "addcmul" else torch.div, a, b)
    return engine.call(torch.add, input, product if value == 1 else engine.call(torch.mul, product, value))


@handles("div", "divide", "true_divide", "__truediv__", "__div__")
def divide(engine: Engine, func: Callable, a: Any, b: Any, *, rounding_mode: str | None = None) -> Tensor:
    """The divisor is a normalisation and is held constant (as in LayerNorm, AttnLRP, Prop. 3.4)."""
    if rounding_mode is not None:
        return NotImplemented
    if not engine.depends(b):
        return _rescaled(engine, func, a, b)
    if not engine.depends(a):
        return _statistic(engine, func, a, b)
    mark = engine.marks[a]
    result = func(a, b.detach())
    engine.marks[result] = Mark(
        nonnegative=mark.nonnegative and engine.marks[b].nonnegative, gate=mark.gate, pending=mark.pending
    )
    return result


@handles("__rtruediv__", "__rdiv__")
def _rdivide(engine: Engine, func: Callable, b: Tensor, a: Any) -> Tensor:
    return _statistic(engine, func, b, a)


_STATISTICS = ("sqrt", "rsqrt", "reciprocal", "norm", "vector_norm", "std", "var", "logsumexp")


@handles(*_STATISTICS)
def _statistic(engine: Engine, func: Callable, *args: Any, **kwargs: Any) -> Tensor:
    """Norms, variances and their like: allowed as divisors and gates, where they are held constant."""
    result = func(*engine.frozen(args), **engine.frozen(kwargs))
    engine.marks[result] = Mark(gate=GATE, pending=func.__name__.strip("_"))
    return result


@handles("add", "__add__", "__radd__", "sub", "subtract", "__sub__", "rsub", "__rsub__")
def _add(engine: Engine, func: Callable, a: Any, b: Any, *, alpha: float = 1) -> Tensor:
    """Autograd's backward is the ratio rule: R_a = a / (a + b) R."""
    keywords = {} if alpha == 1 else {"alpha": alpha}
    if not (engine.depends(a) and engine.depends(b)):
        return _rescaled(engine, func, a, b, **keywords)
    first, second = engine.marks[a], engine.marks[b]
    if engine.follows_patterns:  # w * a of a sum adds up to 1
        a, b = Share.apply(a, 0.5), Share.apply(b, 0.5)
    result = func(a, b, **keywords)
    if bool(first.pending) != bool(second.pending):
        statistic = first.pending or second.pending
        engine.refuse(result, func, f"one argument comes from {statistic}, which only a division or a gate may use")
    engine.marks[result] = Mark(
        nonnegative=first.nonnegative and second.nonnegative and alpha == 1 and func not in _SUBTRACTIONS,
        gate=min(first.gate, second.gate),
        pending=first.pending and second.pending,
    )
    return result


@handles("expand_as", "view_as", "reshape_as")
def _shape_as(engine: Engine, func: Callable, input: Tensor, other: Tensor) -> Tensor:
    """Only the shape of `other` matters: what is known of `input` stays true, whatever `other` is."""
    move = torch.Tensor.expand if func is torch.Tensor.expand_as else torch.Tensor.reshape
    result = engine.call(move, input, other.shape)
    if other is input and func is torch.Tensor.view_as:
        engine.marks[result] = engine.marks[result]._replace(itself=input)
    return result


@handles("type_as")
def _type_as(engine: Engine, func: Callable, input: Tensor, other: Tensor) -> Tensor:
    return engine.call(torch.Tensor.to, input, other.device, other.dtype)


@handles("lerp")
def _lerp(engine: Engine, func: Callable, input: Tensor, end: Tensor, weight: Any) -> Tensor:
    start = engine.call(
        torch.mul, input, engine.call(torch.rsub, weight, 1) if isinstance(weight, Tensor) else 1 - weight
    )
    return engine.call(torch.add, start, engine.call(torch.mul, end, weight))


@handles("grid_sample")
def _grid_sample(engine: Engine, func: Callable, input: Tensor, grid: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Where to look is held constant: what is seen takes all."""
    if not (engine.depends(grid) and engine.depends(input)):
        return NotImplemented
    return engine.call(func, input, grid.detach(), *args, **kwargs)
