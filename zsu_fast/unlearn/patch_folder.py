"""Patches on disk in parts, each written by another process: safetensors files, and an index of JSON.

Not in the format of torch.distributed.checkpoint, whose index is a pickle: here nothing is executed either. Values are
cut as flat rows of numbers, without regard to the model's own parts, so that any number of processes reads them.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from zsu_fast.atomic import PARTIAL, flush
from zsu_fast.model.shards import offset_of
from zsu_fast.safetensors_file import checksum
from zsu_fast.unlearn.group import Group, together
from zsu_fast.unlearn.patch_file import Contents, check_format, parsed

INDEX = "index.json"


def save(folder: str | os.PathLike[str], metadata: dict[str, str], tensors: dict[str, Tensor], group: Group) -> None:
    """Write the contents of a patch file; see `Patch.save_sharded`."""
    folder = Path(folder)
    partial = folder.with_name(f".{folder.name[:64]}.{group.first(secrets.token_hex(6))}{PARTIAL}")

    def work() -> None:
        # The record knows the time, and is that of the first process.
        if not group.same((metadata["entries"], metadata["digests"], checksum({}, tensors))):
            raise ValueError("patch: not the same in all processes")
        if group.rank == 0:
            if folder.exists():
                raise FileExistsError(f"folder: there is something at {folder} already")
            partial.mkdir(mode=0o700)
        group.first(None)  # it is there
        if not partial.is_dir():
            raise FileNotFoundError(f"folder: a process does not see what another one makes in {folder.parent}")
        own = partial / _part(group.rank, group.size)
        save_file({name: _cut(tensor, group.rank, group.size) for name, tensor in tensors.items()}, own)
        flush(own)
        group.first(None)  # all parts are
        if group.rank == 0:
            shapes = {name: list(tensor.shape) for name, tensor in tensors.items()}
            index = partial / INDEX
            index.write_text(json.dumps({"metadata": metadata, "parts": group.size, "shapes": shapes}))
            flush(index)
            flush(partial)
            partial.rename(folder)
            flush(folder.parent)

    try:
        together(group, work)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def load(folder: Path) -> Contents:
    """What the parts hold together; see `Patch.load`."""
    if not (folder / INDEX).is_file():
        raise FileNotFoundError(f"path: no patch in the folder {folder}, which has no {INDEX}")
    try:
        index: Any = json.loads((folder / INDEX).read_text())
        metadata, count, shapes = dict(index["metadata"]), index["parts"], index["shapes"]
        parts = [load_file(folder / _part(i, count)) for i in range(count)]
        tensors = {name: torch.cat([part[name] for part in parts]).reshape(shape) for name, shape in shapes.items()}
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError, OSError, SafetensorError) as error:
        raise ValueError(f"path: {folder} is not a whole zsu_fast patch ({error})") from error
    check_format(folder, metadata)
    return parsed(folder, metadata, tensors)


def _part(number: int, count: int) -> str:
    return f"part-{number + 1}-of-{count}.safetensors"


def _cut(tensor: Tensor, number: int, count: int) -> Tensor:
    """Part of a tensor's elements, row-major."""
    flat = tensor.reshape(-1)
    return flat[offset_of(len(flat), count, number) : offset_of(len(flat), count, number + 1)].clone()
