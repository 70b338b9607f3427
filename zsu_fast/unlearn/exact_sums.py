"""Means over samples that are the same bits in any order and in any number of processes.

Floating-point sums depend on their order. Here values become integers first: multiples of 2**(e - 40), where all
magnitudes are below 2**e. Integers add up exactly, and 40 bits are more than a float32 holds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zsu_fast.unlearn.group import ALONE, Group

BITS = 40
MOST_SAMPLES = 2 ** (62 - BITS)
"""So many of 2**40 fit into an int64."""
_NOTHING = -900
"""The exponent of values that are all zero: 2**940 is still a float64."""
_AT_ONCE = 1024


@dataclass(frozen=True)
class Sums:
    """Of groups of samples, per unit. total: int64 [groups, units], in steps of 2**(exponent - BITS); samples: int64
    [groups]; broken: [groups, units], where a sample is NaN or infinite."""

    total: Tensor
    exponent: int
    samples: Tensor
    broken: Tensor

    def mean(self) -> Tensor:
        """float64 [groups, units]; NaN where a sample is none or infinite, or there are no samples."""
        mean = self.total.double() / self.samples.double()[:, None] * 2.0 ** (self.exponent - BITS)
        return mean.masked_fill(self.broken, torch.nan)

    def share(self) -> Tensor:
        """The mean over the sum of all units' magnitudes, float64 [groups, units]; 0 where all are 0."""
        # Of integers again, in two halves since their sum may not fit: the order of units is one of threads.
        magnitude = self.total.abs()
        high, low = (magnitude >> 20).sum(1, keepdim=True), (magnitude & (2**20 - 1)).sum(1, keepdim=True)
        whole = (high.double() * 2**20 + low.double()).clamp_min(1)
        broken = self.broken.any(1, keepdim=True).expand_as(self.broken)
        return (self.total.double() / whole).masked_fill(broken, torch.nan)


def exponents(parts: Sequence[Tensor]) -> Tensor:
    """int64 [len(parts)]: for each, the smallest e such that all of its finite magnitudes are below 2**e."""
    found = []
    for part in parts:
        largest = part.abs().masked_fill_(~part.isfinite(), 0).max().double() if part.numel() else torch.zeros(())
        found.append(largest.frexp().exponent.to("cpu", torch.int64) if largest > 0 else torch.tensor(_NOTHING))
    return torch.stack(found) if found else torch.zeros(0, dtype=torch.int64)


def fixed(rows: Tensor, exponent: int) -> Tensor:
    """[n, units], magnitudes below 2**exponent -> int64 multiples of 2**(exponent - BITS); NaN and infinity: 0."""
    return (rows.double() * 2.0 ** (BITS - exponent)).nan_to_num_(0.0, 0.0, 0.0).round_().to(torch.int64)


def sums(
    rows: Mapping[str, Tensor],
    groups: Tensor,
    count: int,
    group: Group = ALONE,
    counted: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Sums], dict[str, Tensor]]:
    """Sums of the samples of each of `count` groups, over all processes, for several layers in two exchanges.

    rows: layer -> [n, units] of this process's samples; groups: int64 [n], the group of each. counted: layer -> int64
    of any shape, which are added up with them.

    Raises:
        ValueError: more samples than integers can hold.
    """
    counted = {} if counted is None else counted
    scales = dict(zip(rows, group.largest(exponents(list(rows.values()))).tolist(), strict=True))
    pieces = [torch.bincount(groups, minlength=count).cpu()]
    for name, values in rows.items():
        pieces += _local(values, groups.to(values.device), count, scales[name])
    pieces += counted.values()
    # All of it in one piece; on one device, where the layers are on several.
    added = group.sum(torch.cat([piece.flatten().to(pieces[-1].device) for piece in pieces]))
    parts = iter(
        part.view(piece.shape).to(piece.device)
        for part, piece in zip(added.split([piece.numel() for piece in pieces]), pieces, strict=True)
    )
    samples = next(parts)
    if int(samples.max()) >= MOST_SAMPLES:
        raise ValueError(f"probes: {int(samples.max())} samples of one class, sums hold {MOST_SAMPLES}")
    found = {}
    for name in rows:
        total = next(parts)
        found[name] = Sums(total, scales[name], samples.to(total.device), next(parts) > 0)
    return found, dict(zip(counted, parts, strict=True))


def _local(rows: Tensor, groups: Tensor, count: int, exponent: int) -> tuple[Tensor, Tensor]:
    """Of the samples here: sums, and how many values are NaN or infinite, int64 [count, units] each."""
    total = torch.zeros((count, rows.shape[1]), dtype=torch.int64, device=rows.device)
    broken = torch.zeros_like(total)
    for values, where in zip(rows.split(_AT_ONCE), groups.split(_AT_ONCE), strict=True):
        whole = fixed(values, exponent)
        total = total + whole.sum(0) if count == 1 else total.index_add_(0, where, whole)
        if not bool((finite := values.isfinite()).all()):
            broken.index_add_(0, where, (~finite).to(torch.int64))
    return total, broken
