"""Files of ``torch.save`` as people have them: read as data, and the state dict found in what else lies there."""

from __future__ import annotations

import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
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

    name = "an object of Python"

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


# What files of the old format may name; of a zip archive the names are read first, see `_stand_ins`.
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
        "_codecs.encode",
        "argparse.Namespace",
    )
]


def _stand_ins(path: Path) -> list[tuple[Any, str]]:
    """Something that does nothing for every class and function that the file names and torch does not know.

    So that settings, schedules and losses that scripts save beside the weights are no hindrance. Nothing of what they
    name is looked up. What makes tensors is left to torch, which refuses it.
    """
    if not zipfile.is_zipfile(path):
        return _BESIDE
    found: list[tuple[Any, str]] = []
    for name in torch.serialization.get_unsafe_globals_in_checkpoint(path):
        if name.startswith(("torch._", "torch.distributed.")):
            continue
        mapping = name.endswith(("Dict", "CfgNode"))  # of settings: the unpickler fills none but its own
        found.append((OrderedDict if mapping else type("_Named", (_Beside,), {"name": name}), name))
    return found


def read_checkpoint(
    path: Path, key: str | None = None, note: Callable[[str], None] = lambda _: None
) -> dict[str, Tensor]:
    """The state dict in a file of ``torch.save``; nothing in the file is executed.

    It may lie at the top or under one of `KEYS`, and beside it anything.

    Args:
        key: the key, or the prefix of names, that it lies under instead.
        note: told which one was taken where there are several.

    Raises:
        ValueError: naming the file, and what is in it instead.
    """
    try:
        _check_expanded_size(path)
        with torch.serialization.safe_globals(_stand_ins(path)):  # type: ignore[arg-type]  # (class, name) is documented
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # of a damaged file the unpickler raises nearly anything (struct.error, KeyError ...)
        raise ValueError(f"weights: {path} does not hold a plain state dict ({_reason(error)})") from None
    return _state_dict(loaded, path, key, note)


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


def _state_dict(loaded: Any, path: Path, key: str | None, note: Callable[[str], None]) -> dict[str, Tensor]:
    if isinstance(loaded, _Beside):
        raise ValueError(
            f"weights: {path} does not hold a plain state dict: it is {loaded.name}, and no code is run for a file: "
            "save model.state_dict() alone"
        )
    if not isinstance(loaded, Mapping):
        raise ValueError(f"weights: {path} does not hold a state dict, but {type(loaded).__name__}")
    for _ in range(3):  # {"model": {"state_dict": ...}}
        if key is not None and (isinstance(loaded.get(key), Mapping) or _holds_tensors(under(loaded, key))):
            loaded, key = loaded[key] if isinstance(loaded.get(key), Mapping) else under(loaded, key), None
        there = [name for name in KEYS if _holds_tensors(loaded.get(name))]
        if not there:
            break
        if key is None and len(there) > 1:
            others = ", ".join(f"{path.name}::{name}" for name in there[1:])
            note(f"{path} holds several sets of weights: {there[0]!r} is taken (others: {others})")
        loaded = loaded[there[0]]
    inside = [name for name, value in loaded.items() if _holds_tensors(value)]
    tensors = {name: value for name, value in loaded.items() if isinstance(name, str) and isinstance(value, Tensor)}
    if key is not None:
        raise ValueError(f"weights: {path} holds nothing under {key!r}; it holds {listed(loaded)}")
    if inside or not tensors:
        raise ValueError(
            f"weights: {path} does not hold a plain state dict, at the top or under one of {', '.join(KEYS)}; "
            f"it holds {listed(loaded)}" + (f": {path.name}::{inside[0]} takes what is there" if inside else "")
        )
    return tensors


def under(state: Mapping[Any, Any], prefix: str) -> dict[str, Any]:
    """What has names that begin with the prefix and a point, without them."""
    start = f"{prefix}."
    return {n[len(start) :]: v for n, v in state.items() if isinstance(n, str) and n.startswith(start)}


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
    without it. Where none is shared and the names under one prefix, and no other, are the model's, these are taken: a
    counter (``n_averaged``) or a loss lies beside them; or a moving average, which is not taken for the weights.
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
    if most == 0 and (only := _only_prefix(plain, set(wanted))) is not None:
        best = {wanted[name]: value for name, value in under(plain, only).items()}
    return best


def _only_prefix(state: dict[str, Tensor], wanted: set[str]) -> str | None:
    """The prefix under which are all the model's names and nothing else; of several the one that is no average."""
    prefixes = {".".join(name.split(".")[:depth]) for name in state for depth in range(1, min(5, len(name.split("."))))}
    counted = {name for name in wanted if not name.endswith("num_batches_tracked")}
    whole = [prefix for prefix in sorted(prefixes) if counted <= under(state, prefix).keys() <= wanted]
    if len(whole) > 1:
        whole = [prefix for prefix in whole if "ema" not in re.split(r"[._]", prefix)]
    return whole[0] if len(whole) == 1 else None
