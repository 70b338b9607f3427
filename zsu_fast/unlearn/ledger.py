"""Which edits lie on a model in this process, in their order.

Digests tell whether a tensor is as a patch left it. Where it is not, because other edits were made since, the ledger
knows whether these touched the same elements: only then must they be undone first.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zsu_fast.model.tensors import Tensors, tensor_digest
from zsu_fast.unlearn.entry import Entry

Digests = dict[str, tuple[str, str]]


@dataclass
class _Ledger:
    edits: list[tuple[Digests, Sequence[Entry]]] = field(default_factory=list)  # the latest last
    state: dict[str, str] = field(default_factory=dict)  # digests of edited tensors after the last change that we made


_ledgers: weakref.WeakKeyDictionary[nn.Module, _Ledger] = weakref.WeakKeyDictionary()


def note(model: nn.Module, digests: Digests, entries: Sequence[Entry], undone: bool = False) -> Callable[[], None]:
    """An edit was made, or undone. What is returned makes the ledger forget that again."""
    ledger = _ledgers.setdefault(model, _Ledger())
    before = ledger.edits.copy(), ledger.state.copy()
    if undone:
        ledger.edits = [edit for edit in ledger.edits if edit[0] != digests]
    elif entries:
        ledger.edits.append((digests, entries))
    tensors = Tensors(model)
    ledger.state |= {name: tensor_digest(tensors[name]) for name in digests}

    def take_back() -> None:
        ledger.edits, ledger.state = before

    return take_back


def only_disjoint_since(model: nn.Module, digests: Digests, entries: Sequence[Entry]) -> bool:
    """Whether every change of the patch's tensors since it was applied is a known edit of other elements."""
    ledger = _ledgers.get(model)
    places = [i for i, edit in enumerate(ledger.edits) if edit[0] == digests] if ledger is not None else []
    if ledger is None or not places:
        return False
    tensors = Tensors(model)
    if any(tensor_digest(tensors[name]) != ledger.state.get(name) for name in digests):
        return False
    own = elements(tensors, entries)
    later = (elements(tensors, edit[1]) for edit in ledger.edits[places[-1] + 1 :])
    return not any(bool((own[name] & found[name]).any()) for found in later for name in own.keys() & found.keys())


def elements(tensors: Tensors, entries: Sequence[Entry]) -> dict[str, Tensor]:
    """Tensor name -> bool mask of the elements that the entries edit. ValueError if one is edited twice."""
    masks: dict[str, Tensor] = {}
    for entry in entries:
        whole = tensors[entry.tensor]
        mask = masks.setdefault(entry.tensor, torch.zeros(whole.shape, dtype=torch.bool, device=whole.device))
        _, dim, indices = entry.slice_of(whole)
        part = mask[entry.row] if entry.row is not None else mask.view(-1) if entry.dim is None else mask
        if bool(part.index_select(dim, indices).any()) or indices.unique().numel() != indices.numel():
            raise ValueError(f"patch: edits elements of {entry.tensor} twice: it could not be taken back")
        part.index_fill_(dim, indices, True)
    return masks
