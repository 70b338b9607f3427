"""Paths into the classifier, ranked by relevance (LRA-NPP, arXiv 2410.23693)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.edits import Slice
from zsu_fast.unlearn.exact_sums import sums
from zsu_fast.unlearn.group import Group
from zsu_fast.unlearn.methods.base import Given, Masks, Method, Proposal
from zsu_fast.unlearn.methods.kept_features import kept_features, shortcut
from zsu_fast.unlearn.options import MaskOptions, check_amount, option
from zsu_fast.unlearn.picks import Picks, Ranking, rank_edges, rank_edges_as_authors
from zsu_fast.unlearn.plan import PATHS, plan
from zsu_fast.unlearn.presets import AUTHORS_PRESETS, preset_for
from zsu_fast.unlearn.structure import Structure

STEADY = 0.8
"""Share of the probes on which an input of the classifier must keep its sign for its path to be inverted."""
OF_CLASSIFIER = ("target", "all")
"""Paths that change nothing but the classifier's weight."""


@dataclass(frozen=True)
class LraNppOptions(MaskOptions):
    k: int | float | None = option(
        "Neurons that each probe may name as most relevant: a count or a share of the layer.", shown="0.25"
    )
    path: str | None = option(
        "target: the weights to the class; all: to every class; rows, neuron: the neurons too.",
        choices=PATHS,
        shown="target",
    )
    preset: str | None = option(
        "The authors' settings for one of their experiments.", choices=tuple(AUTHORS_PRESETS), shown="none"
    )
    authors_compat: bool = option(
        "The authors' code's quirks: relevance of the arg-max, ties by insertion, eps = 0.1, biases kept, no search.",
        False,
    )

    def check(self) -> None:
        super().check()
        check_amount("k", self.k, 1)
        if not isinstance(self.authors_compat, bool):
            raise TypeError(f"authors_compat: expected True or False, got {self.authors_compat!r}")


class LraNpp(Method):
    """Cut the paths from the most relevant inputs of the classifier to the class: what the model says changes.

    With path "target" every other logit stays the same function, so all paths that speak for the class are taken: a
    path whose input keeps its sign is inverted, one whose input changes it is zeroed (inverted, it would speak for the
    class on other images).
    """

    name: ClassVar[str] = "lra-npp"
    options: ClassVar[type[MaskOptions]] = LraNppOptions
    until: ClassVar[float] = 0.02
    reads_classifier: ClassVar[bool] = True
    streams: ClassVar[bool] = True
    in_parts: ClassVar[bool] = True

    asked: LraNppOptions

    def check_model(self, structure: Structure) -> None:
        if structure.head is None:
            raise ValueError(f'method: "lra-npp" edits a classifier, and {structure.no_head}')

    def propose(self, given: Given) -> Iterator[Proposal]:
        head = given.structure.head
        assert head is not None
        asked = self.completed(given.structure)
        weight = Tensors(given.model)[head.weight]
        probes = given.numbered(asked.batch(given.images))
        features, logits = given.classified or map(probes.outcome, kept_features(given, head, tuple(probes.batches())))
        quick = shortcut(Tensors(given.model), head, probes.beside(features), logits)
        rows = weight[head.rows]

        def admitted_here(admitted: Tensor | None) -> Tensor:
            if admitted is None:
                return torch.ones_like(given.labels, dtype=torch.bool)
            return probes.own(admitted).to(given.labels.device)

        def rank(chosen: Tensor) -> Ranking:
            width = head.features
            k = asked.k if asked.k is not None else 0.25
            count = max(1, min(width, round(k * width) if isinstance(k, float) else k))
            absolute = asked.preset is not None and AUTHORS_PRESETS[asked.preset].absolute
            labels = given.labels[chosen]
            if asked.authors_compat:
                bias = None if head.bias is None else Tensors(given.model)[head.bias][head.rows]
                return rank_edges_as_authors(features[chosen], rows, bias, count, given.targets, labels, absolute)
            return rank_edges(
                features[chosen], rows, labels, given.targets, count, absolute=absolute, group=probes.group
            )

        def choose(mode: str, admitted: Tensor | None, _: Tensor | None) -> Masks:
            chosen = admitted_here(admitted)
            steady = {}
            if mode == "away":
                steady = {t: steady_signs(features[chosen & (given.labels == t)], probes.group) for t in given.targets}
            return Masks(rank(chosen), lambda picks: planned(mode, picks, steady))

        path = asked.path or "target"

        def planned(mode: str, picks: Picks, steady: dict[int, Tensor]) -> list[Slice]:
            if mode != "away":
                return plan(given.structure, picks, path, mode)
            slices = []
            for target, edges in picks.edges.items():
                for mode_of, wanted in (("invert", True), ("zero", False)):
                    found = tuple(sorted(f for f in edges if bool(steady[target][f]) is wanted))
                    if found:
                        slices.append(Slice(head.weight, head.rows[target], 0, found, mode_of))
            return slices

        quick_retain = None
        if given.retain_classified is not None:
            assert given.others is not None
            kept, kept_logits = given.retain_classified
            quick_retain = shortcut(Tensors(given.model), head, given.others.beside(kept), kept_logits)
        modes = (asked.mode,) if asked.mode else ("away", "zero") if path == "target" else ("zero", "invert")
        for mode in modes:
            free = path == "target" and mode in ("away", "zero", "invert")
            yield Proposal(
                layers=(),
                mode=mode,
                choose=partial(choose, mode),
                candidates=head.features,
                free=free,
                quick=quick if path in OF_CLASSIFIER else None,
                quick_retain=quick_retain if path in OF_CLASSIFIER else None,
            )

    def completed(self, structure: Structure) -> LraNppOptions:
        """Options with the preset's values and the defaults that depend on the model filled in."""
        head, asked = structure.head, self.asked
        assert head is not None
        if asked.authors_compat and asked.preset is None:
            hidden = head.producer is not None and structure.layers[head.producer].kind == "linear"
            asked = replace(asked, preset=preset_for(bool(structure.heads), hidden, head.features))
        if asked.preset is None:
            return asked
        preset = AUTHORS_PRESETS[asked.preset]
        k, budget = preset.scaled(head.features)
        return replace(
            asked,
            k=k if asked.k is None else asked.k,
            budget=budget if asked.budget is None and asked.until is None else asked.budget,
            path=asked.path or preset.path,
            mode=asked.mode or "zero",
        )

    def why_alone(self) -> str | None:
        return "authors_compat: ties by insertion need all images in one process" if self.asked.authors_compat else None

    def runs_again(self) -> str | None:
        asked = self.asked
        path = asked.path or ("target" if asked.preset is None else AUTHORS_PRESETS[asked.preset].path)
        if path in OF_CLASSIFIER and not asked.authors_compat:
            return None
        return f"method {self.name!r} along path {path!r}{' (authors_compat)' * asked.authors_compat} runs them again"

    def described(self, given: Given) -> dict[str, Any]:
        asked = self.completed(given.structure)
        return {"k": 0.25 if asked.k is None else asked.k, "path": asked.path or "target", "preset": asked.preset}


def steady_signs(features: Tensor, group: Group) -> Tensor:
    """[D] which inputs keep the sign of their mean on all but a few of the images [n, D], of all processes."""
    values = features.float()
    only = torch.zeros(len(values), dtype=torch.int64, device=values.device)
    found, _ = sums({"": values}, only, 1, group)
    mean = found[""].mean()[0]
    keep = group.sum((values * mean.sign() >= 0).sum(0))
    return keep.double() / found[""].samples.double() >= STEADY
