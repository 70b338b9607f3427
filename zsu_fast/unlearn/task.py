"""One request carried through: analyse, rank, search the budget, perturb, verify, record."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.unlearn import perturb, search
from zsu_fast.unlearn.hashing import model_digest
from zsu_fast.unlearn.patch import Patch
from zsu_fast.unlearn.picks import Picks, Ranking, rank_edges, rank_edges_as_authors, rank_units, unit_relevance
from zsu_fast.unlearn.presets import AUTHORS_PRESETS
from zsu_fast.unlearn.request import Settings, complete
from zsu_fast.unlearn.result import ForgetResult, described, jsonable, provenance
from zsu_fast.unlearn.structure import Head, classifier_inputs, logits_of, trace_structure

DEFAULT_UNTIL = {"lra-npp": 0.02, "channels": 0.05}  # paths to one class cost the others nothing, neurons do
DEFAULT_DROP = 0.02  # of retain accuracy: a hundred probes cannot tell less
FOLDS = 4
Progress = Callable[[int, int, str], None]


class Task:
    """One request: the model, the images, and the steps from analysis to record."""

    def __init__(
        self,
        model: nn.Module,
        probes: Tensor,
        labels: Tensor,
        retain: tuple[Tensor, Tensor] | None,
        settings: Settings,
        progress: Progress | None,
    ) -> None:
        self.model, self.probes, self.labels, self.retain = model, probes, labels, retain
        self.structure = trace_structure(model, probes[:1])
        self.settings = complete(settings, self.structure, retain is not None)
        self.progress = progress or (lambda done, total, text: None)
        self.trace: list[dict[str, Any]] = []

    @property
    def head(self) -> Head:
        assert self.structure.head is not None
        return self.structure.head

    def run(self) -> ForgetResult:
        self._check_against_model()
        self._analyse()
        digest = model_digest(self.model)
        before = {"forget_accuracy": self._forget_accuracy(self.logits), "retain_accuracy": self._retain_accuracy()}
        floor = self.settings.utility_floor
        if floor is None and before["retain_accuracy"] is not None and self.settings.budget is None:
            floor = before["retain_accuracy"] - DEFAULT_DROP
        parts = search.folds(self.labels, FOLDS, self.settings.seed)
        reason = "No neuron speaks for the class on these probes."
        for layers, mode in self._attempts():
            rankings = [self._rank(~part if len(parts) > 1 else part, layers) for part in parts]
            ranking = self._rank(torch.ones_like(parts[0]), layers)
            if not ranking.largest_budget:
                continue
            budget, held_out = self._choose_budget(layers, mode, ranking, rankings, parts)
            if budget is None:
                reason = f"No budget brings the accuracy on the class to {self._until:.3f}."
                continue
            budget, picks, patch = self._carry_out_from(budget, ranking, mode)
            try:
                after = {"forget_accuracy": held_out, "retain_accuracy": self._retain_accuracy()}
            except BaseException:
                patch.revert(self.model)
                raise
            if floor is not None and after["retain_accuracy"] is not None and after["retain_accuracy"] < floor:
                patch.revert(self.model)
                reason = f"It would take the retain probes to {after['retain_accuracy']:.3f}, below {floor:.3f}."
                continue
            return self._result(patch, True, picks, budget, before, after, mode, digest, "", len(parts) > 1)
        return self._result(Patch(()), False, Picks(), 0, before, before, None, digest, reason, len(parts) > 1)

    def select(self, budget: int | float) -> Picks:
        """What the first attempt would perturb at `budget`."""
        self._check_against_model()
        self._analyse()
        layers, _ = next(self._attempts())
        ranking = self._rank(torch.ones(len(self.probes), dtype=torch.bool), layers)
        return ranking.take(self._count(budget, layers))

    def _attempts(self) -> Iterator[tuple[list[str], str]]:
        """(layers, mode) to try in turn, until one reaches the target."""
        settings = self.settings
        if settings.method == "lra-npp":
            for mode in (settings.mode,) if settings.mode else ("zero", "invert"):
                yield [], mode
        else:
            for layers in [list(settings.layers)] if settings.layers else self.structure.stages():
                yield layers, settings.mode or "zero"

    # --- analysis

    def _check_against_model(self) -> None:
        classes = logits_of(self._forward(self.probes[:1])).shape[1]
        for target in self.settings.targets:
            if not 0 <= target < classes:
                raise ValueError(f"target: the model has classes 0..{classes - 1}, got {target}")
        if self.settings.method == "lra-npp" and self.structure.head is None:
            raise ValueError(
                'method: "lra-npp" needs logits that come straight from a linear layer, and this model\'s do not; '
                'use method="channels"'
            )
        known = self.structure.maskable()
        unknown = [name for name in self.settings.layers or () if name not in known]
        if unknown:
            raise ValueError(f"layers: the model has no maskable layer {unknown[0]!r}; it has {', '.join(known)}")
        if self.settings.method == "channels" and not self.structure.neurons():
            raise ValueError('method: "channels" found no linear or convolution layer with a weight of its own to mask')

    def _analyse(self) -> None:
        """Logits of the probes, and what rankings are made of: classifier inputs, or relevance per unit."""
        self.progress(0, 1, "analysing the probes")
        settings = self.settings
        if settings.method == "lra-npp":
            weight = self._state()[self.head.weight]
            parameter = dict(self.model.named_parameters())[self.head.weight]
            self.features, self.logits = classifier_inputs(self.model, parameter, self.probes, settings.batch_size)
            self.weight = weight
        else:
            self.logits = self._forward(self.probes)
            layers = settings.layers or sorted({name for stage in self.structure.stages() for name in stage})

            def analyse(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
                return unit_relevance(self.model, images, labels, layers, settings.composite, settings.batch_size)

            self.relevance = analyse(self.probes, self.labels)
            self.retain_relevance = None
            if settings.score == "contrastive" and self.retain is not None:
                self.retain_relevance = (analyse(*self.retain), self.retain[1])
        self.progress(1, 1, "analysing the probes")

    def _rank(self, chosen: Tensor, layers: Sequence[str]) -> Ranking:
        """The order of the neurons (of `layers`, for "channels") by the probes that the mask `chosen` [N] admits."""
        settings = self.settings
        chosen = chosen.to(self.labels.device)
        labels = self.labels[chosen]
        if settings.method == "channels":
            relevance = {name: self.relevance[name][chosen] for name in layers}
            return rank_units(
                relevance,
                labels,
                settings.targets,
                score=settings.score or "frequency",
                scope=settings.scope,
                k=0.25 if settings.k is None else settings.k,
                retain=self.retain_relevance,
            )
        width = self.head.features
        k = max(1, min(width, round(settings.k * width) if isinstance(settings.k, float) else int(settings.k or 1)))
        features = self.features[chosen]
        absolute = settings.preset is not None and AUTHORS_PRESETS[settings.preset].absolute
        if settings.authors_compat:
            bias = self._state()[self.head.bias] if self.head.bias else None
            return rank_edges_as_authors(features, self.weight, bias, k, settings.targets, labels, absolute)
        return rank_edges(features, self.weight, labels, settings.targets, k, absolute=absolute)

    # --- search

    @property
    def _until(self) -> float:
        return DEFAULT_UNTIL[self.settings.method] if self.settings.until is None else self.settings.until

    def _choose_budget(
        self, layers: Sequence[str], mode: str, ranking: Ranking, rankings: Sequence[Ranking], parts: Sequence[Tensor]
    ) -> tuple[int | None, float]:
        """(budget, accuracy on held-out probes), or (None, accuracy) if `until` cannot be reached."""

        def held_out(budget: int) -> float:
            logits = torch.empty_like(self.logits)
            for part_ranking, part in zip(rankings, parts, strict=True):
                where = part.to(logits.device)
                patch = self._carry_out(part_ranking.take(budget), mode)
                try:
                    logits[where] = self._edited_logits(where)
                finally:
                    patch.revert(self.model)
            accuracy = self._forget_accuracy(logits)
            self.trace.append({"layers": list(layers), "mode": mode, "budget": budget, "forget_accuracy": accuracy})
            return accuracy

        fixed = self.settings.budget
        if fixed is not None:
            count = min(self._count(fixed, layers), ranking.largest_budget)
            accuracy = held_out(count)
            reached = self.settings.until is None or accuracy <= self.settings.until
            return (count if reached else None), accuracy
        found = search.smallest(
            held_out,
            ranking.largest_budget,
            self._until,
            lambda done, total: self.progress(done, total, f"budget ({mode})"),
        )
        return found.budget, dict(found.trace).get(found.budget or 0, 1.0)

    def _count(self, budget: int | float, layers: Sequence[str]) -> int:
        """A budget as a number of neurons: a fraction counts the candidates."""
        if isinstance(budget, int):
            return budget
        if self.settings.method == "lra-npp":
            return max(1, round(budget * self.head.features))
        return max(1, round(budget * sum(self.relevance[name].shape[1] for name in layers)))

    def _edited_logits(self, where: Tensor) -> Tensor:
        """Logits of some probes under the edit in place: from cached features if only the classifier was touched."""
        if self.settings.method == "lra-npp" and self.settings.path in ("target", "all"):
            state = self._state()
            bias = state[self.head.bias] if self.head.bias else None
            return torch.nn.functional.linear(self.features[where], state[self.head.weight].flatten(1), bias)
        return self._forward(self.probes[where])

    def _carry_out_from(self, budget: int, ranking: Ranking, mode: str) -> tuple[int, Picks, Patch]:
        """Carry out the edit; a searched budget grows until the order made of all probes meets the target on them."""
        everything = torch.ones_like(self.labels, dtype=torch.bool)
        while True:
            picks = ranking.take(budget)
            patch = self._carry_out(picks, mode)
            searched = self.settings.budget is None and budget < ranking.largest_budget
            if not searched or self._forget_accuracy(self._edited_logits(everything)) <= self._until:
                return budget, picks, patch
            patch.revert(self.model)
            budget += 1

    def _carry_out(self, picks: Picks, mode: str) -> Patch:
        settings = self.settings
        slices = perturb.plan(self.structure, picks, settings.path or "neuron", mode)
        return perturb.carry_out(self.model, slices, mode, settings.strength, settings.seed)

    # --- measuring

    def _state(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def _forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([logits_of(self.model(batch)) for batch in images.split(self.settings.batch_size)])

    def _forget_accuracy(self, logits: Tensor) -> float:
        return search.accuracy_per_target(logits, self.labels, self.settings.targets)

    def _retain_accuracy(self) -> float | None:
        if self.retain is None:
            return None
        images, labels = self.retain
        return (self._forward(images).argmax(1) == labels).float().mean().item()

    # --- record

    def _result(
        self,
        patch: Patch,
        reached: bool,
        picks: Picks,
        budget: int,
        before: dict[str, float | None],
        after: dict[str, float | None],
        mode: str | None,
        digest: str,
        reason: str,
        held_out: bool,
    ) -> ForgetResult:
        by_layer = picks.by_layer(self.structure.head.name if self.structure.head else None)
        record = {
            "request": jsonable(asdict(self.settings)),
            "reached": reached,
            "reason": reason,
            "mode": mode,
            "budget": budget,
            "until": self._until if self.settings.budget is None else self.settings.until,
            "picks": perturb.describe(picks),
            "edits": [
                {"tensor": e.tensor, "row": e.row, "dim": e.dim, "indices": e.indices.tolist()} for e in patch.entries
            ],
            "metrics": {"before": before, "after": after, "held_out": held_out, "probes": len(self.probes)},
            "search": self.trace,
            "model": {"before": digest, "after": model_digest(self.model)},
            "probes": described(self.probes),
            "retain_probes": None if self.retain is None else described(self.retain[0]),
            **provenance(),
        }
        patch = replace(patch, record=record)
        return ForgetResult(patch, reached, by_layer, budget, dict(before), dict(after), self.trace, record)
