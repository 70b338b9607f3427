"""What the engine knows of the tensors of a run, beside their values; kept by weak reference."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

if TYPE_CHECKING:
    from .functions import LayerCall

NO_GATE, WEAK_GATE, GATE, ATTENTION = 0, 1, 2, 3


@dataclass(frozen=True, eq=False)
class Mark:
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
        padded: For `source` padded with zeros: how many, as F.pad is told.
    """

    nonnegative: bool = False
    gate: int = NO_GATE
    pending: str | None = None
    layer: str | None = None
    carrier: Tensor | None = None
    call: LayerCall | None = None
    padded: tuple[int, ...] | None = None
    source: Tensor | None = None


NOTHING = Mark()


@dataclass
class Marks:
    """Marks by tensor; a tensor without one has `NOTHING`."""

    _marks: WeakTensorKeyDictionary = field(default_factory=WeakTensorKeyDictionary)

    def __getitem__(self, tensor: object) -> Mark:
        return self._marks.get(tensor, NOTHING) if isinstance(tensor, Tensor) else NOTHING

    def __setitem__(self, tensor: Tensor, mark: Mark) -> None:
        if mark is not NOTHING:
            self._marks[tensor] = mark
