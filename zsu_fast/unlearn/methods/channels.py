"""Units of any layers - conv channels, hidden units, attention heads - ranked by relevance and masked exactly."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.lrp import Composite
from zsu_fast.lrp.blocks import Memory
from zsu_fast.unlearn.edits import Slice
from zsu_fast.unlearn.methods.base import Given, Masks, Method, Proposal
from zsu_fast.unlearn.options import MaskOptions, check_amount, check_layers, option
from zsu_fast.unlearn.picks import SCOPES, SCORES, Picks, largest_shares, rank_units, relevance_of_shard
from zsu_fast.unlearn.plan import plan
from zsu_fast.unlearn.shard import Shard
from zsu_fast.unlearn.structure import Structure

SMALLER = 4
"""So many times smaller than other batches are those of a relevance pass, which keeps the whole graph."""


@dataclass(frozen=True)
class ChannelsOptions(MaskOptions):
    k: float | None = option("Share of each layer's units that each probe may name as most relevant.", shown="0.25")
    score: str | None = option(
        "frequency, mean or contrastive (against the retain images).",
        choices=SCORES,
        shown="contrastive with retain images",
    )
    scope: str = option("layer: the same share of each; global: compared across layers.", "layer", choices=SCOPES)
    layers: tuple[str, ...] | None = option(
        "Only these layers.", shown="late hidden layers and heads, then all late layers, then every hidden layer"
    )
    composite: str | Composite = option("Rules of the relevance pass.", "epsilon")
    memory: Memory = option(
        "Of the relevance pass; low: blocks of the model run a second time, the same bits from less memory.",
        "normal",
        choices=("normal", "low"),
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", check_layers(self.layers))
        super().__post_init__()

    def check(self) -> None:
        super().check()
        if isinstance(self.k, int) and not isinstance(self.k, bool):
            raise ValueError(f'k: method "channels" takes a share in (0, 1] of each layer, got the count {self.k}')
        check_amount("k", self.k, 1)


class Channels(Method):
    """Mask the units that carry the class, exactly: the features change too, and so may the other classes."""

    name: ClassVar[str] = "channels"
    options: ClassVar[type[MaskOptions]] = ChannelsOptions
    until: ClassVar[float] = 0.05
    streams: ClassVar[bool] = True
    in_parts: ClassVar[bool] = True

    asked: ChannelsOptions

    def check_images(self, has_retain: bool) -> None:
        super().check_images(has_retain)
        if self.asked.score == "contrastive" and not has_retain:
            raise ValueError('score: "contrastive" needs retain_probes')

    def check_model(self, structure: Structure) -> None:
        for name in self.asked.layers or ():
            if name not in structure.maskable():
                raise ValueError(f"layers: {structure.why_not(name)}")
        if not structure.neurons():
            why = next(iter(structure.computed.items()), None)
            reason = f": the weight of {why[0]!r} is computed, by {why[1]}" if why else ""
            raise ValueError(
                f'method: "channels" found no linear or convolution layer with a weight of its own to mask{reason}'
            )

    def heavier_pass(
        self, model: nn.Module, structure: Structure, view: nn.Module
    ) -> tuple[Callable[[Tensor], object], int]:
        asked, layers = self.asked, self._layers(structure, self._layer_sets(structure))

        def run(images: Tensor) -> object:
            labels = torch.zeros(len(images), dtype=torch.int64, device=images.device)
            shard = Shard.of(images, len(images))
            return relevance_of_shard(model, shard, labels, layers, asked.composite, _untold, view, asked.memory)

        return run, SMALLER

    def propose(self, given: Given) -> Iterator[Proposal]:
        asked, structure = self.asked, given.structure
        retained = given.images if given.retain is None else given.retain[0]
        for name, images in (("probes", given.images), ("retain_probes", retained)):
            if not images.is_floating_point():
                raise ValueError(f"{name}: method {self.name!r} needs floating-point images, got {images.dtype}")
        stages = self._layer_sets(structure)
        layers = self._layers(structure, stages)
        score, probes = self._score(given), given.numbered(self.asked.batch(given.images))
        relevance, _ = self._relevance(given, probes, given.labels, layers)
        against = None
        if score == "contrastive":
            assert given.retain is not None
            others = Shard.of(given.retain[0], probes.size) if given.others is None else given.others
            of_others, logits = self._relevance(given, others, given.retain[1], layers)
            given.note(logits)
            against = largest_shares(of_others, given.retain[1], others.group)

        def planned(picks: Picks) -> list[Slice]:
            return plan(structure, picks, "neuron", asked.mode or "zero")

        for stage in stages:

            def choose(admitted: Tensor | None, _: Tensor | None, stage: Sequence[str] = stage) -> Masks:
                chosen = slice(None) if admitted is None else probes.own(admitted).to(given.labels.device)
                ranking = rank_units(
                    {name: relevance[name][chosen] for name in stage},
                    given.labels[chosen],
                    given.targets,
                    score=score,
                    scope=asked.scope,
                    k=0.25 if asked.k is None else asked.k,
                    against=against,
                    group=probes.group,
                )
                return Masks(ranking, planned)

            candidates = sum(relevance[name].shape[1] for name in stage)
            yield Proposal(tuple(stage), asked.mode or "zero", choose, candidates)

    def described(self, given: Given) -> dict[str, Any]:
        return {"score": self._score(given), "k": 0.25 if self.asked.k is None else self.asked.k}

    def _layer_sets(self, structure: Structure) -> list[list[str]]:
        return [list(self.asked.layers)] if self.asked.layers else structure.stages()

    def _layers(self, structure: Structure, stages: Sequence[Sequence[str]]) -> list[str]:
        return [name for name in structure.maskable() if any(name in stage for stage in stages)]

    def _score(self, given: Given) -> str:
        return self.asked.score or ("frequency" if given.retain is None else "contrastive")

    def _relevance(
        self, given: Given, images: Shard, labels: Tensor, layers: Sequence[str]
    ) -> tuple[dict[str, Tensor], Tensor]:
        given.count(len(images))
        few = replace(images, size=max(1, images.size // SMALLER))
        asked = self.asked
        return relevance_of_shard(
            given.model, few, labels, layers, asked.composite, given.progress, memory=asked.memory
        )

    def why_alone(self) -> str | None:
        return None


def _untold(done: int, total: int, text: str) -> None:
    """Of a pass that only measures nobody is told."""
