"""Names of layers: by the parameter they use, else by the module that runs."""

from __future__ import annotations

import sys
from functools import cached_property
from types import FrameType
from typing import Any

from torch import Tensor, nn

from zsu_fast.model.shards import is_gathered, is_sharded

from .collector import Unit
from .models import modules_of


class Names:
    """Looks up the name of a weight, and the module that is running, in the call stack (no hooks on the model)."""

    def __init__(self, model: object) -> None:
        self._modules: dict[int, str] = {}
        self._weights: dict[int, tuple[Tensor, str]] = {}
        self._elsewhere: list[tuple[dict[str, Any], str, str]] = []
        self._generated: dict[str, int] = {}
        self.of_shards = False
        """Whether processes hold parts of the model."""
        if not isinstance(model, nn.Module):
            return
        for prefix, module in modules_of(model):
            self._modules[id(module)] = prefix
            self.of_shards |= is_gathered(module)
            for tensors in (module._parameters, module._buffers):
                for key, tensor in tensors.items():
                    if tensor is not None and id(tensor) not in self._weights:
                        name = (f"{prefix}.{key}" if prefix else key).removesuffix(".weight")
                        self._weights[id(tensor)] = tensor, name
                        self.of_shards |= is_sharded(tensor)
                        if is_sharded(tensor) or tensor.is_meta:
                            self._elsewhere.append((tensors, key, name))

    @cached_property
    def _storages(self) -> dict[int, list[Tensor]]:
        """Parameters and buffers by where their memory begins."""
        found: dict[int, list[Tensor]] = {}
        for tensor, _ in self._weights.values():
            if not nn.parameter.is_lazy(tensor) and not is_sharded(tensor):
                found.setdefault(tensor.untyped_storage().data_ptr(), []).append(tensor)
        return found

    def running_module(self) -> str | None:
        """Name of the innermost module of the model whose code is running; None outside of it."""
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            name = self._modules.get(id(frame.f_locals.get("self")))
            if name is not None:
                return name
            frame = frame.f_back
        return None

    def owner(self, weight: Tensor) -> Tensor | None:
        """The parameter or buffer that `weight` is, or is a view of."""
        if id(weight) in self._weights:
            return weight
        if is_sharded(weight):
            return None
        place = weight.untyped_storage().data_ptr()
        found = self._storages.get(place, ()) or self._gathered(weight, place)
        return found[0] if len(found) == 1 else None

    def _gathered(self, weight: Tensor, place: int) -> list[Tensor]:
        """The parameters, `weight` or in its memory, that stand now where a shard, or one without values, stood before.

        FSDP2 and offloading put the whole parameter into the module while it runs, and free the memory after: what lies
        at an address is asked each time.
        """
        found = []
        for tensors, key, name in self._elsewhere if place else ():
            tensor = tensors[key]
            if tensor is weight or (not is_sharded(tensor) and tensor.untyped_storage().data_ptr() == place):
                self._weights[id(tensor)] = tensor, name
                found.append(tensor)
        return found

    def note_copy(self, tensor: Tensor, original: Tensor) -> None:
        """`tensor` has the name of `original`, if that has one: it is the whole of it, from all processes."""
        if id(original) in self._weights:
            self._weights[id(tensor)] = tensor, self._weights[id(original)][1]

    def of(self, tensor: Tensor) -> str | None:
        """Name of the parameter or buffer that `tensor` is, or is a view of; without a final ".weight"."""
        owner = self.owner(tensor)
        return None if owner is None else self._weights[id(owner)][1]

    def unit(self, weight: Tensor, units: int, function: str) -> Unit:
        """The units of the layer that uses `weight`, whose dimension 0 they are (all of them if it is computed)."""
        owner = self.owner(weight)
        if owner is not None:
            name = self._weights[id(owner)][1]
            if owner.numel() == weight.numel():
                return Unit(name, units, 0, units)
            start = self._first_row(weight, owner)
            if start is not None:
                return Unit(name, units, start, owner.shape[0])
        running = self.running_module()
        if owner is None and running:
            return Unit(running, units, 0, units)
        stem = f"{running}.{function}" if running else function
        count = self._generated[stem] = self._generated.get(stem, -1) + 1
        return Unit(f"{stem}_{count}" if count else stem, units, 0, units)

    @staticmethod
    def _first_row(rows: Tensor, whole: Tensor) -> int | None:
        """The row of `whole` at which `rows`, some consecutive rows of it, begin."""
        if rows.dim() != whole.dim() or rows.shape[1:] != whole.shape[1:] or rows.stride() != whole.stride():
            return None
        start, rest = divmod(int(rows.storage_offset()) - int(whole.storage_offset()), whole.stride(0))
        return start if rest == 0 and 0 <= start <= whole.shape[0] - rows.shape[0] else None
