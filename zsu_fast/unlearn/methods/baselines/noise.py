"""Noise on weights, the plainest way to forget: on the class's row of the classifier, or on any neurons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from zsu_fast.unlearn.methods.base import Given, Masks, Method, Proposal
from zsu_fast.unlearn.options import MaskOptions, option
from zsu_fast.unlearn.picks import EdgeRanking, Ranking, UnitRanking
from zsu_fast.unlearn.plan import plan
from zsu_fast.unlearn.structure import Structure


@dataclass(frozen=True)
class NoiseOptions(MaskOptions):
    mode: str | None = option("gaussian or laplace.", "gaussian", choices=("gaussian", "laplace"))
    strength: float | None = option("Standard deviation of gaussian noise, scale of laplace.", 1.0)
    where: str = option(
        "classifier: weights of the class, chosen at random; neurons: hidden neurons, chosen at random.",
        "classifier",
        choices=("classifier", "neurons"),
    )


class Noise(Method):
    """Noise added to weights that are chosen at random; the budget counts inputs of the classifier, or neurons.

    Needs no images, but for measuring. BatchNorm stays. Source: after the baselines Noise-GN and Noise-LN of LRA-NPP
    (arXiv 2410.23693), which put the noise where that method finds relevance: `method="lra-npp", mode="gaussian"`.
    """

    name: ClassVar[str] = "noise"
    options: ClassVar[type[NoiseOptions]] = NoiseOptions
    needs: ClassVar[frozenset[str]] = frozenset()
    until: ClassVar[float] = 0.05

    asked: NoiseOptions

    def check_model(self, structure: Structure) -> None:
        if self.asked.where == "classifier" and structure.head is None:
            raise ValueError(f'where: "classifier" needs one, and {structure.no_head}')
        if self.asked.where == "neurons" and not structure.neurons():
            raise ValueError('where: "neurons" found no layer whose units can be perturbed')

    def propose(self, given: Given) -> Iterator[Proposal]:
        structure, mode = given.structure, self.asked.mode or "gaussian"
        generator = torch.Generator().manual_seed(self.asked.seed)
        ranking: Ranking
        if self.asked.where == "classifier":
            assert structure.head is not None
            candidates = structure.head.features
            ranking = EdgeRanking({target: torch.randperm(candidates, generator=generator) for target in given.targets})
        else:
            sizes = structure.neurons()
            layers = torch.arange(len(sizes)).repeat_interleave(torch.tensor(list(sizes.values())))
            units = torch.cat([torch.arange(size) for size in sizes.values()])
            candidates = len(units)
            order = torch.randperm(candidates, generator=generator)
            ranking = UnitRanking(tuple(sizes), layers[order], units[order])
        masks = Masks(ranking, lambda picks: plan(structure, picks, "target", mode))
        yield Proposal((), mode, lambda *_: masks, candidates)

    def described(self, given: Given) -> dict[str, Any]:
        return {"needs": []}
