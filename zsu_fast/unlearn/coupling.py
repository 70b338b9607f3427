"""What has to go together when units are taken out of a model: seen by watching it run.

Every index of every dimension of a weight is a *slot*: a row makes a unit, a column reads one, an element of a norm
belongs to one. One forward pass carries beside each tensor the slots that its values stand for, and whether they are
zero for every input, and joins the slots that one unit has in several tensors (or several units, where a sum or a
product binds them). A group of slots can go if, wherever a layer reads it, the value is zero or the weights are, and if
no function has met it that is not known to treat each unit alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from zsu_fast.model.aten import as_written
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.watch import (
    _ACTIVATIONS,
    _CASTS,
    _CONVOLUTIONS,
    _JOINING,
    _POOLING,
    _PRODUCTS,
    _SUMS,
    _VIEWS,
    _ZERO_PRESERVING,
    _Mode,
    _operands,
    _per_channel,
    _tensors,
    refuse_transformed,
)

Slot = tuple[str, int, int]  # tensor, dimension, index


@dataclass(frozen=True)
class _Seen:
    """Of a tensor, at each of its positions: the slot (-1: none) and whether the value is zero for every input."""

    slots: Tensor
    zero: Tensor


@dataclass(frozen=True)
class Group:
    """Slots that can only go together; `why` they cannot, or None. `units` are those that are rows of layers."""

    slots: tuple[Slot, ...]
    units: tuple[tuple[str, int], ...]  # layer, unit
    silent: tuple[tuple[str, int], ...]  # those whose weights and bias are zero
    why: str | None


@dataclass(frozen=True)
class Attention:
    """An attention that runs as one function: the layer that makes its queries, its heads, and slots of each head."""

    layer: str
    heads: int
    width: int
    slots: tuple[Slot, ...]  # one for each head


class Coupling(_Mode):
    """Notes the slots of the model that runs inside."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.tensors = Tensors(model)
        self.names = self.tensors.by_identity()
        self.seen: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._first: dict[tuple[str, int], int] = {}
        self._slots: list[Slot] = []
        self._parent: list[int] = []
        self._pinned: dict[int, str] = {}
        self._live: dict[int, str] = {}  # slots that are not zero where a layer reads them: its weight
        self._layers: dict[str, Tensor] = {}  # weight of a layer -> whether each of its units is silent
        self._elsewhere: dict[str, str] = {}  # tensors that other functions read, too
        self._attentions: list[tuple[str, int, int, list[int]]] = []

    def __torch_function__(self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        func, args, kwargs = as_written(func, args, kwargs or {})
        name = getattr(func, "__name__", "")
        before = [self.seen.get(t) for t in _tensors(args)]  # in-place functions write to the first
        out = func(*args, **kwargs)
        if not _tensors(out):
            if name == "__setitem__":
                self._unknown(name, args, kwargs)
            return out
        first = before[0] if before else None
        if func is F.linear or name in _CONVOLUTIONS:
            self._layer(name, out, args, kwargs)
        elif name in ("batch_norm", "instance_norm") and first is not None:
            self._norm(name, first, args, kwargs, out)
        elif func is F.scaled_dot_product_attention:
            self._attention(args, kwargs, out)
        elif name in _JOINING:
            self._join(func, args, kwargs, out)
        elif name in _PRODUCTS | _SUMS and isinstance(out, Tensor):
            self._arithmetic(name, before, args, kwargs, out)
        elif first is None:
            self._unknown(name, args, kwargs)
        elif name in _VIEWS or name == "__get__":
            rest = [value.cpu() if isinstance(value, Tensor) else value for value in args[1:]]
            slots, zero = (_tensors(func(part, *rest, **kwargs)) for part in (first.slots, first.zero))
            for tensor, s, z in zip(_tensors(out), slots, zero, strict=True):
                self.seen[tensor] = _Seen(s, z)
        elif name in _ZERO_PRESERVING | _ACTIVATIONS | _CASTS:
            self.seen[out] = first
        elif name in ("sigmoid", "sigmoid_", "hardsigmoid", "softplus"):
            self.seen[out] = _Seen(first.slots, torch.zeros_like(first.zero))
        elif name in _POOLING or (name in ("interpolate", "pad") and _keeps_channels(first, out, args, kwargs)):
            self._reduced(name, first, tuple(range(2, first.slots.dim())), True, out)
        elif name in ("mean", "amax", "sum") and (len(args) > 1 or "dim" in kwargs):
            dims = args[1] if len(args) > 1 else kwargs["dim"]
            self._reduced(name, first, dims, kwargs.get("keepdim", args[2] if len(args) > 2 else False), out)
        else:
            self._unknown(name, args, kwargs)
        return out

    def returned(self, *outputs: Any) -> None:
        """What the model returns keeps its units."""
        self._pin(self._slots_of(tree_leaves(outputs)), "the model returns them")

    def groups(self) -> list[Group]:
        """All groups that hold a unit of a layer."""
        for (name, dim), first in self._first.items():
            held = self.tensors.held(name)
            others = [other for other in self.tensors.sharing(name) if self.tensors.held(other) is not held]
            whole = range(first, first + held.shape[dim])
            if name in self._elsewhere:
                self._pin(whole, f"{self._elsewhere[name]} reads {name}")
            elif others:
                self._pin(whole, f"{name} shares its memory with {', '.join(others)}")
        members: dict[int, list[int]] = {}
        for slot in range(len(self._slots)):
            members.setdefault(self._root(slot), []).append(slot)
        pinned = {self._root(slot): why for slot, why in reversed(self._pinned.items())}
        live = {self._root(slot): name.removesuffix(".weight") for slot, name in self._live.items()}
        found = []
        for root, slots in members.items():
            all_slots = tuple(self._slots[slot] for slot in slots)
            rows = [(name, i) for name, dim, i in all_slots if dim == 0 and name in self._layers]
            units = tuple((name.removesuffix(".weight"), i) for name, i in rows)
            silent = tuple((name.removesuffix(".weight"), i) for name, i in rows if self._layers[name][i])
            why = pinned.get(root, "")
            if not why and root in live:
                loud = dict.fromkeys(name for name, i in units if (name, i) not in silent)
                because = f"bound to units of {', '.join(loud)}" if loud else "behind a bias or a norm"
                why = f"they are not zero where {live[root]} reads them, {because}"
            if units:
                found.append(Group(all_slots, units, silent, why or None))
        return found

    def attentions(self) -> list[Attention]:
        return [
            Attention(layer.removesuffix(".weight"), heads, width, tuple(self._slots[slot] for slot in slots))
            for layer, heads, width, slots in self._attentions
        ]

    # --- slots

    def _of(self, name: str, dim: int) -> Tensor:
        """Slots of one dimension of a tensor of the model."""
        size = self.tensors[name].shape[dim]
        if (name, dim) not in self._first:
            first = self._first[name, dim] = len(self._slots)
            self._slots += [(name, dim, i) for i in range(size)]
            self._parent += range(first, first + size)
        return torch.arange(size) + self._first[name, dim]

    def _root(self, slot: int) -> int:
        while self._parent[slot] != slot:
            self._parent[slot] = slot = self._parent[self._parent[slot]]
        return slot

    def _bind(self, a: Tensor, b: Tensor, why: str) -> None:
        """Slots at the same positions are of one unit. One that meets none must stay."""
        a, b = torch.broadcast_tensors(a, b)
        for d in range(a.dim()):
            if a.stride(d) == b.stride(d) == 0:  # expanded: the same all along
                a, b = a.narrow(d, 0, 1), b.narrow(d, 0, 1)
        size = len(self._slots) + 1
        for pair in ((a.flatten() + 1) * size + b.flatten() + 1).unique().tolist():
            one, other = pair // size - 1, pair % size - 1
            if one >= 0 and other >= 0:
                self._parent[self._root(one)] = self._root(other)
            elif one != other:
                self._pinned.setdefault(max(one, other), why)

    def _pin(self, slots: Iterable[int], why: str) -> None:
        for slot in slots:
            if slot >= 0:
                self._pinned.setdefault(slot, why)

    def _slots_of(self, *values: Any) -> list[int]:
        found: list[int] = []
        for value in values:
            for tensor in _tensors(value):
                if (seen := self.seen.get(tensor)) is not None:
                    found += seen.slots.unique().tolist()
        return found

    def _unknown(self, name: str, args: Sequence, kwargs: dict) -> None:
        for value in (*args, *kwargs.values()):
            self._pin(self._slots_of(value), f"{name} may mix them")
            for tensor in _tensors(value):
                if id(tensor) in self.names:
                    self._elsewhere[self.names[id(tensor)]] = name

    # --- functions

    def _layer(self, function: str, out: Tensor, args: Sequence, kwargs: dict) -> None:
        source, weight, bias = _operands(args, kwargs)
        name = self.names.get(id(weight))
        if name is None or (bias is not None and id(bias) not in self.names):
            refuse_transformed()
            self._unknown(f"{function} with a computed weight or bias", args, kwargs)
            return
        groups = kwargs.get("groups", args[6] if len(args) > 6 else 1) if function in _CONVOLUTIONS else 1
        dim = source.dim() - 1 if function == "linear" else source.dim() - weight.dim() + 1
        units, zero = self._of(name, 0), weight.detach().flatten(1).eq(0).all(1).cpu()
        read, read_zero = self._channels(source, dim, function)
        if groups == 1:
            columns = weight.detach().transpose(0, 1).flatten(1).eq(0).all(1).cpu()
            self._bind(self._of(name, 1), read, f"{function} reads what is no unit")
            self._live |= {slot: name for slot in read[~(read_zero | columns)].tolist() if slot >= 0}
        elif groups == len(units) == source.shape[dim]:
            self._bind(units, read, f"{function} reads what is no unit")
            zero = zero | read_zero
        else:
            self._pin(units.tolist() + read.tolist(), f"{function} is a grouped convolution")
        if bias is not None:
            self._bind(self._of(self.names[id(bias)], 0), units, "")
            zero = zero & bias.detach().eq(0).cpu()
        self._layers[name] = self._layers.get(name, torch.ones_like(zero)) & zero
        self._put(out, dim, units, zero)

    def _channels(self, tensor: Tensor, dim: int, function: str) -> tuple[Tensor, Tensor]:
        """[channels] slots along a dimension, -1 where they are not the same all along the others; whether zero."""
        seen, none = self.seen.get(tensor), torch.full((tensor.shape[dim],), -1)
        if seen is None:
            return none, none == 0
        channels = _per_channel(seen.slots, dim)
        if channels is None:
            self._pin(seen.slots.unique().tolist(), f"{function} reads several of them at one place")
            return none, none == 0
        return channels, seen.zero.movedim(dim, 0).flatten(1).all(1)

    def _put(self, out: Tensor, dim: int, slots: Tensor, zero: Tensor) -> None:
        shape = [1] * out.dim()
        shape[dim] = len(slots)
        self.seen[out] = _Seen(slots.view(shape).expand(out.shape), zero.view(shape).expand(out.shape))

    def _norm(self, name: str, source: _Seen, args: Sequence, kwargs: dict, out: Tensor) -> None:
        given = dict(zip(("input", "running_mean", "running_var", "weight", "bias"), args, strict=False)) | kwargs
        slots, zero = self._channels(given["input"], 1, name)
        for tensor in (given.get(n) for n in ("running_mean", "running_var", "weight", "bias")):
            if tensor is not None and id(tensor) in self.names:
                self._bind(self._of(self.names[id(tensor)], 0), slots, f"{name} stands on what is no unit")
            elif tensor is not None:
                self._pin(slots.tolist(), f"{name} has a computed parameter")
        scale, shift = (
            torch.full_like(zero, value) if tensor is None else tensor.detach().eq(0).cpu()
            for tensor, value in ((given.get("weight"), False), (given.get("bias"), True))
        )
        mean = given.get("running_mean")
        if mean is not None:
            zero = zero & mean.detach().eq(0).cpu()
        self._put(out, 1, slots, shift & (scale | zero))

    def _attention(self, args: Sequence, kwargs: dict, out: Tensor) -> None:
        given = dict(zip(("query", "key", "value"), args, strict=False)) | kwargs
        parts = [given[n] for n in ("query", "key", "value")]
        seen = [self.seen.get(part) for part in parts]
        if any(s is None or s.slots.dim() != 4 or s.slots.shape[1] != out.shape[1] for s in seen):
            self._unknown("scaled_dot_product_attention", parts, {})
            return
        heads = []  # of queries, keys and values: [heads, width]
        for part in seen:
            assert part is not None
            low, high = part.slots.amin((0, 2)), part.slots.amax((0, 2))
            heads.append(torch.where(low == high, low, -1))
        for head in range(out.shape[1]):
            together = torch.cat([part[head] for part in heads])
            self._bind(together, together[:1], "they make a part of an attention head")
        assert seen[2] is not None
        zero = seen[2].zero.movedim(2, 0).movedim(1, 0).flatten(0, 1).all(0)
        self.seen[out] = _Seen(heads[2][None, :, None].expand(out.shape), zero[None, :, None].expand(out.shape))
        layer = self._slots[int(heads[0][0, 0])][0] if heads[0][0, 0] >= 0 else ""
        self._attentions.append((layer, out.shape[1], out.shape[3], heads[2][:, 0].tolist()))

    def _reduced(self, name: str, source: _Seen, dims: Any, keepdim: bool, out: Any) -> None:
        low, high = source.slots.amin(dims, keepdim), source.slots.amax(dims, keepdim)
        if not isinstance(out, Tensor) or not torch.equal(low, high):
            self._pin(source.slots.unique().tolist(), f"{name} may mix them")
            return
        loud = (~source.zero).to(torch.uint8).amax(dims, keepdim)
        self.seen[out] = _Seen(low.expand(out.shape), loud.eq(0).expand(out.shape))

    def _join(self, func: Callable, args: Sequence, kwargs: dict, out: Tensor) -> None:
        parts = args[0] if args else kwargs["tensors"]
        seen = [self.seen.get(part) for part in parts]
        if all(part is None for part in seen):
            return
        rest = {k: v for k, v in kwargs.items() if k != "tensors"}
        slots = [torch.full(t.shape, -1) if s is None else s.slots for t, s in zip(parts, seen, strict=True)]
        zero = [torch.tensor(False).expand(t.shape) if s is None else s.zero for t, s in zip(parts, seen, strict=True)]
        self.seen[out] = _Seen(func(slots, *args[1:], **rest), func(zero, *args[1:], **rest))

    def _arithmetic(self, name: str, before: list[_Seen | None], args: Sequence, kwargs: dict, out: Tensor) -> None:
        product = name in _PRODUCTS
        known = dict(zip(map(id, _tensors(args)), before, strict=True))
        one, other = args[0], args[1] if len(args) > 1 else None
        seen, second = known.get(id(one)), known.get(id(other))
        if seen is None and "div" not in name:
            one, other, seen, second = other, one, second, seen
        if seen is None or other is None:
            self._unknown(name, args, kwargs)
            return
        slots, zero = seen.slots.expand(out.shape), seen.zero.expand(out.shape)
        if second is not None:
            self._bind(slots, second.slots.expand(out.shape), f"{name} binds them to what is no unit")
            if "div" in name:  # by zero
                self._pin(second.slots.unique().tolist(), f"{name} divides by them")
            also = second.zero.expand(out.shape)
            zero = zero | also if product else zero & also
        elif isinstance(other, Tensor):
            wide = [d + out.dim() - other.dim() for d, size in enumerate(other.shape) if size > 1]
            channels = _per_channel(slots, wide[0]) if len(wide) == 1 else None
            parameter = self.names.get(id(other))
            if parameter is not None and channels is not None and not bool((channels == channels[0]).all()):
                self._bind(self._of(parameter, wide[0] - out.dim() + other.dim()), channels, "")
            elif any(bool((slots.narrow(d, 0, 1) != slots).any()) for d in wide):
                self._unknown(name, args, {})
                return
            elif parameter is not None:
                self._elsewhere[parameter] = name
            zero = zero if product else torch.zeros_like(zero)
        elif not product:
            zero = torch.zeros_like(zero)
        self.seen[out] = _Seen(slots, zero)


def _keeps_channels(source: _Seen, out: Any, args: Sequence, kwargs: dict) -> bool:
    """Whether only places were added, of the same channels, and of value zero where they are new."""
    value = kwargs.get("value", args[3] if len(args) == 4 else None)
    return isinstance(out, Tensor) and out.shape[:2] == source.slots.shape[:2] and not value
