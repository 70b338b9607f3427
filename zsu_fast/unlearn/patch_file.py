"""Patches on disk: safetensors files with a JSON header. Nothing in them is executed, and every byte is hashed."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zsu_fast.safetensors_file import checksum, save_atomically
from zsu_fast.unlearn.entry import Entry

FORMAT = "zsu_fast.patch"
FORMAT_VERSION = 2
_PARTS = ("indices", "old", "new")


Contents = tuple[tuple[Entry, ...], dict[str, Any], dict[str, tuple[str, str]], str]
"""(entries, record, digests, key) of a patch."""


def contents(
    entries: Sequence[Entry], record: dict[str, Any], digests: dict[str, tuple[str, str]], key: str
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and tensors of the file of a patch."""
    tensors, described = {}, []
    for i, entry in enumerate(entries):
        for part in _PARTS:
            value = getattr(entry, part)
            if value is not None:
                tensors[f"{i}.{part}"] = value.detach().cpu().contiguous()
        described.append({"tensor": entry.tensor, "row": entry.row, "dim": entry.dim})
    metadata = {
        "format": FORMAT,
        "version": str(FORMAT_VERSION),
        "entries": _text(described),
        "record": _text(record),
        "digests": _text({name: list(pair) for name, pair in digests.items()}),
        "key": key,
    }
    return metadata | {"sha256": checksum(metadata, tensors)}, tensors


def save(path: str | os.PathLike[str], metadata: dict[str, str], tensors: dict[str, Tensor]) -> None:
    """Write `contents`; see `Patch.save`."""
    save_atomically(tensors, path, metadata, mode=0o600)


def load(path: str | os.PathLike[str]) -> Contents:
    """What a patch file holds; see `Patch.load`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: no patch file at {path}")
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            check_format(path, metadata)
            return parsed(path, metadata, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path: {path} is not a whole zsu_fast patch ({error})") from error


def check_format(path: Path, metadata: dict[str, str]) -> None:
    """ValueError for metadata of something else, or of a version that this one does not know."""
    if metadata.get("format") != FORMAT:
        raise ValueError(f"path: {path} is not a zsu_fast patch (format {metadata.get('format')!r})")
    if metadata.get("version") not in ("1", "2"):
        raise ValueError(f"path: {path} has patch version {metadata.get('version')}, expected 1 or {FORMAT_VERSION}")


def parsed(path: Path, metadata: dict[str, str], tensors: dict[str, Tensor]) -> Contents:
    """What metadata and tensors from `path` say. ValueError for anything that is not a whole patch."""
    try:
        if metadata["version"] == "2" and metadata.get("sha256") != checksum(metadata, tensors):
            raise ValueError(f"path: {path} is damaged: its checksum is not that of its contents")
        described, record = json.loads(metadata["entries"]), json.loads(metadata["record"])
        digests = json.loads(metadata.get("digests", "{}"))
        if not isinstance(record, dict) or not isinstance(described, list) or not isinstance(digests, dict):
            raise TypeError("record, entries and digests")
        entries = [_entry(d, *(tensors.get(f"{i}.{part}") for part in _PARTS)) for i, d in enumerate(described)]
        pairs = {name: _pair(pair) for name, pair in digests.items()}
    except (KeyError, TypeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"path: {path} is not a whole zsu_fast patch ({error})") from error
    return tuple(entries), record, pairs, metadata.get("key", "")


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _entry(described: dict[str, Any], indices: Tensor | None, old: Tensor | None, new: Tensor | None) -> Entry:
    name, row, dim = described["tensor"], described["row"], described["dim"]
    well_formed = (
        isinstance(name, str)
        and old is not None
        and new is not None
        and (dim is None or (_count(dim) and dim < old.dim()))
        and (row is None or (_count(row) and dim is not None))
        and old.shape == new.shape
        and old.dtype == new.dtype
        and (indices is not None or dim is None)
    )
    if well_formed and indices is not None:
        assert old is not None
        well_formed = (
            indices.dtype == torch.int64
            and indices.dim() == 1
            and old.dim() > 0
            and old.shape[dim or 0] == indices.numel()
            and (indices.numel() == 0 or int(indices.min()) >= 0)
        )
    if not well_formed:
        raise TypeError(f"entry of {name!r} is malformed")
    assert old is not None and new is not None
    return Entry(name, row, dim, indices, old, new)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _pair(pair: Any) -> tuple[str, str]:
    if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
        raise TypeError("digests are malformed")
    return pair[0], pair[1]
