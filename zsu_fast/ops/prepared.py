"""Tensors derived from weights (|W|, W+, W + gamma W+, folded weights), computed once where somebody keeps them.

Nothing is kept unless a `Kept` is open: torch has no sure sign that a weight has changed (fused optimizers, BatchNorm's
statistics, `tensor.data` and other processes write without a word, and addresses come back). `zsu_fast.lrp.relevance`
opens one for the length of a call, `zsu_fast.lrp.constant_weights` one for as long as its user says so.
"""

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

_Derived = TypeVar("_Derived", bound=Tensor | tuple[Tensor, ...])

Kind = str | tuple[str, float]
"""How to modify a weight: "plain", "abs", "positive", "negative" or ("gamma", g) for W + g W+."""


class _Entry(NamedTuple):
    sources: tuple[Tensor, ...]  # held, so that no other tensor can come to bear the identity in the key
    state: tuple[tuple[int, int], ...]
    value: Any


class Kept:
    """Derived tensors, by what they come from. A source that torch's version counter or address shows to have changed
    is noticed.

    Args:
        sources: Keep what is derived from these alone; None: from any tensors.
    """

    def __init__(self, sources: Iterable[Tensor] | None = None) -> None:
        self.entries: dict[Hashable, _Entry] = {}
        self._sources = None if sources is None else {id(source): source for source in sources}

    def takes(self, sources: tuple[Tensor, ...]) -> bool:
        return self._sources is None or all(id(source) in self._sources for source in sources)

    def keep(self, key: Hashable, entry: _Entry) -> None:
        self.entries[key] = entry
        if self._sources is not None:  # what is derived from derived tensors is kept too
            self._sources.update((id(tensor), tensor) for tensor in _tensors(entry.value))


_open: ContextVar[tuple[Kept, ...]] = ContextVar("zsu_fast_kept", default=())


def open_kept() -> tuple[Kept, ...]:
    """What is open here: for `keeping`, in another thread (autograd runs the backward passes of GPUs in its own)."""
    return _open.get()


@contextmanager
def keeping(*kept: Kept) -> Iterator[None]:
    """Inside, derived tensors are kept in the first of `kept` that takes them."""
    token = _open.set(kept)
    try:
        yield
    finally:
        _open.reset(token)


def clear_prepared() -> None:
    """Drop the derived tensors that are kept here and now; where nothing is open there are none."""
    for kept in _open.get():
        kept.entries.clear()


def _tensors(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else value


def _plain(tensors: tuple[Tensor, ...]) -> bool:
    # Inference tensors have no version counter; subclasses and traced tensors (fake ones) need not have storage.
    return all(type(tensor) in (Tensor, torch.nn.Parameter) and not tensor.is_inference() for tensor in tensors)


def _stream(device: torch.device) -> int:
    """CUDA work is ordered within one stream only, so every stream gets tensors of its own."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def derived(key: Hashable, sources: tuple[Tensor, ...], compute: Callable[..., _Derived]) -> _Derived:
    """compute(*sources), kept under `key` where a `Kept` is open that takes it. Never differentiable.

    The result may be shared: it must not be written to.
    """
    if torch.compiler.is_compiling() or not _plain(sources):
        with torch.no_grad():
            return compute(*sources)
    kept = next((kept for kept in _open.get() if kept.takes(sources)), None)
    device = sources[0].device
    if kept is not None:
        full_key = (key, _stream(device), *map(id, sources))
        state = tuple((source._version, source.data_ptr()) for source in sources)
        entry = kept.entries.get(full_key)
        if entry is not None and entry.state == state:
            return entry.value
    # Normal (not inference) tensors, because whoever comes next may want to save them for a backward.
    with torch.inference_mode(False), torch.no_grad():
        value = compute(*sources)
    # What a graph that is being captured computes belongs to it, and holds nothing until the graph is replayed.
    captured = device.type == "cuda" and torch.cuda.is_current_stream_capturing()
    if kept is not None and not captured and _plain(_tensors(value)):
        kept.keep(full_key, _Entry(sources, state, value))
    return value


def modify(weight: Tensor, kind: Kind) -> Tensor:
    match kind:
        case "plain":
            return weight
        case "abs":
            return weight.abs()
        case "positive":
            return weight.clamp(min=0)
        case "negative":
            return weight.clamp(max=0)
        case ("gamma", gamma):
            return weight + gamma * weight.clamp(min=0)
        case _:
            raise ValueError(f'kind must be "plain", "abs", "positive", "negative" or ("gamma", g), got {kind!r}')


def prepared(weight: Tensor, kind: Kind) -> Tensor:
    """`weight` modified as `kind` says, same shape, dtype and memory format."""
    return derived(kind, (weight,), lambda w: modify(w, kind))
