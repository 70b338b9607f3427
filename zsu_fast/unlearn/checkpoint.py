"""Checkpoints of training: a run that was killed goes on from the last one, to the same bits as one that was not.

A call of `forget` is the same from its beginning to any step, so a run that goes on begins anew and skips the steps
that its checkpoint has behind it. Every stretch of steps has a file of its own; what is between them is done again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zsu_fast.atomic import remove_partial
from zsu_fast.evaluate.inference import cuda_devices
from zsu_fast.lock import Lock
from zsu_fast.model.tensors import Tensors, model_digest, update_digest
from zsu_fast.safetensors_file import checksum, save_atomically
from zsu_fast.unlearn.options import Options, check_positive
from zsu_fast.version import __version__

LOG = logging.getLogger(__name__)
FORMAT, FORMAT_VERSION = "zsu_fast.checkpoint", "1"
NAME = "training-{}.safetensors"
SHARE = 1 / 20
"""Of the time, at most, goes into writing while steps are taken: where it takes more it is done less often."""


class Stretch:
    """Steps in a row that are kept nowhere."""

    def behind(self) -> bool:
        """Whether the next step is done already. To be asked before every step."""
        return False

    def done(self, ended: bool) -> None:
        """A step was taken; ended: no more will be."""


class Checkpoint:
    """Where a call of `forget` keeps what its training has come to.

    folder: made if it is not there; locked until `close`. resume: go on from what is there, if anything is. every:
    seconds, at least, from one checkpoint to the next; 0: after every step. A stretch that ends is kept in any case.

    Raises:
        BlockingIOError: another run holds the folder.
        ValueError, TypeError, OSError: naming the argument.
    """

    def __init__(self, folder: str | os.PathLike[str], resume: bool, every: float) -> None:
        check_positive("checkpoint_every", every, or_zero=True)
        if not isinstance(resume, bool):
            raise TypeError(f"resume: expected True or False, got {resume!r}")
        try:
            self.folder = Path(folder)
        except TypeError:
            raise TypeError(f"checkpoint: expected the path of a folder, got {type(folder).__name__}") from None
        self._every, self._stretches, self._fingerprint = every, 0, ""
        self._always: list[Any] = []
        self._due = time.monotonic() + every
        self._lock = Lock(self.folder, "checkpoint")
        if self._files() and not resume:
            self.close()
            raise ValueError(
                f"checkpoint: {self.folder} holds one of an earlier run; resume=True goes on from it; or delete it"
            )

    def begin(self, model: nn.Module, fingerprint: dict[str, str], cost: object) -> None:
        """Before training. model: whose devices draw. fingerprint: what decides the result. cost: counts.

        ValueError if a file is damaged, or of another run: then it says what differs.
        """
        self._fingerprint = json.dumps(fingerprint, sort_keys=True)
        drawing = [torch.cuda.default_generators[device.index or 0] for device in cuda_devices(model)]
        self._always = [vars(cost), torch.default_generator, *drawing]
        remove_partial(self.folder)
        for path in self._files():
            found = json.loads(_read(path)[0]["fingerprint"])
            other = [
                f"{name} was {_short(found.get(name))} and is {_short(fingerprint.get(name))}"
                for name in sorted({*found, *fingerprint})
                if found.get(name) != fingerprint.get(name)
            ]
            if other:
                raise ValueError(f"checkpoint: {self.folder} is of another run: {'; '.join(other)}")

    def stretch(self, things: Sequence[Any]) -> Stretch:
        """The next stretch of steps. things: all that a step changes, or draws from.

        Modules, tensors, generators, dicts of numbers (all restored in place), and what has `state_dict` and
        `load_state_dict`. A list may grow, by the same things in every run, before the step that first changes them.
        """
        self._stretches += 1
        return _KeptStretch(self, self.folder / NAME.format(self._stretches), things)

    def write(self, path: Path, things: Sequence[Any], step: int, ended: bool) -> None:
        """One file, if its time has come or the stretch has ended."""
        before = time.monotonic()
        if not ended and before < self._due:
            return
        found: list[Tensor] = []
        state = _packed([_state(thing) for thing in (*self._always, *things)], found)
        metadata = {
            "format": FORMAT, "version": FORMAT_VERSION, "fingerprint": self._fingerprint,
            "state": json.dumps({"step": step, "ended": ended, "things": state}),
        }  # fmt: skip
        tensors = {str(i): tensor for i, tensor in enumerate(_apart(found))}
        save_atomically(tensors, path, metadata | {"sha256": checksum(metadata, tensors)}, mode=0o600)
        now = time.monotonic()
        self._due = now + (max(self._every, (now - before) / SHARE) if self._every else 0)

    def restore(self, things: Sequence[Any], state: Any, tensors: Sequence[Tensor]) -> None:
        found = _unpacked(state, tensors)
        with torch.no_grad():
            for thing, then in zip((*self._always, *things), found, strict=True):
                _put_back(thing, then)

    def finish(self) -> None:
        """The run is over: nothing of it stays."""
        for path in self._files():
            path.unlink()

    def close(self) -> None:
        """Let other runs in; a folder that was made and is empty goes away. Safe to repeat."""
        self._lock.close()

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(NAME.format("*")))


@contextmanager
def kept_in(folder: str | os.PathLike[str] | None, resume: bool, every: float) -> Iterator[Checkpoint | None]:
    """A `Checkpoint`, of which nothing stays where the block comes to its end; None without a folder."""
    if folder is None:
        if resume:
            raise ValueError("resume: needs checkpoint, the folder to go on from")
        yield None
        return
    with closing(Checkpoint(folder, resume, every)) as checkpoint:
        yield checkpoint
        checkpoint.finish()


class _KeptStretch(Stretch):
    def __init__(self, checkpoint: Checkpoint, path: Path, things: Sequence[Any]) -> None:
        self._checkpoint, self._path, self._things = checkpoint, path, things
        self._step, self._kept, self._ended = 0, 0, False
        if path.exists():
            metadata, self._tensors = _read(path)
            found = json.loads(metadata["state"])
            self._kept, self._ended, self._state = found["step"], found["ended"], found["things"]
            LOG.info("goes on after step %d of %s", self._kept, path)

    def behind(self) -> bool:
        if self._step >= self._kept:
            return self._ended
        self._step += 1
        if self._step == self._kept:
            self._checkpoint.restore(self._things, self._state, self._tensors)
            del self._state, self._tensors
        return True

    def done(self, ended: bool) -> None:
        self._step += 1
        self._checkpoint.write(self._path, self._things, self._step, ended)


def fingerprint(
    model: nn.Module, digest: str, method: str, options: Options, given: Mapping[str, object]
) -> dict[str, str]:
    """What decides every bit of a training, by names that an error can say.

    digest: of the model. given: the request, and images beside it. The number of threads and the instructions of the
    processor are among it: they decide in which order sums are taken.
    """
    parameter = next(model.parameters(), torch.empty(0))
    where = f"{torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"
    if parameter.is_cuda:
        where = f"{torch.cuda.get_device_name(parameter.device)}, {where}"
    modules = [(name, type(module).__qualname__) for name, module in model.named_modules()]
    return {
        "model": digest,
        "the model's modules": digest_of(modules),
        **{name: digest_of(value) for name, value in given.items()},
        "method": method,
        **{f"option {name}": repr(value) for name, value in asdict(options).items()},
        "zsu_fast": __version__,
        "torch": torch.__version__,
        "device": where,
    }


def digest_of(value: object) -> str:
    """SHA-256 of tensors, arrays, modules, numbers, texts, in dataclasses, sequences, mappings; of others the type."""
    digest = hashlib.sha256()
    _update(digest, value)
    return digest.hexdigest()


def _update(digest: hashlib._Hash, value: Any) -> None:
    digest.update(f"{type(value).__qualname__}\0".encode())
    if isinstance(value, Tensor):
        update_digest(digest, "", value)
    elif isinstance(value, (np.ndarray, np.generic)):
        digest.update(f"{value.dtype}\0{value.shape}\0".encode() + value.tobytes())
    elif isinstance(value, nn.Module):
        digest.update(model_digest(value).encode())
    elif value is None or isinstance(value, (str, bytes, int, float)):
        digest.update(f"{value!r}\0".encode())
    elif is_dataclass(value):
        for f in fields(value):
            _update(digest, getattr(value, f.name))
    elif isinstance(value, Mapping):
        _update(digest, list(value.items()))
    elif isinstance(value, Sequence):
        digest.update(f"{len(value)}\0".encode())
        for part in value:
            _update(digest, part)


def _short(value: str | None) -> str:
    """A digest as far as people compare them."""
    return f"{value[:12]}.." if value and len(value) == 64 else str(value)


def _state(thing: Any) -> Any:
    if isinstance(thing, nn.Module):
        tensors = Tensors(thing)
        return {name: tensors[name] for name in tensors.by_identity().values()}
    if isinstance(thing, torch.Generator):
        return thing.get_state()
    return thing if isinstance(thing, (Tensor, dict)) else thing.state_dict()


def _put_back(thing: Any, state: Any) -> None:
    if isinstance(thing, nn.Module):
        tensors = Tensors(thing)
        for name, value in state.items():
            tensors[name].copy_(value)
    elif isinstance(thing, torch.Generator):
        thing.set_state(state)
    elif isinstance(thing, Tensor):
        thing.copy_(state)
    elif isinstance(thing, dict):
        thing.update(state)
    else:
        thing.load_state_dict(state)


def _packed(value: Any, tensors: list[Tensor]) -> Any:
    """JSON that `_unpacked` makes the same of again; tensors are moved into the list."""
    if isinstance(value, Tensor):
        tensors.append(value)
        return {"tensor": len(tensors) - 1, "stride": list(value.stride())}
    if isinstance(value, dict):
        return {"dict": [[key, _packed(part, tensors)] for key, part in value.items()]}
    if isinstance(value, (list, tuple)):
        return {type(value).__name__: [_packed(part, tensors) for part in value]}
    return value


def _unpacked(packed: Any, tensors: Sequence[Tensor]) -> Any:
    if not isinstance(packed, dict):
        return packed
    if "tensor" in packed:
        return _laid_out(tensors[packed["tensor"]], packed["stride"])
    if "dict" in packed:
        return {key: _unpacked(part, tensors) for key, part in packed["dict"]}
    kind, parts = next(iter(packed.items()))
    return (tuple if kind == "tuple" else list)(_unpacked(part, tensors) for part in parts)


def _laid_out(tensor: Tensor, stride: Sequence[int]) -> Tensor:
    """The same values in the memory layout that they had."""
    if list(tensor.stride()) == stride:
        return tensor
    return torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype).copy_(tensor)


def _apart(tensors: Sequence[Tensor]) -> list[Tensor]:
    """On the CPU, row-major, no two in one memory."""
    found, seen = [], set()
    for tensor in tensors:
        own = tensor.detach().cpu().contiguous()
        memory = own.untyped_storage().data_ptr()
        found.append(own.clone() if memory in seen else own)
        seen.add(memory)
    return found


def _read(path: Path) -> tuple[dict[str, str], list[Tensor]]:
    """Metadata and tensors. ValueError for what is no whole checkpoint."""
    try:
        with safe_open(str(path), framework="pt") as file:
            metadata = file.metadata() or {}
            if (metadata.get("format"), metadata.get("version")) != (FORMAT, FORMAT_VERSION):
                raise ValueError(f"checkpoint: {path} is no zsu_fast checkpoint of version {FORMAT_VERSION}")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise ValueError(f"checkpoint: {path} is damaged ({error}); delete it to begin anew") from error
    if metadata.get("sha256") != checksum(metadata, tensors):
        raise ValueError(f"checkpoint: {path} is damaged: its checksum is not that of its contents; delete it")
    return metadata, [tensors[str(i)] for i in range(len(tensors))]
