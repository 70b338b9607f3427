"""Safetensors files that are there whole or not at all. Nothing in them is executed when they are read."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from zsu_fast.atomic import replacing
from zsu_fast.model.tensors import update_digest


def save_atomically(
    tensors: dict[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, str], mode: int = 0o666
) -> None:
    """`safetensors.torch.save_file` through a temporary file in the same folder, flushed to the disk, and a rename.

    The same contents give the same bytes. mode: permissions of the file, from which the process's umask takes.
    """
    with replacing(Path(path), mode) as temporary:
        save_file(tensors, temporary, metadata)
        _sort_metadata(temporary)


def _sort_metadata(path: Path) -> None:
    """In place: safetensors writes it in an order that differs from one file to the next."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
        if len(text) <= length:  # as it must be: the same letters
            file.seek(8)
            file.write(text.ljust(length))


def write_weights(state: dict[str, Any], path: str | Path, metadata: dict[str, str] | None = None) -> None:
    """Write a state dict as safetensors through a temporary file and a rename: a reader sees all of it or none.

    Tensors that share memory (tied weights) are each written in full, so that the file holds every name of the
    state dict.
    """
    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in state.items()
        if isinstance(value, Tensor)
    }
    save_atomically(tensors, path, {"format": "pt"} | (metadata or {}))


def checksum(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """SHA-256 of everything in a file but itself, which stands in the metadata as "sha256"."""
    digest = hashlib.sha256()
    for name in sorted(metadata):
        if name != "sha256":
            digest.update(f"{name}\0{len(metadata[name])}\0{metadata[name]}\0".encode())
    for name in sorted(tensors):
        update_digest(digest, name, tensors[name])
    return digest.hexdigest()
