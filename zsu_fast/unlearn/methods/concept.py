"""Take a concept out of the features: erase its direction from what layers write, or mask the units that carry it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from zsu_fast.concepts.erasure import erase_, outputs_of
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.concept import ForgetConcept
from zsu_fast.unlearn.methods.base import Given, Masks, Proposal
from zsu_fast.unlearn.methods.channels import SMALLER, Channels, ChannelsOptions
from zsu_fast.unlearn.methods.training import Values, learned_values, student_of
from zsu_fast.unlearn.options import option
from zsu_fast.unlearn.picks import Picks, largest_shares, rank_units, relevance_of_shard
from zsu_fast.unlearn.plan import plan
from zsu_fast.unlearn.shard import Shard
from zsu_fast.unlearn.structure import Layer

MOST = 8
"""Layers from which a concept is erased at most: each takes a run of the images."""


@dataclass(frozen=True)
class ConceptOptions(ChannelsOptions):
    edit: str | None = option(
        "erase: its direction, from the outputs of layers. masks: the units that carry it, as by channels.",
        choices=("erase", "masks"),
        shown="erase, and masks where that reaches nothing",
    )

    def check(self) -> None:
        super().check()
        if self.edit == "erase" and (self.mode or self.score):
            raise ValueError("edit: erase has no mode and no score")


class Concept(Channels):
    """Two kinds of edit, the first that reaches the aim within the floor.

    erase: see `zsu_fast.concepts.erasure`; from the last of the layers that the margin rests on, then from the last
    two, four, eight. masks: as "channels", with the concept's margin in the place of a class's logit. Score
    "contrastive": a unit's mean share of the relevance for the margin on images with the concept, less its share on
    images without it, or for a class of the retain images, whichever is largest.
    """

    name: ClassVar[str] = "concept"
    options: ClassVar[type[ConceptOptions]] = ConceptOptions
    takes: ClassVar[frozenset[str]] = frozenset({ForgetConcept.kind})
    until: ClassVar[float] = 0.6
    folds: int = 2

    asked: ConceptOptions

    def check_images(self, has_retain: bool) -> None:
        """Images without the concept, which every request has, are enough to contrast with."""

    def propose(self, given: Given) -> Iterator[Proposal]:
        asked, structure, request = self.asked, given.structure, given.request
        assert isinstance(request, ForgetConcept)
        column = structure.classes - 1 - request.bank.vectors.shape[1]
        layers = [name for name in structure.maskable() if not asked.layers or name in asked.layers]
        view = request.view(given.model)
        batch = max(1, asked.batch(given.images) // SMALLER)
        retain = given.retain
        everything = given.images if retain is None else torch.cat([given.images, retain[0].to(given.images)])
        labels = torch.full_like(given.labels, column)
        labels = labels if retain is None else torch.cat([labels, retain[1].to(labels)])
        given.count(len(everything))
        shard = Shard.of(everything, batch)
        found, logits = relevance_of_shard(
            given.model, shard, labels, layers, asked.composite, given.progress, view, asked.memory
        )
        if retain is not None:
            given.note(logits[len(given.images) :])
        carried = [name for name in layers if bool((found[name][: len(given.images)] != 0).any())]
        if asked.edit != "masks":
            yield from self._erasures(given, carried)
        if asked.edit != "erase":
            yield from self._masks(given, found, labels, carried)

    def _masks(
        self, given: Given, found: dict[str, Tensor], labels: Tensor, carried: Sequence[str]
    ) -> Iterator[Proposal]:
        """found, labels: relevance of units and what for; of the images of the request, then of those retained."""
        asked, structure, inside = self.asked, given.structure, given.labels == 1
        column = int(labels[0])

        def planned(picks: Picks) -> list:
            return plan(structure, picks, "neuron", asked.mode or "zero")

        for stage in self._stages(given, carried):

            def choose(admitted: Tensor | None, _: Tensor | None, stage: Sequence[str] = stage) -> Masks:
                chosen = torch.ones_like(inside) if admitted is None else admitted.to(inside.device)
                ours = torch.zeros(len(labels), dtype=torch.bool, device=inside.device)
                ours[: len(inside)] = inside & chosen
                others = ~ours
                others[: len(inside)] = ~inside & chosen
                ranking = rank_units(
                    {name: found[name][ours] for name in stage},
                    labels[ours],
                    (column,),
                    score=self._score(given),
                    scope=asked.scope,
                    k=0.25 if asked.k is None else asked.k,
                    against=largest_shares({name: found[name][others] for name in stage}, labels[others]),
                )
                return Masks(ranking, planned)

            yield Proposal(tuple(stage), asked.mode or "zero", choose, sum(found[name].shape[1] for name in stage))

    def _erasures(self, given: Given, carried: Sequence[str]) -> Iterator[Proposal]:
        """From the last layer alone, the last two, four, eight: the fewer, the less the others lose."""
        modules = dict(given.model.named_modules())
        layers = [given.structure.layers[name] for name in carried if name in given.structure.layers]
        plain = [layer for layer in layers if layer.runs == 1 and layer.name in modules][-MOST:]
        for count in sorted({min(count, len(plain)) for count in (1, 2, 4, MOST)} - {0}):
            chosen = plain[len(plain) - count :]
            yield Proposal(tuple(layer.name for layer in chosen), "erase", partial(self._erased, given, chosen), 1)

    def _erased(self, given: Given, layers: Sequence[Layer], admitted: Tensor | None, _: Tensor | None) -> Values:
        own = slice(None) if admitted is None else admitted.to(given.labels.device)
        images, inside = given.images[own], given.labels[own] == 1
        student = student_of(given.model)
        view, tensors = given.view(student), Tensors(student)
        for layer in layers:  # each as those before it leave it
            module = student.get_submodule(layer.name)
            outputs = outputs_of(view, module, self.asked.batches(images), layer.kind == "conv")
            erase_(tensors, layer.weight, layer.bias, running_mean(layer, tensors), outputs, inside)
        return learned_values(given.model, student)

    def _stages(self, given: Given, carried: Sequence[str]) -> list[list[str]]:
        """Of the layers that the margin rests on: as for classes, then each third of the depth alone."""
        if self.asked.layers:
            return [list(carried)]
        third = max(1, len(carried) // 3)
        thirds = [list(carried[start : start + third]) for start in range(0, len(carried), third)]
        stages: list[list[str]] = []
        for names in [*given.structure.stages(), *reversed(thirds)]:
            kept = [name for name in names if name in carried]
            if kept and kept not in stages:
                stages.append(kept)
        return stages

    def _score(self, given: Given) -> str:
        return self.asked.score or "contrastive"


def running_mean(layer: Layer, tensors: Tensors) -> str | None:
    """Of the BatchNorm that stands on all units of a layer, one to one."""
    for norm in layer.norms:
        name = norm.tensor.rpartition(".")[0] + ".running_mean"
        if name in tensors and norm.places == {unit: (unit,) for unit in range(layer.units)}:
            return name
    return None
