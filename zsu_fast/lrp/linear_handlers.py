"""Rules of linear layers, convolutions, products, sums and quotients. Importing registers them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from zsu_fast.ops.lrp import LinearMap

from .engine import Engine, handles
from .functions import LayerCall, Share
from .marks import GATE, Mark
from .tables import functions_named

_SUBTRACTIONS = frozenset(functions_named("sub", "subtract", "__sub__", "rsub", "__rsub__"))

# --------------------------------------------------------------------------------------------- linear layers


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype that autocast, if it is on, gives to GEMMs on the device of `tensor`."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _cast(dtype: torch.dtype | None, *tensors: Tensor | None) -> list[Tensor | None]:
    """What autocast would do inside the kernel, done before it, so that the rule sees the operands that were used."""
    if dtype is None:
        return list(tensors)
    eligible = (torch.float32, torch.float16, torch.bfloat16)
    return [t.to(dtype) if t is not None and t.dtype in eligible else t for t in tensors]


def layer(
    engine: Engine,
    func: Callable[..., Tensor],
    map: LinearMap,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> Tensor:
    """A linear layer or convolution: `func(input, weight, bias)` computes it, the composite says its rule."""
    if any(engine.depends(t) for t in (weight, bias)):
        engine.refuse(func, "its weight or bias depends on the input")
    owner = weight
    input, weight, bias = _cast(autocast_dtype(input), input, weight, bias)
    with torch.no_grad():
        output = func(input, weight, bias)
    kind = "linear" if map.kind == "linear" else "convolution"
    units = output.shape[-1 if kind == "linear" else 1]
    unit = engine.names.unit(owner, units, kind)
    rule = engine.composite.rule(unit.name, kind, first=engine.layers_run == 0)
    engine.layers_run += 1
    engine.collector.register(unit)
    call = LayerCall(
        map=map,
        rule=rule,
        weight=weight.detach() if not weight.is_leaf else weight,
        bias=None if bias is None else bias.detach(),
        unit=unit,
        collector=engine.collector,
        nonnegative_input=engine.marks[input].nonnegative,
    )
    return engine.node(input, call, output, output)


@handles("linear")
def _linear(engine: Engine, func: Callable, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if engine.depends(weight) and bias is None:
        return engine.call(torch.matmul, input, engine.call(torch.Tensor.t, weight))
    if input.dim() == 1:
        return engine.call(
            torch.squeeze, _linear(engine, func, engine.call(torch.unsqueeze, input, 0), weight, bias), 0
        )
    return layer(engine, func, LinearMap(), input, weight, bias)


def _convolution(
    engine: Engine, func: Callable, input: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple, map: LinearMap
) -> Tensor:
    def run(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return func(x, w, b, *geometry)

    if input.dim() == weight.dim():
        return layer(engine, run, map, input, weight, bias)
    batch = engine.call(torch.unsqueeze, input, 0)
    return engine.call(torch.squeeze, layer(engine, run, map, batch, weight, bias), 0)


@handles("conv1d", "conv2d", "conv3d")
def _conv(
    engine: Engine,
    func: Callable,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Tensor:
    map = LinearMap.conv(weight.shape[2:], stride, padding, dilation, groups)
    return _convolution(engine, func, input, weight, bias, (stride, padding, dilation, groups), map)


@handles("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
def _conv_transpose(
    engine: Engine,
    func: Callable,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> Tensor:
    map = LinearMap.conv(weight.shape[2:], stride, padding, dilation, groups, True, output_padding)
    geometry = (stride, padding, output_padding, groups, dilation)
    return _convolution(engine, func, input, weight, bias, geometry, map)


# ------------------------------------------------------------------------------------------------- products


def _is_weight(engine: Engine, value: Tensor) -> bool:
    return value.dim() == 2 and engine.names.owner(value) is not None


@handles("matmul", "__matmul__", "mm", "bmm", "mv")
def matmul(engine: Engine, func: Callable, a: Tensor, b: Tensor) -> Tensor:
    """A layer if one operand is a parameter; of two activations each gets half (AttnLRP, Prop. 3.3)."""
    if engine.depends(a) and engine.depends(b):
        if engine.composite.attention == "cp_lrp" and engine.marks[a].gate == GATE:
            return func(a.detach(), b)
        return func(Share.apply(a, 0.5), Share.apply(b, 0.5))
    if engine.depends(a) and _is_weight(engine, b) and a.dim() > 1:
        return layer(engine, lambda x, w, _: func(x, w.t()), LinearMap(), a, b.detach().t(), None)
    if engine.depends(b) and _is_weight(engine, a) and b.dim() > 1:
        rows = engine.call(torch.transpose, b, -1, -2)
        product = layer(engine, lambda x, w, _: func(w, x.mT).mT, LinearMap(), rows, a, None)
        return engine.call(torch.transpose, product, -1, -2)
    return func(engine.frozen(a), engine.frozen(b))  # a constant matrix: the ordinary gradient is LRP-0


@handles("__rmatmul__")
def _rmatmul(engine: Engine, func: Callable, b: Tensor, a: Tensor) -> Tensor:
    return engine.call(torch.matmul, a, b)


@handles("addmm", "baddbmm")
def _addmm(
    engine: Engine, func: Callable, input: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    plain = (alpha, beta) == (1, 1) and input.dim() == 1 and not engine.depends(input)
    if plain and engine.depends(a) and not engine.depends(b) and _is_weight(engine, b):
        return layer(engine, lambda x, w, c: func(c, x, w.t()), LinearMap(), a, b.detach().t(), input)
    result = engine.call(torch.matmul, a, b)
    result = result if alpha == 1 else engine.call(torch.mul, result, alpha)
    input = input if beta == 1 else engine.call(torch.mul, input, beta)
    return result if beta == 0 else engine.call(torch.add, input, result)


@handles("einsum")
def _einsum(engine: Engine, func: Callable, equation: str, *operands: Any) -> Tensor:
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    share = 1 / sum(engine.depends(t) for t in tensors)
    shared = [Share.apply(t, share) if engine.depends(t) and share < 1 else engine.frozen(t) for t in tensors]
    return func(equation, *shared)


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
            both = replace(both, gate=GATE, pending=first.pending or second.pending)
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
        and isinstance(constant, int | float)
        and constant >= 0
        and func not in _SUBTRACTIONS,
        gate=mark.gate,
        pending=mark.pending,
        carrier=None if carrier is None else carrier.expand(result.shape),
    )
    return result


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
    result = func(a, b, **keywords)
    if bool(first.pending) != bool(second.pending):
        statistic = first.pending or second.pending
        engine.refuse(func, f"one argument comes from {statistic}, which only a division or a gate may use")
    engine.marks[result] = Mark(
        nonnegative=first.nonnegative and second.nonnegative and alpha == 1 and func not in _SUBTRACTIONS,
        gate=min(first.gate, second.gate),
        pending=first.pending and second.pending,
    )
    return result
