"""A model's tensors by the names of the bare model, reached through its modules.

Not through `state_dict()`: a module may override it to rename, copy or leave out, and it has no non-persistent buffers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from zsu_fast.model.shards import is_sharded, local_part, scatter_, whole_of
from zsu_fast.model.wrapped import bare_model, written_name


class Tensors(Mapping[str, Tensor]):
    """Parameters and buffers: name -> detached tensor (the same memory and version counter).

    A tensor that several modules hold stands under each of its names, as in a state dict. `persistent` are the names
    that a state dict has. Of a tensor in parts (DTensor) it gives the whole, put together anew each time, for which all
    processes must ask; `keep`: put together once, and what is written to it goes to the parts by `scatter`.
    """

    def __init__(self, model: nn.Module | Mapping[str, Tensor], keep: bool = False) -> None:
        self.persistent: set[str] = set()
        self.parameters: set[str] = set()
        self._held: dict[str, Tensor] = {}
        self._keep = keep
        self._whole: dict[int, Tensor] = {}
        if isinstance(model, nn.Module):
            self._collect(bare_model(model), "")
        else:
            self._held = dict(model)
            self.persistent = set(model)

    def _collect(self, module: nn.Module, prefix: str) -> None:
        for name, parameter in module._parameters.items():
            if parameter is not None:
                self._held[prefix + name] = parameter
                self.persistent.add(prefix + name)
                self.parameters.add(prefix + name)
        for name, buffer in module._buffers.items():
            if isinstance(buffer, Tensor):
                self._held[prefix + name] = buffer
                if name not in module._non_persistent_buffers_set:
                    self.persistent.add(prefix + name)
        for name, child in module._modules.items():
            if child is not None:
                self._collect(child, f"{prefix}{name}.")

    def __getitem__(self, name: str) -> Tensor:
        held = self._held[name]
        if not is_sharded(held):
            return held.detach()
        if id(held) in self._whole:
            return self._whole[id(held)]
        whole = whole_of(held)
        if self._keep:
            self._whole[id(held)] = whole
        return whole

    def scatter(self, names: Iterable[str]) -> None:
        """Bring what was written to tensors in parts to the parts. Each process does its own."""
        for name in names:
            held = self._held[name]
            if is_sharded(held) and id(held) in self._whole:
                scatter_(held, self._whole[id(held)])

    def held(self, name: str) -> Tensor:
        """The very object that a module holds."""
        return self._held[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def by_identity(self) -> dict[int, str]:
        """id of the very object that a module holds -> its first name."""
        return {id(tensor): name for name, tensor in reversed(self._held.items())}

    def named(self, names: Iterable[str]) -> dict[str, str]:
        """Name -> name here, for tensors named in a module that holds this one, or is held by it (a LightningModule).

        Then all names have one prefix more or fewer; parts that torch.compile adds do not count. Empty where not all
        fit, or in more than one place.
        """
        given = {name: written_name(name) for name in names}
        if all(name in self for name in given):
            return {name: name for name in given}
        own = {written_name(name): name for name in self}
        first = next(iter(given.values()))
        more = [(name.removesuffix(first), "") for name in own if f".{name}".endswith(f".{first}")]
        fewer = [("", first[: i + 1]) for i, letter in enumerate(first) if letter == "."]
        found = []
        for added, taken in more + fewer:
            wanted = {name: added + written.removeprefix(taken) for name, written in given.items()}
            if all(name in own for name in wanted.values()):
                found.append({name: own[here] for name, here in wanted.items()})
        return found[0] if len(found) == 1 else {}

    def sharing(self, name: str) -> list[str]:
        """Other names whose elements lie in the memory of `name`: tied weights, views of one buffer."""
        own = _extent(self._held[name])
        return [
            other
            for other, tensor in self._held.items()
            if other != name and (tensor is self._held[name] or (own is not None and _overlap(own, _extent(tensor))))
        ]


_Extent = tuple[torch.device, int, int, int]


def _extent(tensor: Tensor) -> _Extent | None:
    """(device, storage, first byte, one past the last) of a tensor's elements."""
    if is_sharded(tensor):
        tensor = local_part(tensor)
    if tensor.numel() == 0 or tensor.layout != torch.strided or tensor.is_meta:
        return None
    size, start = tensor.element_size(), tensor.storage_offset()
    last = start + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.device, tensor.untyped_storage().data_ptr(), int(start * size), int((last + 1) * size)


def _overlap(a: _Extent, b: _Extent | None) -> bool:
    return b is not None and a[:2] == b[:2] and a[2] < b[3] and b[2] < a[3]


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor's dtype, shape and bytes (row-major, whatever its memory layout and device)."""
    digest = hashlib.sha256()
    update_digest(digest, "", tensor)
    return digest.hexdigest()


def model_digest(model: nn.Module | Mapping[str, Tensor]) -> str:
    """SHA-256 of a model's persistent state: names, dtypes, shapes and bytes of what a plain state dict holds.

    `model` may be a state dict; wrappers do not change the digest.
    """
    digest = hashlib.sha256()
    tensors = Tensors(model)
    for name in sorted(tensors.persistent):
        if isinstance(value := tensors[name], Tensor):
            update_digest(digest, name, value)
    return digest.hexdigest()


def update_digest(digest: hashlib._Hash, name: str, tensor: Tensor) -> None:
    digest.update(f"{name}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
    digest.update(bytes_of(tensor).numpy().data)


def bytes_of(tensor: Tensor) -> Tensor:
    """uint8 [bytes] on the CPU, row-major: NaN equals the same NaN, and +0 differs from -0."""
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality of dtype, shape and bytes."""
    if a.dtype != b.dtype or a.shape != b.shape or a.device != b.device:
        return False
    return a.numel() == 0 or torch.equal(
        a.contiguous().reshape(-1).view(torch.uint8), b.contiguous().reshape(-1).view(torch.uint8)
    )
