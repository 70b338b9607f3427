"""The house's method for items: substitutes for the latents that make them, and for those that come to make them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.given import check_int
from zsu_fast.evaluate.inversion import Search, invert, squared_error, starts_for
from zsu_fast.unlearn.generator_view import GeneratorView
from zsu_fast.unlearn.items import ForgetItems
from zsu_fast.unlearn.methods.base import Given, Method, Proposal
from zsu_fast.unlearn.methods.generators.latent_options import LatentOptions
from zsu_fast.unlearn.methods.training import descend, taught
from zsu_fast.unlearn.options import check_positive, option
from zsu_fast.unlearn.structure import Structure

ANEW, AMONG = 100, 2000
"""After so many steps the searchers start anew, from some of so many latents, and search on their own first."""


@dataclass(frozen=True)
class HuntOptions(LatentOptions):
    until: float | None = option("Share of the items that may still be made.", shown="0")
    utility_floor: float | None = option("Share of the other latents that must make what they made.", 0.9)
    steps: int = option("Most steps of Adam; fewer where no searcher comes near any more.", 1500)
    learning_rate: float = option("Of Adam.", 1e-3)
    searchers: int = option("Latents that search for each item while it learns.", 8)
    train_batch_size: int = option("Latents of each kind in a step: around the items, searchers, others.", 64)
    kept_weight: float = option("Of what the other latents' images change, beside those of the items.", 10.0)
    far_weight: float = option("Of what is still too near to an item.", 50.0)
    lead: float = option("How much farther than needed it is to be, as a share.", 0.5)

    def check(self) -> None:
        super().check()
        for name, least in (("steps", 1), ("searchers", 2), ("train_batch_size", 2)):
            check_int(name, getattr(self, name), least)
        for name in ("learning_rate", "kept_weight", "far_weight"):
            check_positive(name, getattr(self, name))
        check_positive("lead", self.lead, or_zero=True)


class Hunt(Method):
    """Latents that make an item, or an image near it, come to make its substitute; others make what they made.

    All parameters learn, towards the images of the unedited generator: |G(z) - s|^2 for latents around those that an
    inversion found, s the item's substitute; |G(z) - G0(z)|^2 for others. These latents alone are not enough: another
    search soon finds the item elsewhere. So latents search for it all the while, a step of theirs to each of the
    generator's, and what they make is pushed away. Ends where none came near for a while. The house's; inversion and
    substitutes for items are an idea of arXiv 2308.09881.
    """

    name: ClassVar[str] = "hunt"
    options: ClassVar[type[HuntOptions]] = HuntOptions
    takes: ClassVar[frozenset[str]] = frozenset({ForgetItems.kind})
    until: ClassVar[float] = 0.0
    resumable: ClassVar[bool] = True
    folds: int = 1

    asked: HuntOptions

    def check_model(self, structure: Structure) -> None:
        """Any generator will do."""

    def propose(self, given: Given) -> Iterator[Proposal]:
        yield taught(given, self.learn, self.asked.seed)

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        asked, request = self.asked, given.request
        assert isinstance(request, ForgetItems) and request.substitutes is not None
        view, teacher = given.view(student), given.view(given.model)
        assert isinstance(view, GeneratorView) and isinstance(teacher, GeneratorView)
        judge, limits, pool = request.judge, request.judge.limits, request.pool
        substitutes = request.substitutes
        near = request.pool_labels == 1
        own, others = pool[near], pool[~near]
        with torch.no_grad():
            made = torch.cat([teacher.images(z) for z in asked.batches(others)])
            item = torch.cat([judge.parts(teacher.images(z)).argmin(1) for z in asked.batches(own)])
        scale = limits.mean()
        generator = torch.Generator().manual_seed(asked.seed)
        searchers = Search(request.items, starts_for(teacher.images, request.items, others, asked.searchers))
        hunted = torch.arange(len(request.items), device=pool.device).repeat_interleave(asked.searchers)
        parameters = [p for p in student.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, asked.learning_rate)

        def drawn(among: Tensor) -> Tensor:
            return torch.randint(len(among), (asked.train_batch_size,), generator=generator).to(pool.device)

        def too_near(images: Tensor, which: Tensor) -> Tensor:
            away = squared_error(images, request.items[which]) / limits[which]
            return F.relu(1 + asked.lead - away)

        def loss(step: int) -> Tensor:
            searchers.step(view.images)
            one, two, three = drawn(own), drawn(hunted), drawn(others)
            found = view.images(torch.cat([own[one], searchers.latents[two], others[three]]))
            given.count(len(found) + len(hunted))
            replaced, caught, kept = found.split(asked.train_batch_size)
            away = squared_error(replaced, substitutes[item[one]]) / limits[item[one]]
            change = squared_error(kept, made[three]) / scale
            push = too_near(torch.cat([replaced, caught]), torch.cat([item[one], hunted[two]]))
            return away.mean() + asked.kept_weight * change.mean() + asked.far_weight * push.mean()

        looks = {"steps": 0, "clear": 0}

        def enough() -> bool:
            """Whether twice in a row a search that starts anew found none; the searchers go on from what it found."""
            looks["steps"] += 1
            if looks["steps"] % ANEW:
                return False
            few = others[torch.randperm(len(others), generator=generator)[:AMONG].to(pool.device)]
            starts = starts_for(view.images, request.items, few, asked.searchers)
            found, errors = invert(view.images, request.items, starts, request.search_steps)
            given.count(request.search_steps * len(hunted))
            searchers.latents.copy_(found.flatten(0, 1))
            far = bool((errors.flatten() >= (1 + asked.lead / 2) * limits[hunted]).all())
            looks["clear"] = looks["clear"] + 1 if far else 0
            return looks["clear"] == 2

        stretch = given.stretch([student, optimizer, generator, searchers, looks])
        descend(loss, parameters, optimizer, asked.steps, given.progress, "hunt", stretch, enough=enough)
