"""What an edit does to one tensor: slices that are perturbed, or new values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Slice:
    """Indices along `dim` of a tensor of the model, or of one of its rows, and what is done to them."""

    tensor: str
    row: int | None
    dim: int
    indices: tuple[int, ...]
    mode: str = "zero"


@dataclass(frozen=True, eq=False)
class Replacement:
    """New values of a whole tensor of the model, of the same shape and dtype. Rows that stay the same are no edit."""

    tensor: str
    values: Tensor


Edits = Sequence[Slice | Replacement]
"""What is done to a model at once; no element is named twice."""
