"""Weights on the disk: read without executing code, written whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zsu_fast.safetensors_file import save_atomically


def read_weights(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state dict on the CPU and the file's metadata, from safetensors or from ``torch.save``.

    A file of ``torch.save`` is read with ``weights_only=True`` (nothing in it is executed); the state dict may lie
    in it under "state_dict" or "model".

    Raises:
        ValueError: no such file, or no weights in it.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"weights: no such file: {path}")
    if path.suffix == ".safetensors":
        try:
            with safe_open(str(path), framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"weights: {path} is not a whole safetensors file ({error})") from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file the unpickler raises nearly anything (struct.error, KeyError ...)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(f"weights: {path} does not hold a plain state dict ({reason})") from None
    for key in ("state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            loaded = loaded[key]
    tensors = (
        {name: value for name, value in loaded.items() if isinstance(value, Tensor)} if isinstance(loaded, dict) else {}
    )
    if not tensors:
        raise ValueError(f"weights: {path} does not hold a state dict, but {type(loaded).__name__}")
    return tensors, {}


def load_into(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load a state dict strictly; a ``module.`` prefix (DataParallel) goes, BatchNorm's batch counter may be missing.

    Raises:
        ValueError: naming the first tensor that is missing, left over or of another shape.
    """
    if all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    own = model.state_dict()
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    left_over = [name for name in state if name not in own]
    shapes = [name for name in own if name in state and own[name].shape != state[name].shape]
    if missing or left_over:
        parts = [
            f"{len(names)} {what} ({names[0]})"
            for names, what in ((missing, "missing"), (left_over, "left over"))
            if names
        ]
        raise ValueError(f"weights: {source} does not fit the model: {', '.join(parts)}")
    if shapes:
        name = shapes[0]
        raise ValueError(
            f"weights: {source} does not fit the model: {name} is {list(state[name].shape)} in the file and "
            f"{list(own[name].shape)} in the model"
        )
    model.load_state_dict(state, strict=False)


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
