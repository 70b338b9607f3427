"""Functions that write into their argument, run out of place: the old tensor object then stands for the new one.

Rules need the values that layers put out, and the inputs belong to the caller: neither may be overwritten.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from . import tables


def _out_of_place_twins() -> dict[Callable, Callable]:
    """`Tensor.add_` -> `Tensor.add` and the like."""
    twins = {}
    for space in (torch.Tensor, torch, F):
        for name in dir(space):
            if name.endswith("_") and not name.startswith("_"):
                twin = getattr(space, name[:-1], None) or getattr(torch.Tensor, name[:-1], None)
                if callable(twin):
                    twins[getattr(space, name)] = twin
    return twins


def _inplace_position(function: Callable) -> int | None:
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return None
    return names.index("inplace") if "inplace" in names else None


TWINS = _out_of_place_twins()
"""Functions without the side effect, by those with it."""

ASSIGNS = frozenset(tables.functions_named("copy_", "__setitem__"))
"""Functions that write what they are given; they have no twin."""

INPLACE_ARGUMENT = {
    function: position
    for function in (getattr(F, name) for name in dir(F) if not name.startswith("_"))
    if callable(function) and not inspect.isclass(function) and (position := _inplace_position(function)) is not None
}
"""Position of the argument `inplace`, by function."""


def asks_in_place(func: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[bool, Sequence[Any]]:
    """Whether a function of `INPLACE_ARGUMENT` was told so, and its arguments without that (`kwargs` is changed)."""
    position = INPLACE_ARGUMENT[func]
    asked = bool(kwargs.pop("inplace", False))
    if len(args) > position:
        asked, args = bool(args[position]), (*args[:position], False, *args[position + 1 :])
    return asked, args


class StaleViewError(RuntimeError):
    """A view was used whose memory would have been written to through another tensor."""


class Renewals:
    """Which tensor stands for which, and whose views are stale. Kept by weak reference."""

    def __init__(self) -> None:
        self._renewed: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._stale: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._any = False

    def __bool__(self) -> bool:
        return self._any  # asked of every function: a dictionary by weak reference takes its time

    def copy(self) -> Renewals:
        """As they are now."""
        other = Renewals()
        other._renewed.update(self._renewed)
        other._stale.update(self._stale)
        other._any = self._any
        return other

    def latest(self, tensor: Tensor) -> Tensor:
        """What `tensor` would be by now, had the functions that write in place done so."""
        while (renewed := self._renewed.get(tensor)) is not None:
            tensor = renewed
        return tensor

    def resolve(self, value: Any) -> Any:
        """`value` with every tensor in it replaced by its latest. Raises StaleViewError."""
        if isinstance(value, Tensor):
            value = self.latest(value)
            base = value._base
            if value in self._stale or (base is not None and base in self._stale):
                raise StaleViewError
            return value
        if type(value) in (tuple, list):
            return type(value)(self.resolve(v) for v in value)
        return value

    def note(self, func: Callable, target: Tensor, result: Tensor) -> None:
        """`result` is what `target` would hold after `func`; other views of that memory must not be used any more."""
        if result is target:
            return
        self._renewed[target] = result
        self._any = True
        if TWINS.get(func) in tables.MOVES:  # another shape, the same memory
            return
        base = target._base
        self._stale[target if base is None else base] = None if base is None else _region(target)

    def settle(self, target: Tensor, index: Any) -> None:
        """`y[i] += x` runs as v = y[i]; v += x; y[i] = v: once it is assigned, the view is stale no longer."""
        target = self.latest(target)
        shared = target if target._base is None else target._base
        region = self._stale.get(shared)
        if region is not None and _region(target.detach()[index]) == region:
            del self._stale[shared]


def _region(view: Tensor) -> tuple[int, torch.Size, tuple[int, ...]]:
    return int(view.storage_offset()), view.shape, view.stride()
