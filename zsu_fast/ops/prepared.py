"""Tensors derived from weights (|W|, W+, W + gamma W+, folded weights), computed once and kept while the weight lives.

A derived tensor is found again by the identity of its sources and dropped when a source changes (torch's version
counter, storage address) or dies: the cache holds sources by weak reference only. Edits through `tensor.data` change
neither, by torch's own design; call `clear_prepared()` after them.
"""

import threading
import weakref
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

_Derived = TypeVar("_Derived", bound=Tensor | tuple[Tensor, ...])

Kind = str | tuple[str, float]
"""How to modify a weight: "plain", "abs", "positive", "negative" or ("gamma", g) for W + g W+."""


@dataclass(frozen=True)
class _Entry:
    sources: tuple[weakref.ref, ...]
    state: tuple[tuple[int, int], ...]
    value: Any


_entries: dict[Hashable, _Entry] = {}
_lock = threading.RLock()  # re-entrant: a weak reference's callback may run inside any allocation


def clear_prepared() -> None:
    """Forget every derived tensor (frees their memory; they are computed anew when needed)."""
    with _lock:
        _entries.clear()


def _state(sources: tuple[Tensor, ...]) -> tuple[tuple[int, int], ...]:
    return tuple((source._version, source.data_ptr()) for source in sources)


def _cacheable(sources: tuple[Tensor, ...]) -> bool:
    # Inference tensors have no version counter; subclasses and traced tensors need not have storage.
    return not torch.compiler.is_compiling() and all(
        type(source) in (Tensor, torch.nn.Parameter) and not source.is_inference() for source in sources
    )


def _stream(device: torch.device) -> int:
    """CUDA work is ordered within one stream only, so every stream gets tensors of its own."""
    return torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else 0


def derived(key: Hashable, sources: tuple[Tensor, ...], compute: Callable[..., _Derived]) -> _Derived:
    """compute(*sources), remembered under `key` for as long as all `sources` live unchanged. Never differentiable.

    The result is shared: it must not be written to.
    """
    if not _cacheable(sources):
        with torch.no_grad():
            return compute(*sources)
    device = sources[0].device
    full_key = (key, _stream(device), *map(id, sources))
    state = _state(sources)
    entry = _entries.get(full_key)
    if (
        entry is not None
        and entry.state == state
        and all(r() is s for r, s in zip(entry.sources, sources, strict=True))
    ):
        return entry.value
    # Normal (not inference) tensors, because whoever comes next may want to save them for a backward.
    with torch.inference_mode(False), torch.no_grad():
        value = compute(*sources)
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        return value  # it belongs to the graph, and holds nothing until the graph is replayed

    def drop(dead: weakref.ref, entries: dict = _entries, lock: threading.RLock = _lock) -> None:
        with lock:  # bound here, because globals are gone when weights die with the interpreter
            kept = entries.get(full_key)
            if kept is not None and any(dead is r for r in kept.sources):
                del entries[full_key]

    with _lock:
        _entries[full_key] = _Entry(tuple(weakref.ref(source, drop) for source in sources), state, value)
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
    """`weight` modified as `kind` says, same shape, dtype and memory format; computed once per weight and version."""
    return derived(kind, (weight,), lambda w: modify(w, kind))
