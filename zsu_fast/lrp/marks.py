"""What the engine knows of the tensors of a run, beside their values; kept by weak reference."""

from __future__ import annotations

import weakref
from typing import NamedTuple

from torch import Tensor

from .functions import LayerCall

NO_GATE, WEAK_GATE, GATE, ATTENTION = 0, 1, 2, 3


class Mark(NamedTuple):
    """Facts about one tensor.

    Attributes:
        nonnegative: No value is below zero: known from the functions that made it, never read from the device.
        gate: How much it is a gate: a factor of this strength is held constant in a product with a weaker one
            (signal takes all, Arras et al. 2019); of two equals, each gets half. Attention weights (a softmax) are the
            strongest; tanh, which is an activation too, the weakest.
        pending: Name of the function that made it a statistic (a norm, a variance), which may serve only as a divisor
            or gate; None for everything else.
        layer: Name of the layer whose outputs these values are, if nothing but moves came between.
        carrier: Takes the relevance of a tensor that is the model's input moved or rescaled; None elsewhere.
        call: For a tensor that is a layer's direct output: how it came about, from `source`.
        itself: For `x.view_as(x)`, which is what an autograd.Function that is the identity puts out: x.
        rows: Of which sample each row of dimension 0 is, where rows of several samples were picked out.
        padded: For `source` padded with zeros: how many, as F.pad is told.
    """

    nonnegative: bool = False
    gate: int = NO_GATE
    pending: str | None = None
    layer: str | None = None
    carrier: Tensor | None = None
    call: LayerCall | None = None
    rows: Tensor | None = None
    padded: tuple[int, ...] | None = None
    source: Tensor | None = None
    itself: Tensor | None = None


NOTHING = Mark()


class Marks:
    """Marks by tensor; a tensor without one has `NOTHING`.

    A dictionary by identity, from which tensors that die take themselves: torch's WeakTensorKeyDictionary, which does
    the same, takes as long as a small function runs.
    """

    def __init__(self) -> None:
        self._marks: dict[int, tuple[weakref.ref[Tensor], Mark]] = {}

    def __getitem__(self, tensor: object) -> Mark:
        entry = self._marks.get(id(tensor))
        return NOTHING if entry is None else entry[1]

    def __setitem__(self, tensor: Tensor, mark: Mark) -> None:
        if mark is not NOTHING:
            marks, key = self._marks, id(tensor)
            marks[key] = weakref.ref(tensor, lambda _: marks.pop(key, None)), mark
