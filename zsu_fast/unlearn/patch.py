"""The undo file: every value that an edit replaced, and the record of why.

A patch holds, per edited slice, the tensor's name, the indices, and the old and new values. Reverting copies the old
values back, so the model is bit for bit what it was. On disk it is a safetensors file: tensors plus a JSON record in
the header; nothing in it is executed when it is read.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zsu_fast.safetensors_file import save_atomically

FORMAT = "zsu_fast.patch"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Entry:
    """Slices `indices` along `dim` of `tensor` (of its row `row`, if given), with their old and new values.

    old and new have the shape of `tensor.index_select(dim, indices)`; indices is int64 [k], ascending.
    """

    tensor: str
    row: int | None
    dim: int
    indices: Tensor
    old: Tensor
    new: Tensor

    def view(self, state: dict[str, Tensor]) -> Tensor:
        """The tensor of `state` that the indices count in; ValueError if `state` does not fit this entry."""
        whole = state.get(self.tensor)
        if whole is None:
            raise ValueError(f"model: has no tensor {self.tensor!r}, which the patch edits")
        if self.row is not None and (whole.dim() == 0 or self.row >= whole.shape[0]):
            raise ValueError(f"model: {self.tensor} has shape {tuple(whole.shape)}, the patch edits its row {self.row}")
        view = whole if self.row is None else whole[self.row]
        expected = list(view.shape)
        if self.dim < len(expected):
            expected[self.dim] = self.indices.numel()
        limit = view.shape[self.dim] if self.dim < view.dim() else 0
        beyond = self.indices.numel() > 0 and int(self.indices.max()) >= limit
        if self.dim >= view.dim() or tuple(expected) != tuple(self.old.shape) or beyond:
            raise ValueError(
                f"model: {self.tensor} has shape {tuple(whole.shape)}, which does not fit the patch "
                f"(values of shape {tuple(self.old.shape)} along dimension {self.dim})"
            )
        if view.dtype != self.old.dtype:
            raise ValueError(f"model: {self.tensor} is {view.dtype}, the patch holds {self.old.dtype}")
        return view


@dataclass(frozen=True)
class Patch:
    """A recorded edit of a model. `record` is JSON-able: request, picks, seeds, versions, hashes, metrics."""

    entries: tuple[Entry, ...]
    record: dict[str, Any] = field(default_factory=dict)

    def revert(self, model: nn.Module) -> None:
        """Put the old values back, in place and bit for bit.

        Raises ValueError, with the model unchanged, if the model does not hold the values that this patch wrote: it was
        not applied, is reverted already, or a later edit touched the same elements (revert that one first).
        """
        self._write(model, expect="new", write="old")

    def apply_(self, model: nn.Module) -> None:
        """Write the new values. Raises ValueError, with the model unchanged, if it does not hold the old ones."""
        self._write(model, expect="old", write="new")

    def _write(self, model: nn.Module, expect: str, write: str) -> None:
        state = model.state_dict()  # detached: same memory, same version counters
        views = [(entry, entry.view(state)) for entry in self.entries]
        for entry, view in views:
            indices = entry.indices.to(view.device)
            current = view.index_select(entry.dim, indices)
            if not _same_bits(current, getattr(entry, expect).to(view.device)):
                state_word = "edited by this patch" if expect == "new" else "as they were before this patch"
                raise ValueError(
                    f"model: values of {entry.tensor} are not {state_word}; nothing was changed "
                    "(already done, another model, or a later edit of the same neurons that must be undone first)"
                )
        with torch.no_grad():
            for entry, view in views:
                value = getattr(entry, write).to(view.device)
                view.index_copy_(entry.dim, entry.indices.to(view.device), value)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, atomically: a reader sees the whole file or none."""
        tensors, described = {}, []
        for i, entry in enumerate(self.entries):
            for part in ("indices", "old", "new"):
                tensors[f"{i}.{part}"] = getattr(entry, part).detach().cpu().contiguous()
            described.append({"tensor": entry.tensor, "row": entry.row, "dim": entry.dim})
        metadata = {
            "format": FORMAT,
            "version": str(FORMAT_VERSION),
            "entries": json.dumps(described),
            "record": json.dumps(self.record, sort_keys=True),
        }
        save_atomically(tensors, path, metadata)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Patch:
        """Read a patch. Raises FileNotFoundError, or ValueError for anything that is not a whole zsu_fast patch."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"path: no patch file at {path}")
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"path: {path} is not a zsu_fast patch (format {metadata.get('format')!r})")
                if metadata.get("version") != str(FORMAT_VERSION):
                    raise ValueError(
                        f"path: {path} has patch version {metadata.get('version')}, expected {FORMAT_VERSION}"
                    )
                described = json.loads(metadata["entries"])
                record = json.loads(metadata["record"])
                if not isinstance(record, dict) or not isinstance(described, list):
                    raise TypeError("record and entries")
                parts = ("indices", "old", "new")
                entries = [_entry(d, *(file.get_tensor(f"{i}.{p}") for p in parts)) for i, d in enumerate(described)]
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"path: {path} is not a whole zsu_fast patch ({error})") from error
        return Patch(tuple(entries), record)


def _entry(described: dict[str, Any], indices: Tensor, old: Tensor, new: Tensor) -> Entry:
    name, row, dim = described["tensor"], described["row"], described["dim"]
    well_formed = (
        isinstance(name, str)
        and isinstance(dim, int)
        and 0 <= dim < old.dim()
        and (row is None or (isinstance(row, int) and row >= 0))
        and indices.dtype == torch.int64
        and indices.dim() == 1
        and old.shape == new.shape
        and old.dtype == new.dtype
        and old.shape[dim] == indices.numel()
        and (indices.numel() == 0 or int(indices.min()) >= 0)
    )
    if not well_formed:
        raise TypeError(f"entry of {name!r} is malformed")
    return Entry(name, row, dim, indices, old, new)


def _same_bits(a: Tensor, b: Tensor) -> bool:
    """Equality of the bytes: NaN equals the same NaN, and +0 differs from -0."""
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8)) if a.numel() else True
