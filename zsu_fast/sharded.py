"""Weights in several files, as transformers writes them: an index names the file that each tensor lies in."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor  # late: commands know these names before they need torch

WEIGHTS, SHARDS, INDEX = "model.safetensors", "model-?????-of-?????.safetensors", ".index.json"
"""Names of weights in one file; in several, as a pattern; and what the index is called after."""
# In the order in which transformers looks for them.
NAMES = (WEIGHTS, f"{WEIGHTS}{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
LIMIT = 256 * 2**20  # bytes of an index that is read at all

State = dict[str, "Tensor"]


def file_in(folder: Path) -> Path:
    """The weights, or their index, of a folder of transformers. ValueError if it holds none."""
    for name in NAMES:
        if (folder / name).is_file():
            return folder / name
    if (folder / ".metadata").is_file():
        raise ValueError(
            f"weights: {folder} is a checkpoint of torch.distributed, whose .metadata is a pickle, and no code is run "
            "for a file: convert it with python -m torch.distributed.checkpoint.format_utils dcp_to_torch DIR FILE"
        )
    raise ValueError(f"weights: {folder} holds none of {', '.join(NAMES)}")


def written_in(folder: Path) -> Path | None:
    """The file of weights that `write_model` wrote there, or their index."""
    return next((folder / name for name in NAMES[:2] if (folder / name).is_file()), None)


def check_alone(path: Path) -> None:
    """ValueError for a file that is one of several."""
    found = re.fullmatch(r"(.+)-\d{5}-of-(\d{5})(\.\w+)", path.name)
    if found and int(found[2]) > 1:
        raise ValueError(f"weights: {path} is one of {int(found[2])} files: give {found[1]}{found[3]}{INDEX}")


def read_index(index: Path, read: Callable[[Path], tuple[State, dict[str, str]]]) -> tuple[State, dict[str, str]]:
    """All tensors that an index names, and the metadata of the first of its files; each file is given to `read`.

    Raises:
        ValueError: not an index, a file that lies elsewhere or is missing, or that holds other tensors than it says.
    """
    placed = _placed(index)
    state: State = {}
    metadata: dict[str, str] = {}
    for name in sorted(set(placed.values())):
        if not (index.parent / name).is_file():
            raise ValueError(f"weights: {index.parent / name} is missing, which {index.name} names")
        found, told = read(index.parent / name)
        promised = {tensor for tensor, place in placed.items() if place == name}
        if differs := sorted(promised ^ found.keys()):
            raise ValueError(f"weights: {index.parent / name} and {index.name} do not agree on {differs[0]!r}")
        state |= found
        metadata = metadata or told
    return state, metadata


def _placed(index: Path) -> dict[str, str]:
    """Tensor -> the file beside the index that it lies in. ValueError: not an index."""
    try:
        if index.stat().st_size > LIMIT:
            raise ValueError("larger than any index")
        placed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        if not placed or not all(name and Path(name).name == name for name in placed.values()):
            raise ValueError("it must name files beside it")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"weights: {index} is no index of weights: {type(error).__name__}: {error}") from None
    return placed


def largest_shard(path: Path) -> int | None:
    """Bytes of tensors that weights which lie in several files have in one at most; None where they are in one file.

    Files with a single tensor do not count: it may be larger than a file was to be. path: as `read_weights` takes it: a
    file, an index, or the folder of either.
    """
    if path.is_dir():
        path = next((path / name for name in NAMES if (path / name).is_file()), path)
    if not path.name.endswith(INDEX):
        return None
    held = Counter(_placed(path).values())
    return max((_bytes_in(path.parent / name) for name, count in held.items() if count > 1), default=1)


def _bytes_in(file: Path) -> int:
    """Of its tensors; of a file that is no safetensors file, all."""
    size = file.stat().st_size
    if file.suffix != ".safetensors":
        return size
    with file.open("rb") as opened:
        return size - 8 - int.from_bytes(opened.read(8), "little")


def write_model(state: Mapping[str, Any], folder: Path, metadata: dict[str, str], most: int | None = None) -> list[str]:
    """Write a state dict as ``model.safetensors``, or as several files and an index; the names of what was written.

    One after the other, with every name of the state dict: tensors that share memory (tied weights) are each written
    in full, and may lie in different files.

    most: bytes of tensors in a file. A tensor that is larger has a file of its own. None: one file.
    """
    from torch import Tensor

    from zsu_fast.safetensors_file import write_weights

    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    parts: list[State] = [{}]
    size = 0
    for name, value in tensors.items():
        size += value.nbytes
        if most is not None and parts[-1] and size > most:
            parts.append({})
            size = value.nbytes
        parts[-1][name] = value
    if len(parts) == 1:
        write_weights(tensors, folder / WEIGHTS, metadata)
        return [WEIGHTS]
    names = [f"model-{number:05d}-of-{len(parts):05d}.safetensors" for number in range(1, len(parts) + 1)]
    for name, part in zip(names, parts, strict=True):
        write_weights(part, folder / name, metadata)
    placed = {tensor: name for name, part in zip(names, parts, strict=True) for tensor in part}
    index = {"metadata": {"total_size": sum(value.nbytes for value in tensors.values())}, "weight_map": placed}
    (folder / f"{WEIGHTS}{INDEX}").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return [*names, f"{WEIGHTS}{INDEX}"]
