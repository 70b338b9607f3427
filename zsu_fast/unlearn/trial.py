"""One proposal under measurement: edits are put in place, looked at, and taken back; looks are remembered."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from zsu_fast.unlearn import search
from zsu_fast.unlearn.measure import Measurement, largest_share
from zsu_fast.unlearn.methods import Proposal

LOG = logging.getLogger(__name__)


class Trial:
    """A proposal, as all probes choose it, and without each of `parts` (masks [N], the folds held out) in turn."""

    def __init__(
        self, measurement: Measurement, proposal: Proposal, parts: Sequence[Tensor], kept: Sequence[Tensor] = ()
    ) -> None:
        self.measurement, self.proposal, self.parts = measurement, proposal, parts
        self.choice = proposal.choose(None, None)
        self.kept = kept  # parts of the retain images, held out together with those of the probes
        self.without = [self.choice]
        if len(parts) > 1:
            seen = [~part for part in kept] if kept else [None] * len(parts)
            self.without = [proposal.choose(~part, other) for part, other in zip(parts, seen, strict=True)]
        self.largest = self.choice.largest
        self._order = list(range(len(parts)))
        self._remembered: dict[tuple[int, bool], bool] = {}

    def smallest(self) -> int | None:
        return search.smallest(self.meets, self.largest)

    def meets(self, budget: int, by_margin: bool = True) -> bool:
        """Whether the held-out probes forget; stops as soon as too many do not."""
        if (budget, by_margin) not in self._remembered:
            margins = self._margins(budget, early=True)
            self._remembered[budget, by_margin] = self.measurement.forgotten(margins, by_margin)
        return self._remembered[budget, by_margin]

    def held_out(self, budget: int) -> Tensor:
        """[N] margins, each probe's under an edit chosen without it. For a model without an edit in place."""
        return self._margins(budget, early=False)

    def meets_as_chosen(self, budget: int) -> bool:
        """Whether the probes forget, with the margin, under the edit that all of them chose."""
        request = self.measurement.request
        with self.measurement.edited(self.choice.edits(budget)):
            margins = self._seen(torch.ones_like(request.probe_labels, dtype=torch.bool))
        return self.measurement.forgotten(margins)

    def retain_accuracy(self, budget: int, allowed: int | None) -> float | None:
        """On the retain images, under the edit as chosen; where it learned from them, under one that did not."""
        measurement = self.measurement
        if not self.kept or measurement.retain is None:
            with measurement.edited(self.choice.edits(budget)):
                return measurement.retain_accuracy(allowed, self.proposal.quick_retain)
        right = 0
        for choice, part in zip(self.without, self.kept, strict=True):
            with measurement.edited(choice.edits(min(budget, choice.largest))):
                right += measurement.retained(among=part) or 0
        return right / len(measurement.retain[0])

    def _margins(self, budget: int, early: bool) -> Tensor:
        measurement = self.measurement
        cost, labels = measurement.cost, measurement.request.probe_labels
        cost.steps += 1
        margins = torch.full((len(labels),), -torch.inf, device=labels.device)
        for fold in self._order:
            choice, where = self.without[fold], self.parts[fold].to(labels.device)
            with measurement.edited(choice.edits(min(budget, choice.largest))):
                margins[where] = self._seen(where)
            if early and measurement.too_many(margins):
                break
        # The part on which most is left of the class goes first next time: what fails fails there.
        self._order.sort(key=lambda fold: -float(margins[self.parts[fold].to(labels.device)].mean()))
        measurement.trace.append(
            {
                "layers": list(self.proposal.layers),
                "mode": self.proposal.mode,
                "budget": budget,
                # Where the look stopped early the images that it left out count as forgotten.
                "forget_accuracy": largest_share(measurement.answered(margins)),
                "complete": not bool((margins == -torch.inf).any()),
            }
        )
        LOG.debug("looked at %s", measurement.trace[-1])
        measurement.progress(cost.steps, max(cost.steps, 2 * search.LEVELS), f"budget ({self.proposal.mode})")
        return margins

    def _seen(self, where: Tensor) -> Tensor:
        return self.measurement.margins(where, self.proposal.quick)
