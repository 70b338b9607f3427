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
    the retain images by the unedited model, where something had them at hand.
    """

    transaction: Transaction
    request: Request
    options: Options
    until: float
    progress: Progress
    retain: Pair | None = None
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

    def retain_accuracy(self, allowed: int | None = None, quick: Quick | None = None) -> float | None:
        """Accuracy on the retain images, if there are; with `allowed` wrong ones above 0, no more are looked for.

        quick: indices of retain images -> their logits, without running the model.
        """
        right = self.retained(allowed, quick=quick)
        return None if right is None or self.retain is None else right / len(self.retain[0])

    def retain_accuracy_before(self) -> float | None:
        """Of the unedited model; also says which retain images to look at first."""
        if self.retain is None:
            return None
        images, labels = self.retain
        logits = self.forward(images) if self.known is None else self.known
        logits = answering(self.transaction.view, logits)
        if isinstance(images, Tensor):  # a stream has its own order
            self.unsure_first = search.margins(logits, labels).argsort(stable=True)
        return int((logits.argmax(1) == labels).sum()) / len(images)

    def retained(
        self, allowed: int | None = None, among: Tensor | None = None, quick: Quick | None = None
    ) -> int | None:
        """How many of the retain images (that a mask admits) get their class."""
        if self.retain is None:
            return None
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

    def evaluation(self, given: Pair | None) -> Evaluated | None:
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
