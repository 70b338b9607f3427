"""Files of ``torch.save`` as people have them: read as data, and the state dict found in what else lies there."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsu_fast.model.wrapped import written_name

# Where training scripts put the state dict. The weights themselves go before their moving average.
KEYS = (
    "state_dict",
    "model_state_dict",
    "model_state",
    "model",
    "net",
    "weights",
    "state_dict_ema",
    "model_ema",
    "ema",
)

# torch.save never compresses, so an honest archive expands to less than its own size.
SLACK = 1 << 20


class _Beside:
    """Stands for a value that lies beside the weights and is not needed; whatever the file says of it is dropped."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# Numbers and settings that training scripts save with the weights. None of these is built: each becomes a `_Beside`.
_BESIDE = [
    (_Beside, name)
    for name in (
        "numpy.dtype",
        "numpy.ndarray",
        *(
            f"numpy.{core}.multiarray.{function}"
            for core in ("core", "_core")
            for function in ("scalar", "_reconstruct")
        ),
        "numpy._core.numeric._frombuffer",
        "numpy.core.numeric._frombuffer",
        "_codecs.encode",
        "argparse.Namespace",
    )
]


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The state dict in a file of ``torch.save``; nothing in the file is executed.

    It may lie at the top or under one of `KEYS`, and beside it numbers of NumPy and an ``argparse.Namespace``.

    Raises:
        ValueError: naming the file, and what is in it instead.
    """
    try:
        _check_expanded_size(path)
        with torch.serialization.safe_globals(_BESIDE):  # type: ignore[arg-type]  # (class, name) is documented
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file the unpickler raises nearly anything (struct.error, KeyError ...)
        raise ValueError(f"weights: {path} does not hold a plain state dict ({_reason(error)})") from None
    return _state_dict(loaded, path)


def _check_expanded_size(path: Path) -> None:
    if not zipfile.is_zipfile(path):
        return  # the old format, which does not compress
    with zipfile.ZipFile(path) as archive:
        expanded = sum(member.file_size for member in archive.infolist())
    if expanded > path.stat().st_size + SLACK:
        raise ValueError(f"it would expand to {expanded} bytes, torch.save does not compress")


def _reason(error: Exception) -> str:
    """One line without torch's advice to load the file with its code, and without escape codes."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).strip()
    if "TorchScript" in text:
        return "it is a TorchScript archive: save model.state_dict()"
    if not isinstance(error, pickle.UnpicklingError):
        return (text.splitlines() or [type(error).__name__])[0]
    if found := re.search(r"(?:GLOBAL|class) ([\w.]+)", text):
        name = found[1].rstrip(".")
        return f"it needs {name}, and no code is run for a file: save model.state_dict() alone"
    found = re.search(r"WeightsUnpickler error: *([^\n]+)", text)
    return found[1].strip() if found else "not a file of torch.save"


def _state_dict(loaded: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(loaded, _Beside):
        raise ValueError(
            f"weights: {path} does not hold a state dict, but an object of Python: save model.state_dict()"
        )
    if not isinstance(loaded, Mapping):
        raise ValueError(f"weights: {path} does not hold a state dict, but {type(loaded).__name__}")
    for _ in range(3):  # {"model": {"state_dict": ...}}
        inner = next((loaded[key] for key in KEYS if _holds_tensors(loaded.get(key))), None)
        if inner is None:
            break
        loaded = inner
    inside = [name for name, value in loaded.items() if _holds_tensors(value)]
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if inside or not tensors:
        raise ValueError(
            f"weights: {path} does not hold a state dict, at the top or under one of {', '.join(KEYS)}; "
            f"it holds {listed(loaded)}" + (f": save what is under {inside[0]!r} alone" if inside else "")
        )
    return tensors


def _holds_tensors(value: object) -> bool:
    """Whether this is a state dict, or a dict with one under one of the known keys."""
    if not isinstance(value, Mapping):
        return False
    return any(isinstance(inner, Tensor) for inner in value.values()) or any(
        isinstance(value.get(key), Mapping) for key in KEYS
    )


def listed(names: Iterable[Any], most: int = 5) -> str:
    """ "'a', 'b' and 7 more"."""
    shown = [repr(name) for name in names]
    if not shown:
        return "nothing"
    rest = len(shown) - most
    return ", ".join(shown[:most]) + (f" and {rest} more" if rest > 0 else "")


def fitted(state: dict[str, Tensor], own: Iterable[str]) -> dict[str, Tensor]:
    """The state dict under the model's names, as far as a prefix tells them apart.

    Wrappers put their own name before all others: ``module.`` (DataParallel), ``_orig_mod.`` (torch.compile, also
    within a name), ``model.`` (Lightning), in any order. One that all names share goes if more names are the model's
    without it.
    """
    wanted = {written_name(name): name for name in own}
    best, most = state, sum(name in wanted.values() for name in state)
    plain = {written_name(name): value for name, value in state.items()}
    if len(plain) < len(state) or not plain:
        return best
    shared = min(len(name.split(".")) for name in plain) - 1
    first = next(iter(plain)).split(".")
    for depth in range(shared + 1):
        prefix = "".join(f"{part}." for part in first[:depth])
        if not all(name.startswith(prefix) for name in plain):
            break
        stripped = {name[len(prefix) :]: value for name, value in plain.items()}
        matches = sum(name in wanted for name in stripped)
        if matches > most:
            best, most = {wanted.get(name, name): value for name, value in stripped.items()}, matches
    return best
