"""A model inside its transaction, measured on the images of one request, as it is or under an edit."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.concepts.reading import Reading
from zsu_fast.evaluate.images import batches_at
from zsu_fast.evaluate.inference import logits_of
from zsu_fast.evaluate.rows import Rows
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.unlearn import search
from zsu_fast.unlearn.edits import Edits
from zsu_fast.unlearn.methods.base import Progress
from zsu_fast.unlearn.options import Options
from zsu_fast.unlearn.requests import Pair, Request
from zsu_fast.unlearn.shard import Shard
from zsu_fast.unlearn.transaction import Transaction
from zsu_fast.unlearn.verdict import Evaluated

Quick = Callable[[Tensor], Tensor]


@dataclass
class Cost:
    """Images run forward, images run with a relevance pass, and looks of the search at an edit."""

    images_forwarded: int = 0
    relevance_images: int = 0
    steps: int = 0


@dataclass
class Measurement:
    """What the steps of one request measure with.

    until: share of the probes that may keep the class as answer. allowance: by how much the class must fall behind in
    the median. trace: what the search looked at, for the record. unsure_first: indices of the retain images, those
    first of which the unedited model was least sure: if an edit costs too much, it shows on these. known: logits of
    the retain images by the unedited model, where something had them at hand. probes, others: images of the request and
    of `retain` as they are numbered, where several processes hold a part each; these two pairs are then those here.
    """

    transaction: Transaction
    request: Request
    options: Options
    until: float
    progress: Progress
    retain: Pair | None = None
    probes: Shard | None = None
    others: Shard | None = None
    unsure_first: Tensor | None = None
    known: Tensor | None = None
    allowance: float = 0.0
    trace: list[dict[str, Any]] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)

    def edit(self, edits: Edits) -> None:
        self.transaction.edit(edits, self.options.strength, self.options.seed)

    @contextmanager
    def edited(self, edits: Edits) -> Iterator[None]:
        """The edit in place inside, and taken back after."""
        mark = self.transaction.mark()
        self.edit(edits)
        try:
            yield
        finally:
            self.transaction.undo(mark)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, batch by batch."""
        found = Rows(len(images))
        with torch.no_grad(), compiled_parts_as_written():
            for batch in self.options.batches(images):
                found.add(logits_of(self.transaction.view(batch)))
                self.cost.images_forwarded += len(batch)
        return found.tensor()

    def run(self, shard: Shard) -> Tensor:
        """Logits of the images here, in the batches that all processes have in common."""
        found = Rows(shard.expected)
        with torch.no_grad(), compiled_parts_as_written():
            for batch in shard.batches():
                found.add(logits_of(self.transaction.view(batch)))
                self.cost.images_forwarded += len(batch)
        return shard.outcome(found.tensor())

    def margins(self, where: Tensor, quick: Quick | None = None) -> Tensor:
        """[n] of the probes that a mask [N] admits, of all processes."""
        assert self.probes is not None
        shard = self.probes.admitted(where)
        logits = self.run(shard) if quick is None else quick(where)
        return shard.gather(self.request.margins(logits, self.probes.numbers(where)))

    def retain_accuracy(self, allowed: int | None = None, quick: Quick | None = None) -> float | None:
        """Accuracy on the retain images, if there are; with `allowed` wrong ones above 0, no more are looked for.

        quick: indices of retain images -> their logits, without running the model.
        """
        right = self.retained(allowed, quick=quick)
        return None if right is None or self.others is None else right / self.others.total

    def retain_accuracy_before(self) -> float | None:
        """Of the unedited model; also says which retain images to look at first."""
        if self.retain is None or self.others is None:
            return None
        labels = self.retain[1]
        logits = self.run(self.others) if self.known is None else self.known
        logits = answering(self.transaction.view, logits)
        if isinstance(self.retain[0], Tensor):  # a stream has its own order
            self.unsure_first = search.margins(logits, labels).argsort(stable=True)
        right = (logits.argmax(1) == labels).sum()
        return int(self.others.group.sum(right)) / self.others.total

    def retained(
        self, allowed: int | None = None, among: Tensor | None = None, quick: Quick | None = None
    ) -> int | None:
        """How many of the retain images (that a mask admits) get their class."""
        if self.retain is None or self.others is None:
            return None
        if self.others.filler is not None:
            return self._retained_together(self.others, self.retain[1], allowed)
        images, labels = self.retain
        order = torch.arange(len(images), device=labels.device) if self.unsure_first is None else self.unsure_first
        if among is not None:
            order = order[among.to(order.device)[order]]
        right = seen = 0
        size = self.options.batch(images)
        for where, batch in batches_at(images if quick is None else order, order, size):
            logits = self.forward(batch) if quick is None else quick(where)
            logits = answering(self.transaction.view, logits)
            right += int((logits.argmax(1) == labels[where]).sum())
            seen += len(where)
            if allowed and seen - right > allowed:
                return right
        return right

    def _retained_together(self, others: Shard, labels: Tensor, allowed: int | None) -> int:
        """The same of all processes: each runs its part of the batches, first those of whose images one was unsure."""
        order = torch.arange(len(labels)) if self.unsure_first is None else self.unsure_first.argsort()
        pieces = sorted(others.pieces(), key=lambda piece: int(order[piece[0]].min()))
        right = seen = 0
        for step in range(int(others.group.largest(torch.tensor(len(pieces))))):
            counts = torch.zeros(2, dtype=torch.int64)
            if step < len(pieces):
                rows, piece = pieces[step]
                answers = self.run(piece).argmax(1)
                counts += torch.tensor([int((answers == labels[rows]).sum()), len(answers)])
            counts = others.group.sum(counts)
            right, seen = right + int(counts[0]), seen + int(counts[1])
            if allowed and seen - right > allowed:
                break
        return right

    def evaluation(self, given: Any) -> Evaluated | None:
        """What judges an edit, on images of the user's say, which do not count as cost."""
        with torch.no_grad(), compiled_parts_as_written():
            return self.request.evaluate(self.transaction.view, given, self.options.batches)

    def answered(self, margins: Tensor) -> list[tuple[int, int]]:
        """For each class, how many of its probes still get it as answer, or give NaN, and of how many; of instances
        how many are short of the goal."""
        left = ~(margins < 0)
        return [(int(left[group].sum()), int(group.sum())) for group in self.request.groups]

    def forgotten(self, margins: Tensor, by_margin: bool = True) -> bool:
        """Whether margins [N] of the probes meet the aim: few answers, and in the median a class that fell behind."""
        behind = not by_margin or all(
            float(margins[group].median()) <= -self.allowance for group in self.request.groups
        )
        return behind and not self.too_many(margins)

    def too_many(self, margins: Tensor) -> bool:
        """Whether more images of some group are left than `until` allows."""
        return any(answered > self.until * count for answered, count in self.answered(margins))


def answering(view: nn.Module, logits: Tensor) -> Tensor:
    """Of what a view gives, the logits that answer with a class."""
    return view.answers(logits) if isinstance(view, Reading) else logits


def largest_share(counts: Sequence[tuple[int, int]]) -> float:
    """Several groups are forgotten when the best remembered one is."""
    return max(right / images for right, images in counts)
