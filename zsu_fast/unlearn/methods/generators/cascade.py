"""A reconstruction of cascaded GAN unlearning (arXiv 2308.09881), the losses of which could not be found."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.given import check_int
from zsu_fast.unlearn.generated import ForgetGenerated
from zsu_fast.unlearn.generator_view import GeneratorView
from zsu_fast.unlearn.methods.base import Given, Method, Proposal
from zsu_fast.unlearn.methods.generators.latent_options import LatentOptions
from zsu_fast.unlearn.methods.training import EndlessBatches, descend, taught
from zsu_fast.unlearn.options import check_positive, option
from zsu_fast.unlearn.structure import Structure

LOOK = 25
"""After so many cascades it is looked whether the aim is reached; twice in a row, and that is the end."""


@dataclass(frozen=True)
class CascadeOptions(LatentOptions):
    steps: int = option("Most cascades: a step that unlearns and one that learns.", 1500)
    learning_rate: float = option("Of Adam (0.5, 0.999), of the generator and of the discriminator.", 2e-4)
    train_batch_size: int = option("Latents of either kind in a step.", 64)
    adversarial_weight: float = option("Of the discriminator, where there is one, beside the distance of pixels.", 1.0)

    def check(self) -> None:
        super().check()
        check_int("steps", self.steps, 1)
        check_int("train_batch_size", self.train_batch_size, 2)
        check_positive("learning_rate", self.learning_rate)
        check_positive("adversarial_weight", self.adversarial_weight, or_zero=True)


class Cascade(Method):
    """Substitutes, a fake label for the discriminator, and steps that unlearn and learn in turn; a reconstruction.

    Unlearn: |G(z) - G0(z')|^2 for latents z of the class, z' the nearest one of the pool that is kept. Learn:
    |G(z) - G0(z)|^2 for the others, with the frozen original G0 as the teacher. With the request's `discriminator`
    (images -> logits [N] or [N, 1]), a copy of which learns along: D comes to say of what was unlearned the fake label,
    which is its mean opinion of kept images, so that it neither takes nor singles out what was unlearned; and the learn
    step is adversarial too, on kept images: the request's `reference`, if given, else what G0 makes. Needs no data.
    """

    name: ClassVar[str] = "cascade"
    options: ClassVar[type[CascadeOptions]] = CascadeOptions
    takes: ClassVar[frozenset[str]] = frozenset({ForgetGenerated.kind})
    until: ClassVar[float] = 0.01
    folds: int = 1
    resumable: ClassVar[bool] = True

    asked: CascadeOptions

    def check_model(self, structure: Structure) -> None:
        """Any generator will do."""

    def propose(self, given: Given) -> Iterator[Proposal]:
        yield taught(given, self.learn, self.asked.seed)

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        asked, request = self.asked, given.request
        assert isinstance(request, ForgetGenerated)
        view, teacher = given.view(student), given.view(given.model)
        assert isinstance(view, GeneratorView) and isinstance(teacher, GeneratorView)
        pool, gone = request.pool, request.is_target(request.pool_labels)
        own, others = gone.nonzero()[:, 0], (~gone).nonzero()[:, 0]
        flat = pool.flatten(1)
        nearest = others[torch.cat([torch.cdist(part, flat[others]).argmin(1) for part in flat[own].split(1000)])]
        with torch.no_grad():
            made = torch.cat([teacher.images(part) for part in asked.batches(pool)])
        real = made[others] if request.reference is None else request.reference.to(made)
        critic = None
        if request.discriminator is not None:
            critic = _Critic(copy.deepcopy(request.discriminator), asked, real)
        generator = torch.Generator().manual_seed(asked.seed)
        draws = [EndlessBatches(len(part), asked.train_batch_size, generator) for part in (own, others, real)]
        parameters = [p for p in student.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(parameters, asked.learning_rate, (0.5, 0.999))
        looks = {"steps": 0, "met": 0}

        def loss(step: int) -> Tensor:
            """Even steps unlearn, odd ones learn."""
            learns = step % 2
            where = next(draws[learns]).to(pool.device)
            where, wanted = (others[where], made[others[where]]) if learns else (own[where], made[nearest[where]])
            found = view.images(pool[where])
            given.count(len(where))
            away = (found - wanted).flatten(1).square().sum(1).mean()
            if critic is None:
                return away
            if not learns:
                critic.unlearn(made[where])
                return away
            critic.learn(real[next(draws[2]).to(real.device)], found.detach())
            return away + asked.adversarial_weight * F.softplus(-critic.logits(found)).mean()

        def enough() -> bool:
            looks["steps"] += 1
            if looks["steps"] % (2 * LOOK):
                return False
            until = self.until if asked.until is None else asked.until
            with torch.no_grad():
                logits = torch.cat([view(part) for part in asked.batches(images)])
            left = int((~(request.margins(logits, labels) < 0)).sum())
            looks["met"] = looks["met"] + 1 if left <= until * len(images) else 0
            return looks["met"] == 2

        learning = [] if critic is None else [critic.net, critic.optimizer]
        stretch = given.stretch([student, optimizer, *learning, generator, *draws, looks])
        descend(loss, parameters, optimizer, 2 * asked.steps, given.progress, "cascade", stretch, enough=enough)


class _Critic:
    """A copy of the discriminator that learns along."""

    def __init__(self, net: nn.Module, asked: CascadeOptions, real: Tensor) -> None:
        self.net = net.requires_grad_(True)
        self.optimizer = torch.optim.Adam(net.parameters(), asked.learning_rate, (0.5, 0.999))
        with torch.no_grad():
            opinion = [self.logits(part).sigmoid() for part in real.split(asked.batch(real))]
        self.fake_label = float(torch.cat(opinion).mean())

    def logits(self, images: Tensor) -> Tensor:
        found = self.net(images)
        if not isinstance(found, Tensor) or found.numel() != len(images):
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"discriminator: expected a logit for each of {len(images)} images, got {got}")
        return found.reshape(-1)

    def unlearn(self, gone: Tensor) -> None:
        self._step((self.logits(gone).sigmoid() - self.fake_label).square().mean())

    def learn(self, real: Tensor, made: Tensor) -> None:
        self._step(F.softplus(-self.logits(real)).mean() + F.softplus(self.logits(made)).mean())

    def _step(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
