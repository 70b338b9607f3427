"""Images of which each process holds a part, numbered through all, and run in batches that all have in common.

The batches are those of one process that holds everything: image i is number i mod B of batch i div B. A process that
has a part of a batch runs it at its places in the whole shape, so that neither the number of processes nor the
neighbours can change which instructions compute it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zsu_fast.evaluate.images import length
from zsu_fast.unlearn.group import ALONE, Group


@dataclass(frozen=True, eq=False)
class Shard:
    """Images [n, ...] of this process: those from number `start` on. Alone, an `ImageStream` may stand for them.

    size: images per batch. filler: one or two images, of which the first takes the places of other processes' images
    in a batch; None where there are no others: the last batch is then as small as it comes.
    """

    images: Tensor
    size: int
    group: Group = ALONE
    filler: Tensor | None = None
    start: int = 0
    of_all: int = 0

    @classmethod
    def of(cls, images: Tensor, size: int, group: Group = ALONE, argument: str = "images") -> Shard:
        """Numbered by how many images the processes hold, in their order. ValueError, naming `argument`, for none."""
        if group is ALONE:
            return cls(images, size)
        size = int(group.largest(torch.tensor(size)))
        counts = group.gather(torch.tensor([len(images)]))
        if not bool(counts.any()):
            raise ValueError(f"{argument}: no process has any")
        filler = group.first(images[:2].cpu(), of=int(counts.bool().int().argmax()))
        start = int(counts[: group.rank].sum())
        return cls(images, size, group, filler.to(images.device), start, int(counts.sum()))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def total(self) -> int:
        """How many there are in all processes."""
        return len(self) if self.filler is None else self.of_all

    @property
    def some(self) -> Tensor:
        """One or two images, the same in all processes."""
        return self.images[:2] if self.filler is None else self.filler

    def own(self, rows: Tensor) -> Tensor:
        """Of [total, ...], what belongs to the images here."""
        return rows[self.start : self.start + len(self)]

    def numbers(self, where: Tensor) -> Tensor:
        """Of those that a mask [total] admits, the numbers of the images here."""
        return self.own(where).nonzero()[:, 0] + self.start

    def gather(self, rows: Tensor) -> Tensor:
        """What belongs to the images here, [n, ...] -> [total, ...]."""
        return self.group.gather(rows)

    def beside(self, rows: Tensor) -> Shard:
        """What belongs to the images here, [n, ...], in their place."""
        filler = None if self.filler is None else rows.new_zeros((1, *rows.shape[1:]))
        return replace(self, images=rows, filler=filler)

    def admitted(self, where: Tensor) -> Shard:
        """Those that a mask [total] admits, numbered among themselves; of one process alone also those at indices."""
        if self.filler is None:
            return replace(self, images=self.images[where])
        chosen = self.images[self.own(where).to(self.images.device)]
        return replace(self, images=chosen, start=int(where[: self.start].sum()), of_all=int(where.sum()))

    def batches(self) -> Iterator[Tensor]:
        """The images as they are run; one batch at least, where there are other processes."""
        if self.filler is None:
            yield from self.images.split(self.size)
            return
        for row in range(-self._at, max(len(self), 1), self.size):
            batch = self.images[max(row, 0) : row + self.size]
            before = self.filler[:1].expand(max(-row, 0), *batch.shape[1:])
            after = self.filler[:1].expand(self.size - len(before) - len(batch), *batch.shape[1:])
            yield torch.cat([before, batch, after])

    @property
    def rows(self) -> int:
        """Of all batches together."""
        if self.filler is None:
            return len(self)
        return -(-max(self._at + len(self), 1) // self.size) * self.size

    @property
    def expected(self) -> int | None:
        """`rows`, as far as that can be told without reading a stream."""
        return length(self.images) if self.filler is None else self.rows

    def outcome(self, of_batches: Tensor) -> Tensor:
        """Of what came of all batches, joined: that of the images here."""
        return of_batches if self.filler is None else of_batches[self._at : self._at + len(self)]

    def pieces(self) -> list[tuple[slice, Shard]]:
        """Each batch by itself: where its images are among those here, and these."""
        found = []
        for row in range(-self._at, len(self), self.size) if len(self) else ():
            rows = slice(max(row, 0), min(row + self.size, len(self)))
            found.append((rows, replace(self, images=self.images[rows], start=self.start + rows.start)))
        return found

    @property
    def _at(self) -> int:
        """The place of the first image here in its batch."""
        return self.start % self.size
