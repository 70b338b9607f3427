"""Where layers leave the relevance of their units."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.distributed as dist
from torch import Tensor

from zsu_fast.ops.prepared import open_kept

from .conservation import Ledger


@dataclass(frozen=True)
class Unit:
    """Units of a layer: `count` of the `total` under `name`, from `start` on (a layer may use rows of a parameter)."""

    name: str
    count: int
    start: int
    total: int


class Collector:
    """Relevance per sample and unit, [N, units] by name, in the order in which the layers first ran.

    A layer that runs several times (shared modules, tied weights) adds up. One backward pass is collected at a time;
    `last` says that no other will go through the same graph, so that nothing need be kept for it.
    """

    def __init__(self, samples: int, layers: Sequence[str] | None, ledger: Ledger | None = None) -> None:
        self.samples = samples
        self.ledger = ledger
        self.patterns = layers
        self.seen: dict[str, Unit] = {}
        self.last = True
        self.kept = open_kept()  # for the backward passes, which may run in another thread
        self.rows_or_tokens: dict[str, int] = {}
        self.sequence_first: frozenset[str] = frozenset()
        self.spread: dict[str, dist.ProcessGroup] = {}
        """Layers of which each process of a group sees some of the units."""
        self._sums: dict[str, Tensor] = {}

    def register(self, unit: Unit) -> None:
        """Note that the layer ran: this fixes its place in the order."""
        self.seen.setdefault(unit.name, unit)

    def wants(self, unit: Unit) -> bool:
        return self.patterns is None or any(unit.name == p or fnmatchcase(unit.name, p) for p in self.patterns)

    def check_patterns(self) -> None:
        """ValueError for a pattern that no layer of this run matches."""
        for pattern in self.patterns or ():
            if not any(name == pattern or fnmatchcase(name, pattern) for name in self.seen):
                raise ValueError(f"layers: {pattern!r} matches no layer that ran; there are {', '.join(self.seen)}")

    def note_layout(self, unit: Unit, shape: Sequence[int]) -> None:
        """Note the second dimension of a layer's output [rows, tokens, units] (or [tokens, N, units])."""
        if len(shape) == 3 and self.wants(unit):
            self.rows_or_tokens.setdefault(unit.name, shape[1])

    @property
    def ambiguous(self) -> frozenset[str]:
        """Layers with an output [n N, N, units]: windows of N tokens each, or n N tokens of N samples."""
        return frozenset(n for n, size in self.rows_or_tokens.items() if size == self.samples > 1)

    def samples_in_rows(self, unit: Unit, output: Tensor) -> bool:
        """Whether dimension 0 holds the samples, or equal runs of rows of one sample each (windows).

        Otherwise it is a sequence-first tensor [tokens, N, units].
        """
        if output.dim() == 3 and unit.name in self.sequence_first:
            return False
        if output.shape[0] % max(self.samples, 1):
            raise ValueError(
                f"no sample dimension found in a layer output of shape {tuple(output.shape)} for {self.samples} "
                "inputs; name the layers to collect in `layers`, or run samples one by one"
            )
        return True

    def add(self, unit: Unit, relevance: Tensor, rows: Tensor | None = None) -> None:
        """Add [rows, count]; rows are samples, or runs of equal length of one sample each, or of the samples `rows`."""
        if rows is not None:
            relevance = relevance.new_zeros(self.samples, unit.count).index_add_(0, rows, relevance)
        elif relevance.shape[0] != self.samples:
            relevance = relevance.unflatten(0, (self.samples, -1)).sum(1)
        whole = self._sums.get(unit.name)
        if whole is None and unit.count == unit.total:
            self._sums[unit.name] = relevance
            return
        if whole is None:
            whole = self._sums[unit.name] = relevance.new_zeros(self.samples, unit.total)
        whole[:, unit.start : unit.start + unit.count] += relevance

    def add_relevance(self, unit: Unit, relevance: Tensor, unit_dim: int, rows: Tensor | None = None) -> None:
        """Add from R itself, of the shape of the layer's output."""
        if rows is None and not self.samples_in_rows(unit, relevance):
            relevance = relevance.transpose(0, 1)
        dtype = torch.float64 if relevance.dtype == torch.float64 else torch.float32
        others = [d for d in range(1, relevance.dim()) if d != unit_dim]
        self.add(unit, relevance.sum(others, dtype=dtype) if others else relevance.to(dtype, copy=True), rows)

    def take(self, like: Tensor, scale: float) -> dict[str, Tensor]:
        """The result of a backward pass that ran `scale` times as large; zeros where no relevance arrived."""
        dtype = torch.float64 if like.dtype == torch.float64 else torch.float32
        sums, self._sums = self._sums, {}
        if scale != 1:
            sums = {name: units / scale for name, units in sums.items()}
        found = {
            name: sums[name] if name in sums else torch.zeros(self.samples, unit.total, dtype=dtype, device=like.device)
            for name, unit in self.seen.items()
            if self.wants(unit)
        }
        for name in found:
            if name in self.spread:
                dist.all_reduce(found[name], group=self.spread[name])
        return found
