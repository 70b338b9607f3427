"""Linear layers and convolutions in all their spellings, and products of matrices."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zsu_fast.ops.lrp import LinearMap

from .collector import Unit
from .composites import Kind
from .distributed import move_hooks
from .engine import Engine, handles
from .functions import LayerCall, Share


def autocast_dtype(tensor: Tensor) -> torch.dtype | None:
    """The dtype that autocast, if it is on, gives to GEMMs on the device of `tensor`."""
    device = tensor.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _cast(engine: Engine, input: Tensor, *others: Tensor | None) -> list[Any]:
    """What autocast would do inside the kernel, done before it, so that the rule sees the operands that were used."""
    if autocast_dtype(input) is None:
        return [input, *others]
    result: list[Any] = []
    for tensor in (input, *others):
        dtype = None if tensor is None or tensor.dtype == torch.float64 else autocast_dtype(tensor)
        if tensor is not None and dtype is not None and dtype != tensor.dtype:
            tensor = engine.call(torch.Tensor.to, tensor, dtype)
        result.append(tensor)
    return result


def layer(
    engine: Engine,
    func: Callable[..., Tensor],
    map: LinearMap,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    owner: Tensor | None = None,
    kind: Kind | None = None,
    unit: Unit | None = None,
) -> Tensor:
    """A linear layer or convolution: `func(input, weight, bias)` computes it, the composite says its rule.

    `owner` gives the layer its name where `weight` is a copy, `kind` says what it is to the composite, if it is not
    what `map` is. `unit` says what its units are, if that is more than `owner` tells.
    """
    moving = engine.depends(weight) or engine.depends(bias)
    owner = weight if owner is None else owner
    input, weight, bias = _cast(engine, input, weight, bias)
    with torch.no_grad():
        output = func(input, weight, bias)
    if kind is None:
        kind = "linear" if map.kind == "linear" else "convolution"
    units = output.shape[-1 if map.kind == "linear" else 1]
    unit = unit or _of_stack(engine, owner, units) or engine.names.unit(owner, units, kind)
    engine.collector.register(unit)
    engine.collector.note_layout(unit, output.shape)
    call = LayerCall(
        map=map,
        choice=engine.choose(unit.name, kind),
        weight=weight.detach() if not weight.is_leaf else weight,
        bias=bias.detach() if bias is not None and not bias.is_leaf else bias,
        unit=unit,
        collector=engine.collector,
        nonnegative_input=engine.marks[input].nonnegative,
        carries=engine.carries,
        rows=engine.marks[input].rows,
    )
    result = engine.node(input, call, output, output)
    if moving:
        engine.refuse(result, func, "its weight or bias depends on the input")
    return result


def _of_stack(engine: Engine, weight: Tensor, units: int) -> Unit | None:
    """The units of a layer whose weight is one of a stack of them, a parameter [layers, ...], as experts have it."""
    owner = engine.names.owner(weight)
    if owner is None or owner is weight or owner.dim() != 3 or weight.dim() != 2:
        return None
    number, rest = divmod(int(weight.storage_offset()) - int(owner.storage_offset()), owner.stride(0))
    own, others = (sorted(zip(t.stride()[-2:], t.shape[-2:], strict=True)) for t in (weight, owner))
    if rest or not 0 <= number < len(owner) or own != others:  # transposed, it is the same one
        return None
    return Unit(engine.names.of(owner) or "", units, number * units, len(owner) * units)


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
    geometry = (stride, padding, dilation, groups)
    padded, source = engine.marks[input].padded, engine.marks[input].source
    wider = None if padded is None or input.dim() != weight.dim() else _with_padding(map, padded)
    if wider is None or padded is None or source is None:
        return _convolution(engine, func, input, weight, bias, geometry, map)

    def run(x: Tensor, w: Tensor, b: Tensor | None) -> Tensor:
        return func(F.pad(x, padded), w, b, *geometry)

    move_hooks(input, source)
    return layer(engine, run, wider, source, weight, bias)


def _with_padding(map: LinearMap, pad: tuple[int, ...]) -> LinearMap | None:
    """The convolution of what F.pad has padded, as one of the unpadded input: taps on padding are then known as such.

    `pad` counts zeros before and after each dimension, last dimension first. None if no such map exists.
    """
    rank = len(map.stride)
    before, after = pad[0::2][::-1], pad[1::2][::-1]
    before, after = ((0,) * (rank - len(side)) + side for side in (before, after))
    if len(before) > rank or any(b > a for b, a in zip(before, after, strict=True)):
        return None
    padding = tuple(p + b for p, b in zip(map.padding, before, strict=True))
    ends = map.end_padding or (0,) * rank
    end_padding = tuple(e + a - b for e, a, b in zip(ends, after, before, strict=True))
    return replace(map, padding=padding, end_padding=end_padding)


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


def _is_weight(engine: Engine, value: Tensor) -> bool:
    return value.dim() == 2 and engine.names.owner(value) is not None


def _itself(engine: Engine, value: Tensor) -> Tensor | None:
    """`value` if it is a parameter, not some of one: its name then needs no look at the memory."""
    return value if engine.names.owner(value) is value else None


def _factors(engine: Engine, *factors: Tensor) -> list[Any]:
    """The factors of a product of matrices: each activation gets the same share; with CP-LRP, gates get none."""
    moving = [engine.depends(t) for t in factors]
    if engine.composite.attention == "cp_lrp":
        weakest = min(engine.marks[t].gate for t, m in zip(factors, moving, strict=True) if m)
        moving = [m and engine.marks[t].gate == weakest for t, m in zip(factors, moving, strict=True)]
    share = 1 / sum(moving)
    return [
        (Share.apply(t, share) if share < 1 else t) if m else t.detach() for t, m in zip(factors, moving, strict=True)
    ]


@handles("matmul", "__matmul__", "mm", "bmm", "mv")
def matmul(engine: Engine, func: Callable, a: Tensor, b: Tensor) -> Tensor:
    """A layer if one operand is a parameter; of two activations each gets half (AttnLRP, Prop. 3.3)."""
    if engine.depends(a) and engine.depends(b):
        return func(*_factors(engine, a, b))
    if engine.depends(a) and _is_weight(engine, b) and a.dim() > 1:
        return layer(engine, lambda x, w, _: func(x, w.t()), LinearMap(), a, b.detach().t(), None, _itself(engine, b))
    if engine.depends(b) and _is_weight(engine, a) and b.dim() > 1:
        rows = engine.call(torch.transpose, b, -1, -2)
        product = layer(engine, lambda x, w, _: func(w, x.mT).mT, LinearMap(), rows, a, None)
        return engine.call(torch.transpose, product, -1, -2)
    groups = b.shape[0] if engine.depends(a) and b.dim() == 3 and engine.names.owner(b) is not None else 0
    if groups and a.dim() > 2 and a.shape[-3] == groups:
        product = _grouped(engine, engine.call(torch.movedim, a, -3, -2), b.detach().mT, b)
        return engine.call(torch.movedim, product, -2, -3)
    constant = a if engine.depends(b) else b
    result = func(engine.frozen(a), engine.frozen(b))  # a constant matrix: the ordinary gradient is LRP-0
    if engine.names.owner(constant) is not None and constant.dim() > 2:
        engine.refuse(result, func, "a weight with batch dimensions is no layer that a rule knows")
    return result


def _grouped(engine: Engine, input: Tensor, weight: Tensor, owner: Tensor) -> Tensor:
    """[..., groups, inputs] by [groups, units, inputs]: a linear layer for each group, as a grouped convolution."""
    groups, units, inputs = weight.shape

    def run(rows: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv1d(rows, kernel, bias, groups=groups)

    rows = engine.call(torch.reshape, input, (-1, groups * inputs, 1))
    kernel = weight.reshape(groups * units, inputs, 1)
    map = LinearMap.conv((1,), groups=groups)
    result = layer(engine, run, map, rows, kernel, None, owner, "linear")
    return engine.call(torch.reshape, result, (*input.shape[:-1], units))


@handles("__rmatmul__")
def _rmatmul(engine: Engine, func: Callable, b: Tensor, a: Tensor) -> Tensor:
    return engine.call(torch.matmul, a, b)


@handles("addmm", "baddbmm")
def _addmm(
    engine: Engine, func: Callable, input: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    plain = (alpha, beta) == (1, 1) and input.dim() == 1 and not engine.depends(input)
    if plain and engine.depends(a) and not engine.depends(b) and _is_weight(engine, b):
        run = lambda x, w, c: func(c, x, w.t())  # noqa: E731
        return layer(engine, run, LinearMap(), a, b.detach().t(), input, _itself(engine, b))
    result = engine.call(torch.matmul, a, b)
    result = result if alpha == 1 else engine.call(torch.mul, result, alpha)
    input = input if beta == 1 else engine.call(torch.mul, input, beta)
    return result if beta == 0 else engine.call(torch.add, input, result)


@handles("einsum")
def _einsum(engine: Engine, func: Callable, equation: Any, *operands: Any) -> Tensor:
    """A layer if one of two operands is a parameter; n activations get 1/n each (the uniform rule of products)."""
    if not isinstance(equation, str):
        return NotImplemented
    tensors = operands[0] if len(operands) == 1 and isinstance(operands[0], list | tuple) else operands
    if len(tensors) == 2:
        position = 1 if engine.depends(tensors[0]) else 0
        weight, input = tensors[position], tensors[1 - position]
        if not engine.depends(weight) and engine.names.owner(weight) is not None:
            terms, arrow, result = equation.replace(" ", "").partition("->")
            letters = terms.split(",")
            if arrow and "." not in terms:
                return _contract(
                    engine, func, equation, letters[1 - position], letters[position], result, input, weight
                )
            result = func(equation, *engine.frozen(tuple(tensors)))
            engine.refuse(result, func, f"{equation!r} is a layer; write it without '...' and with '->'")
            return result
    return func(equation, *_factors(engine, *tensors))


def _contract(
    engine: Engine,
    func: Callable,
    equation: str,
    of_input: str,
    of_weight: str,
    of_result: str,
    input: Tensor,
    weight: Tensor,
) -> Tensor:
    """An einsum with a weight, brought to the form of a linear layer, [*batch, inputs] by [units, inputs], or of one
    for each group: letters that stand in all three."""
    groups = [c for c in of_weight if c in of_input and c in of_result]
    summed = [c for c in of_weight if c in of_input and c not in of_result]
    units = [c for c in of_weight if c in of_result and c not in of_input]
    batch = [c for c in of_input if c not in summed and c not in groups]
    if (
        len(groups) + len(summed) + len(units) != len(of_weight)
        or sorted(batch + groups + units) != sorted(of_result)
        or not summed
        or not units
    ):
        result = func(f"{of_input},{of_weight}->{of_result}", engine.frozen(input), engine.frozen(weight))
        engine.refuse(result, func, f"{equation!r} with a weight is not a linear layer")
        return result
    sizes = dict(zip(of_weight, weight.shape, strict=True)) | dict(zip(of_input, input.shape, strict=True))

    def count(letters: list[str]) -> int:
        return math.prod(sizes[c] for c in letters)

    rows = engine.call(torch.permute, input, [of_input.index(c) for c in batch + groups + summed])
    matrix = weight.detach().permute([of_weight.index(c) for c in groups + units + summed])
    if groups:
        rows = engine.call(torch.reshape, rows, [*(sizes[c] for c in batch), count(groups), count(summed)])
        result = _grouped(engine, rows, matrix.reshape(count(groups), count(units), count(summed)), weight)
        result = engine.call(torch.reshape, result, [sizes[c] for c in batch + groups + units])
        return engine.call(torch.permute, result, [(batch + groups + units).index(c) for c in of_result])
    rows = engine.call(torch.flatten, rows, len(batch)) if len(summed) > 1 else rows
    result = layer(engine, F.linear, LinearMap(), rows, matrix.reshape(count(units), -1), None, owner=weight)
    if len(units) > 1:
        result = engine.call(torch.unflatten, result, -1, [sizes[c] for c in units])
    return engine.call(torch.permute, result, [(batch + units).index(c) for c in of_result])
