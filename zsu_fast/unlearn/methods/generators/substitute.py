"""The house's method for generators: latents of what is to go make what their nearest kept neighbours make."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.given import check_int
from zsu_fast.evaluate.inference import logits_of
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.edits import Edits, Replacement, Slice
from zsu_fast.unlearn.generated import ForgetGenerated
from zsu_fast.unlearn.generator_view import CONFIDENT, GeneratorView
from zsu_fast.unlearn.methods.base import Given, Method, Proposal
from zsu_fast.unlearn.methods.generators.displaced import displaced
from zsu_fast.unlearn.methods.generators.last_layer import last_layer, refitted, through
from zsu_fast.unlearn.methods.generators.latent_options import LatentOptions
from zsu_fast.unlearn.methods.training import Values, descend, learned_values, student_of
from zsu_fast.unlearn.options import check_positive, check_share, option
from zsu_fast.unlearn.picks import Picks, largest_shares, rank_units, unit_relevance
from zsu_fast.unlearn.plan import plan
from zsu_fast.unlearn.structure import Structure

SHOWN = 200
"""Latents of either kind that a relevance pass is made for."""
FEWER = 750
"""Latents of either kind that a convolution is fitted to: its closed form takes longer."""
SURE = 0.8
"""The closed form will do where at least so many of the latents of the class have another one, surely."""


@dataclass(frozen=True)
class SubstituteOptions(LatentOptions):
    masked: float = option("Share of the last hidden layer's units to mask, by relevance; 0: none.", 0.03)
    rounds: int = option("Most rounds of the closed form: what is left of the class weighs more in the next.", 4)
    ridge: float = option("Of the closed form, in parts of its mean curvature.", 1e-4)
    tuning_steps: int = option("Steps of Adam where the closed form does not do; 0: none.", 150)
    learning_rate: float = option("Of Adam, falling to 0 as a cosine.", 2e-3)
    train_batch_size: int = option("Latents in a step of Adam, half of them of the class.", 128)
    kept_weight: float = option("Of what the other latents' images change, beside those of the class.", 2.0)
    judge_weight: float = option("Of the lead that the judge's logit of the class still has.", 30.0)
    lead: float = option("By how much that logit is to lie behind the best other one.", 2.0)

    def check(self) -> None:
        super().check()
        check_share("masked", self.masked)
        check_int("rounds", self.rounds, 1, 64)
        check_int("tuning_steps", self.tuning_steps, 0)
        check_int("train_batch_size", self.train_batch_size, 2)
        for name in ("ridge", "learning_rate", "kept_weight"):
            check_positive(name, getattr(self, name))
        for name in ("judge_weight", "lead"):
            check_positive(name, getattr(self, name), or_zero=True)


class Substitute(Method):
    """Fit the last layer anew so that latents of the class make what their nearest kept neighbours make, others what
    they made.

    Of the last hidden layer the units that speak most for the class, and not for others, are masked first (relevance of
    the judge's logit). Each round of the closed form weighs latents by how much of the class is left of them. Where no
    round does, or where it leaves images that are of no class, Adam goes on from there with all parameters, towards the
    same images, and the judge says which are still of the class. The house's; the substitution mechanism is the idea
    of arXiv 2308.09881.
    """

    name: ClassVar[str] = "substitute"
    options: ClassVar[type[SubstituteOptions]] = SubstituteOptions
    takes: ClassVar[frozenset[str]] = frozenset({ForgetGenerated.kind})
    until: ClassVar[float] = 0.01
    folds: int = 1
    resumable: ClassVar[bool] = True

    asked: SubstituteOptions

    def check_model(self, structure: Structure) -> None:
        """Any generator will do that has a last layer."""

    def propose(self, given: Given) -> Iterator[Proposal]:
        fit = _Fit(given, self.asked)
        units = self._units(given, fit)
        masks: list[Slice] = []
        if units:
            masks = plan(given.structure, Picks(neurons=units), "neuron", "zero")
        rounds = Rounds(fit, units, masks)
        layers = (*units, fit.layer)
        if not self.asked.tuning_steps or rounds.sure() >= SURE:
            yield Proposal(layers, "closed form", lambda *_: rounds, rounds.largest, smallest=True)
        if self.asked.tuning_steps:
            yield Proposal((), "tuned", lambda *_: fit.tuned, 1, smallest=True)

    def _units(self, given: Given, fit: _Fit) -> dict[str, list[int]]:
        """The units of the last hidden layer to mask, by name of the layer; none where it has none to mask exactly."""
        hidden = [name for name in given.structure.neurons() if name != fit.layer]
        count = round(self.asked.masked * given.structure.neurons()[hidden[-1]]) if hidden else 0
        if not count:
            return {}
        request, name = fit.request, hidden[-1]
        prefix = next(n for n, module in fit.view.named_modules() if module is given.model)
        own = request.is_target(request.pool_labels)
        kinds = []
        for chosen in (own, ~own):
            where = chosen.nonzero()[:SHOWN, 0]
            latents, labels = request.pool[where], request.pool_labels[where]
            given.count(len(where))
            found, _ = unit_relevance(
                fit.view, latents, labels, [f"{prefix}.{name}"], "epsilon", self.asked.batch(latents), given.progress
            )
            kinds.append(({name: found[f"{prefix}.{name}"]}, labels))
        (relevance, labels), others = kinds
        targets = [target for target in given.targets if bool((labels == target).any())]
        ranking = rank_units(
            relevance, labels, targets, score="contrastive", scope="layer", k=0.25, against=largest_shares(*others)
        )
        return ranking.take(count).neurons


class _Fit:
    """Pool, substitutes, and what the layers of the unedited model make of them: the same for all edits."""

    def __init__(self, given: Given, asked: SubstituteOptions) -> None:
        assert isinstance(given.request, ForgetGenerated)
        self.given, self.asked, self.request = given, asked, given.request
        self.view = self._view(given.model)
        self.layer = last_layer(given.model, self.view.images, self.request.pool[:2])
        module = given.model.get_submodule(self.layer)
        pool, labels = self.request.pool, self.request.pool_labels
        own, others = (
            where.nonzero()[:, 0] for where in (self.request.is_target(labels), ~self.request.is_target(labels))
        )
        if not isinstance(module, nn.Linear):
            own, others = own[:FEWER], others[:FEWER]
        found, reached = displaced(self.view, pool[own], given.targets, asked.batch(pool))
        given.count(len(found))
        if not bool(reached.any()):
            raise ValueError(
                "latents: none of those of the class reaches another one: does the judge give gradients to its images?"
            )
        # What is to go comes first: where not all fit into memory, kept latents are left out.
        self.latents = torch.cat([pool[own], pool[others]])
        self.instead = torch.cat([found, pool[others]])
        self.wanted = through(module, self.view.images, self.batches(self.instead))[1]
        self.latents, self.instead = self.latents[: len(self.wanted)], self.instead[: len(self.wanted)]
        self.count = min(len(found), len(self.wanted) - 1)

    def _view(self, model: nn.Module) -> GeneratorView:
        view = self.given.view(model)
        assert isinstance(view, GeneratorView)
        return view

    def batches(self, latents: Tensor) -> tuple[Tensor, ...]:
        return self.asked.batches(latents)

    def student(self, masks: list[Slice]) -> nn.Module:
        student = copy.deepcopy(self.given.model)
        for piece in masks:
            held = Tensors(student)[piece.tensor]
            held.index_fill_(piece.dim, torch.tensor(piece.indices, device=held.device), 0)
        return student

    def judged(self, student: nn.Module) -> tuple[Tensor, Tensor]:
        """Probabilities [count], by the judge, of the classes that are to go, and of the likeliest other one, of what
        the student makes of their latents."""
        view, targets = self._view(student), torch.tensor(self.given.targets, device=self.latents.device)
        found = torch.cat([view(batch) for batch in self.batches(self.latents[: self.count])]).softmax(1)
        return found.index_select(1, targets).sum(1), found.index_fill(1, targets, 0.0).amax(1)

    @cached_property
    def tuned(self) -> Values:
        """What Adam makes of the closed form, with all parameters."""
        asked, given, request = self.asked, self.given, self.request
        values, _ = Rounds(self, {}, []).found((asked.rounds + 1) // 2)
        generator = torch.Generator().manual_seed(asked.seed)
        with torch.inference_mode(False), torch.enable_grad():
            student = student_of(given.model)
            module = student.get_submodule(self.layer)
            with torch.no_grad():
                for name, value in values.items():
                    module.get_parameter(name).copy_(value)
            view = self._view(student)
            shown = [self.view.images(batch) for batch in self.batches(self.instead)]
            images = torch.cat(shown).detach()
            parameters = [p for p in student.parameters() if p.requires_grad]
            optimizer = torch.optim.Adam(parameters, asked.learning_rate)
            half = asked.train_batch_size // 2

            def loss(step: int) -> Tensor:
                for group in optimizer.param_groups:
                    group["lr"] = asked.learning_rate * (1 + math.cos(math.pi * step / asked.tuning_steps)) / 2
                own = torch.randint(self.count, (half,), generator=generator)
                others = torch.randint(self.count, len(self.latents), (half,), generator=generator)
                where = torch.cat([own, others]).to(self.latents.device)
                given.count(len(where))
                made = view.images(self.latents[where])
                away = (made - images[where]).flatten(1).square().sum(1)
                left = request.margins(logits_of(view.judge(made[:half])), where[:half])
                return (
                    away[:half].mean()
                    + asked.kept_weight * away[half:].mean()
                    + asked.judge_weight * F.relu(left + asked.lead).mean()
                )

            stretch = given.stretch([student, optimizer, generator])
            descend(loss, parameters, optimizer, asked.tuning_steps, given.progress, "tuning", stretch)
        return learned_values(given.model, student)


@dataclass(frozen=True)
class Rounds:
    """Edits of the last layer, one for each round of the closed form, with the same masks."""

    fit: _Fit
    neurons: dict[str, list[int]]
    masks: list[Slice]
    made: list[tuple[dict[str, Tensor], Tensor]] = field(default_factory=list)

    @property
    def largest(self) -> int:
        return self.fit.asked.rounds

    def picks(self, size: int) -> Picks:
        return Picks(neurons=self.neurons)

    def edits(self, size: int) -> Edits:
        values, _ = self.found(size)
        return [*self.masks, *(Replacement(f"{self.fit.layer}.{name}", value) for name, value in values.items())]

    def sure(self) -> float:
        """Of the latents of the class, the share that a judge takes for one other class, and surely, after all rounds:
        what is in between is of no class, a dead zone."""
        self.found(self.largest)
        return float((self.fit.judged(self._student)[1] >= CONFIDENT).double().mean())

    def found(self, size: int) -> tuple[dict[str, Tensor], Tensor]:
        """New parameters of the layer, and the weights [N] of the latents that they were fitted with."""
        fit = self.fit
        if not self.made:
            self.made.append(({}, torch.ones(len(fit.latents), device=fit.latents.device)))
        while len(self.made) <= size:
            weights = self.made[-1][1].clone()
            student = self._student
            module = student.get_submodule(fit.layer)
            if len(self.made) > 1:
                weights[: fit.count] *= 1 + 2 * fit.judged(student)[0]
            with torch.no_grad():
                for name, value in self._before.items():  # each fit starts from the unedited layer
                    module.get_parameter(name).copy_(value)
            values = refitted(module, self._inputs, fit.wanted, weights, fit.asked.ridge)
            with torch.no_grad():
                for name, value in values.items():
                    module.get_parameter(name).copy_(value)
            self.made.append((values, weights))
            fit.given.progress(len(self.made) - 1, self.largest, "closed form")
        return self.made[size]

    @cached_property
    def _student(self) -> nn.Module:
        return self.fit.student(self.masks)

    @cached_property
    def _before(self) -> dict[str, Tensor]:
        module: Any = self.fit.given.model.get_submodule(self.fit.layer)
        return {name: p.detach().clone() for name, p in module.named_parameters(recurse=False)}

    @cached_property
    def _inputs(self) -> Tensor:
        fit = self.fit
        module = self._student.get_submodule(fit.layer)
        view = fit._view(self._student)
        return through(module, view.images, fit.batches(fit.latents))[0]
