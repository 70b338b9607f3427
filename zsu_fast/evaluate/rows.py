"""What comes batch by batch, put below each other in one piece of memory."""

from __future__ import annotations

import torch
from torch import Tensor


class Rows:
    """Tensors [n, ...] below each other.

    The memory is made once for all: many small pieces that stay between the passes of a model would keep the heap from
    shrinking, by hundreds of MiB for 100,000 images. expected: how many rows there will be, if that is known.
    """

    def __init__(self, expected: int | None) -> None:
        self._expected, self._count = expected, 0
        self._memory: Tensor | None = None

    def add(self, rows: Tensor) -> None:
        held = self._memory
        if held is not None and (held.shape[1:], held.dtype) != (rows.shape[1:], rows.dtype):
            raise ValueError(
                f"model: gives {rows.dtype} {tuple(rows.shape[1:])} of one batch of images, {held.dtype} "
                f"{tuple(held.shape[1:])} of another"
            )
        needed = self._count + len(rows)
        if self._memory is None or needed > len(self._memory):
            room = self._expected if self._memory is None and self._expected else 2 * needed
            larger = rows.new_empty((max(room, needed), *rows.shape[1:]))
            if self._memory is not None:
                larger[: self._count] = self._memory[: self._count]
            self._memory = larger
        self._memory[self._count : needed] = rows
        self._count = needed

    def __len__(self) -> int:
        return self._count

    def tensor(self) -> Tensor:
        """All of them; without any, int64 [0]."""
        return torch.empty(0, dtype=torch.int64) if self._memory is None else self._memory[: self._count]
