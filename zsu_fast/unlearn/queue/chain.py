"""Patches one on top of the other, on the weights of a file: walked back, and laid anew without one of them."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import Tensor

from zsu_fast.model.tensors import Tensors, model_digest, same_bits, tensor_digest
from zsu_fast.unlearn.patch import Patch


def undone(state: dict[str, Tensor], undo: Patch, expected: str | None) -> dict[str, Tensor]:
    """The state dict of a file with the edit undone, in place. ValueError if the patch does not fit.

    A tied tensor stands in a file under each of its names, and in a patch under one. Others with the same bits are
    taken for it where only that gives the digest that is expected; from then on they are one tensor in the state dict.
    """
    edited = {entry.tensor for entry in undo.entries if entry.tensor in state}
    twins = {
        name: one
        for name, value in state.items()
        if name not in edited and (one := next((e for e in edited if same_bits(value, state[e])), None)) is not None
    }
    if twins:
        plain = copy.deepcopy(state)  # what is one tensor stays one
        undo.revert(plain)
        if model_digest(plain) == expected:
            return plain
    for name, one in twins.items():
        state[name] = state[one]
    undo.revert(state)
    return state


def laid_on(patch: Patch, state: dict[str, Tensor]) -> Patch:
    """Write the patch's new values into a state that need not be the one it was made of; the patch that undoes this.

    It fits where every element that it edits is as it was before it. Where one is not, only a mask fits (mode "zero"):
    its zeros do not depend on what stood there.

    Raises:
        ValueError: it does not fit; nothing was changed.
    """
    tensors = Tensors(state)
    fitted = patch.fitted(tensors)
    mask = patch.record.get("mode") == "zero"
    entries = []
    for entry in fitted.entries:
        view, dim, indices = entry.slice_of(tensors[entry.tensor])
        now = view.index_select(dim, indices).reshape(entry.old.shape)
        other = _differ(now, entry.old)
        if bool(other.any()) and not (mask and not bool(entry.new[other].any())):
            raise ValueError(f"edits values of {entry.tensor} that are not as they were when it was made")
        entries.append(replace(entry, old=now.clone()))
    names = list(dict.fromkeys(entry.tensor for entry in entries))
    before = {name: tensor_digest(tensors[name]) for name in names}
    replace(fitted, entries=tuple(entries), digests={}).apply_(state)
    digests = {name: (before[name], tensor_digest(tensors[name])) for name in names}
    return replace(fitted, entries=tuple(entries), digests=digests)


def _differ(a: Tensor, b: Tensor) -> Tensor:
    """Bool mask of the elements whose bits differ: -0.0 is not +0.0, and a NaN is the same NaN."""
    parts = (value.contiguous().reshape(-1, 1).view(torch.uint8) for value in (a, b))
    first, second = parts
    return (first != second).any(1).reshape(a.shape)
