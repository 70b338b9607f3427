"""Weights on the disk: read without executing code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from zsu_fast.cli.checkpoints import fitted, listed, read_checkpoint, under
from zsu_fast.cli.parsing import split_key
from zsu_fast.sharded import INDEX, check_alone, file_in, read_index

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def read_weights(
    path: str | Path, note: Callable[[str], None] = lambda _: None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """A state dict on the CPU and the file's metadata, from safetensors or from ``torch.save``.

    A file of ``torch.save`` is read with ``weights_only=True`` (nothing in it is executed); the state dict may lie
    in it under one of the keys that training scripts use ("state_dict", "model", ...).

    Args:
        path: a file, a folder of transformers or an index (``model.safetensors.index.json``); ``FILE::KEY`` takes what
            lies under a key or a prefix of names ("ema", "online_model").
        note: told which weights were taken where there are several.

    Raises:
        ValueError: no such file, or no weights in it.
    """
    path, key = split_key(path)
    if path.is_dir():
        path = file_in(path)
    if not path.is_file():
        raise ValueError(f"weights: no such file: {path}")
    check_alone(path)
    if path.name.endswith(INDEX):
        state, metadata = read_index(path, _read)
    elif path.suffix.lower() == ".safetensors":
        state, metadata = _read(path)
    else:
        return read_checkpoint(path, key, note), {}
    if key is not None and not (found := under(state, key)):
        raise ValueError(f"weights: {path} holds no names that begin with {key + '.'!r}; it holds {listed(state)}")
    return (state if key is None else found), metadata


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    if path.suffix.lower() != ".safetensors":
        return read_checkpoint(path), {}
    try:
        with safe_open(str(path), framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except Exception as error:  # SafetensorError, KeyError for a type that torch does not have, MemoryError ...
        raise ValueError(f"weights: {path} is not a whole safetensors file ({error or type(error).__name__})") from None


def load_into(
    model: nn.Module, state: dict[str, Tensor], source: str, note: Callable[[str], None] = lambda _: None
) -> None:
    """Load a state dict strictly; prefixes of wrappers (see `fitted`) go, BatchNorm's batch counter may be missing.

    What else lies beside them is told to `note`.

    Floats of 16, 32 and 64 bits are converted to the model's; everything else must be of the model's own kind.

    Raises:
        ValueError: naming the first tensor that is missing, left over, of another shape or kind, or not finite.
    """
    own = model.state_dict()
    given, state = state, fitted(state, own)
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    left_over = [name for name in state if name not in own]
    refused = f"weights: {source} does not fit the model: "
    if missing or left_over:
        parts = [
            f"{len(names)} {what} ({names[0]})"
            for names, what in ((missing, "missing"), (left_over, "left over"))
            if names
        ]
        if not any(name in own for name in state):
            parts.append(f"no name is the same, the file has {listed(state)}")
        raise ValueError(refused + ", ".join(parts))
    for name, value in state.items():
        if value.shape != own[name].shape:
            raise ValueError(
                f"{refused}{name} is {list(value.shape)} in the file and {list(own[name].shape)} in the model"
            )
        if problem := _problem(value, own[name]):
            raise ValueError(f"{refused}{name} {problem}")
    model.load_state_dict(state, strict=False)
    if len(state) < len(given):
        taken = {id(value) for value in state.values()}
        beside = dict.fromkeys(name.partition(".")[0] for name, value in given.items() if id(value) not in taken)
        note(f"{source} holds {listed(beside)} beside the model's weights, which are left aside")


def _problem(value: Tensor, own: Tensor) -> str | None:
    """Why a tensor of the right shape cannot be loaded: load_state_dict would convert anything to anything."""
    if _kind(value) != _kind(own):
        return f"is {_name(value)} in the file and {_name(own)} in the model"
    if _kind(value) not in ("float", "integer"):
        return None
    converted = value.to(own.dtype)
    if _kind(value) == "integer":
        same = torch.equal(converted.to(value.dtype), value)
        return None if same else f"holds values that {_name(own)} cannot hold"
    # A mask may hold infinities by design: then the model that was just built holds them as well.
    wrong = ~torch.isfinite(converted) & torch.isfinite(own.to("cpu"))
    return f"holds values that are not finite in {_name(own)}" if bool(wrong.any()) else None


def _kind(value: Tensor) -> str:
    """What must be the same in the file and the model; the common floats are one kind, and so are the integers."""
    if value.layout == torch.strided:
        if value.dtype in FLOATS:
            return "float"
        if value.dtype in INTEGERS:
            return "integer"
    return _name(value)


def _name(value: Tensor) -> str:
    name = str(value.dtype).removeprefix("torch.")
    return name if value.layout == torch.strided else f"{str(value.layout).removeprefix('torch.')} {name}"
