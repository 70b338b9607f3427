"""Weights in several files, as transformers writes them: an index names the file that each tensor lies in."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

INDEX = ".index.json"
# In the order in which transformers looks for them.
NAMES = ("model.safetensors", f"model.safetensors{INDEX}", "pytorch_model.bin", f"pytorch_model.bin{INDEX}")
LIMIT = 256 * 2**20  # bytes of an index that is read at all

State = dict[str, Tensor]


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
    try:
        if index.stat().st_size > LIMIT:
            raise ValueError("larger than any index")
        placed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(placed.values()))
        if not files or not all(name and Path(name).name == name for name in files):
            raise ValueError("it must name files beside it")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"weights: {index} is no index of weights: {type(error).__name__}: {error}") from None
    state: State = {}
    metadata: dict[str, str] = {}
    for name in files:
        if not (index.parent / name).is_file():
            raise ValueError(f"weights: {index.parent / name} is missing, which {index.name} names")
        found, told = read(index.parent / name)
        promised = {tensor for tensor, place in placed.items() if place == name}
        if differs := sorted(promised ^ found.keys()):
            raise ValueError(f"weights: {index.parent / name} and {index.name} do not agree on {differs[0]!r}")
        state |= found
        metadata = metadata or told
    return state, metadata
