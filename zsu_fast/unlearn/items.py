"""The request that a generator make given images no more: tested by searching anew for latents that make them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.generated import roughness
from zsu_fast.evaluate.given import check_int, check_seed
from zsu_fast.evaluate.inference import logits_of
from zsu_fast.evaluate.intervals import wilson_interval
from zsu_fast.evaluate.inversion import invert, squared_error, starts_for
from zsu_fast.unlearn.generator_view import GeneratorView
from zsu_fast.unlearn.latents import FRESH, OfGenerator, Sampler
from zsu_fast.unlearn.options import check_positive
from zsu_fast.unlearn.requests import NAN, Batches, Pair, check_finite
from zsu_fast.unlearn.verdict import Evidence, Verdict

AROUND, WIDTH = 24, 0.5
"""So many latents around each that was found, up to `WIDTH` standard deviations of a latent away."""
FEWEST_UNSEEN = 8
COMPARED = 2000
"""So many fresh latents' images are held, to see what an edit changes."""
CLEAR = 1.5
"""A substitute is at least so many times as far from every item as what counts as that item."""


class Nearness(nn.Module):
    """Images [N, ...] -> logits [N, 2], the second above the first (which is 0) where an image is an item's.

    limits: [n] mean squared errors, below which it is; the logit is largest over items of 1 - error / limit.
    """

    def __init__(self, items: Tensor) -> None:
        super().__init__()
        self.items, self.limits = items, torch.ones(len(items), device=items.device)

    def parts(self, images: Tensor) -> Tensor:
        """[N, n] error / limit of each image and item."""
        if images.shape[1:] != self.items.shape[1:]:
            raise ValueError(
                f"items: expected images of shape {tuple(images.shape[1:])}, as the model makes them, got "
                f"{tuple(self.items.shape[1:])}"
            )
        away = torch.stack([squared_error(images, item[None]) for item in self.items], 1)
        return away / self.limits.to(away)

    def forward(self, images: Tensor) -> Tensor:
        near = 1 - self.parts(images).amin(1)
        return torch.stack([torch.zeros_like(near), near], 1)


@dataclass(frozen=True, eq=False)
class ItemsSeen:
    """How near a search comes to the items, and what became of other latents.

    errors: [n] mean squared errors of the nearest image that the search found of each item. found: [n, ...] the latents
    that make these. unseen: [m] the same errors of the unseen images. images: of the latents that are compared.
    accuracy: of these, the share whose images are no farther from what they were than the median of `unseen` before.
    same_class: the share that a classifier takes for the same, if there is one. psnr: median, and what 95 % exceed, of
    their images against what they were, in dB; None before. roughness: around the latents that were found before.
    """

    errors: Tensor
    found: Tensor
    unseen: Tensor
    images: Tensor
    classes: Tensor | None
    accuracy: float
    same_class: float | None
    psnr: tuple[float, float] | None
    roughness: float

    def to_dict(self) -> dict[str, Any]:
        return {
            "errors": self.errors.tolist(),
            "found": self.found.tolist(),
            "unseen_error": float(self.unseen.median()),
            "kept_same": self.accuracy,
            "same_class": self.same_class,
            "psnr": self.psnr,
            "roughness": self.roughness,
        }


@dataclass(frozen=True, eq=False)
class ForgetItems(OfGenerator):
    """Make a generator make given images no more, nor any that come as near to them.

    items: images [n, ...] as the generator makes them. latents: as of `ForgetGenerated`. unseen: images [m, ...] of the
    same kind that the generator was not trained on and that it does not make: how near it comes to them is how near it
    comes to any image. instead: images [n, ...], or one, to be made in their place; by default, for each, the nearest
    that the generator makes of the pool and that is clearly none of the items. An item counts as gone when a search for
    it, from `restarts` latents that had no part in the edit (half of them those that now make the nearest images) and
    with `search_steps` steps each, finds no image nearer than `worse` times the mean squared error that the same search
    found before, nor nearer than the median that it found of `unseen` before. classifier: images -> logits; it only
    says what share of other latents keep their class. generate, draws, seed: as of `ForgetGenerated`.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    items: Tensor
    latents: int | Sequence[int] | Sampler | Tensor
    unseen: Tensor
    instead: Tensor | None = None
    classifier: nn.Module | None = None
    generate: Callable[[nn.Module, Tensor], Tensor] | None = None
    restarts: int = 16
    search_steps: int = 200
    worse: float = 1.5
    draws: int = FRESH
    seed: int = 0
    judge: Nearness = field(init=False, repr=False)
    labels: Tensor | None = field(default=None, init=False, repr=False)  # the judge's, of pool and probes
    near: tuple[Tensor, Tensor] | None = field(default=None, init=False, repr=False)  # around what was found
    substitutes: Tensor | None = field(default=None, init=False, repr=False)
    not_made: tuple[int, ...] = field(default=(), init=False, repr=False)
    seen: list[ItemsSeen] = field(default_factory=list, init=False, repr=False)  # of the unedited model

    kind: ClassVar[str] = "items"
    argument: ClassVar[str] = "latents"
    beside: ClassVar[tuple[str, ...]] = ("judge", "classifier")
    behind: ClassVar[float] = 0.0
    is_its_images: ClassVar[bool] = True
    short: ClassVar[str] = "that are of an item"
    classes: ClassVar[tuple[int, ...]] = ()

    def __post_init__(self) -> None:
        images = check_finite("items", self.items)
        for name, least in (("items", 1), ("unseen", FEWEST_UNSEEN), ("instead", 1)):
            given = getattr(self, name)
            if given is None and name == "instead":
                continue
            found = check_finite(name, given)
            if not found.is_floating_point() or found.dim() < 2 or found.shape[1:] != images.shape[1:]:
                raise ValueError(
                    f"{name}: expected floating-point images of shape {tuple(images.shape[1:])} as the items, got "
                    f"{found.dtype} of shape {tuple(found.shape)}"
                )
            if len(found) < least or (name == "instead" and len(found) not in (1, len(images))):
                expected = f"1 or {len(images)}" if name == "instead" else f"at least {least}"
                raise ValueError(f"{name}: expected {expected} images, got {len(found)}")
            object.__setattr__(self, name, found.detach().to(images.device))
        if self.classifier is not None and not isinstance(self.classifier, nn.Module):
            raise TypeError(f"classifier: expected a torch.nn.Module, got {type(self.classifier).__name__}")
        check_int("restarts", self.restarts, 2)
        check_int("search_steps", self.search_steps, 1)
        check_positive("worse", self.worse)
        if self.worse < 1:
            raise ValueError(f"worse: expected at least 1, got {self.worse}")
        check_int("draws", self.draws, 100)
        check_seed(self.seed)
        object.__setattr__(self, "latents", self._drawn(images.device))
        object.__setattr__(self, "judge", Nearness(self.items))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Pool, held and fresh latents; to the first two belong, once known, latents around those that were found."""
        pool, held, fresh = super()._parts()
        if self.near is None:
            return pool, held, fresh
        return torch.cat([pool, self.near[0]]), torch.cat([held, self.near[1]]), fresh

    @property
    def retain(self) -> Pair:
        """Of the probes those that are of no item, and 0."""
        kept = self.probe_labels == 0
        return self.probes[kept], self.probe_labels[kept]

    @property
    def groups(self) -> list[Tensor]:
        """The probes that are of an item in the unedited model."""
        own = self.probe_labels == 1
        return [own if bool(own.any()) else ~own]

    @property
    def name(self) -> str:
        return f"{len(self.items)} item{'s' if len(self.items) > 1 else ''}"

    def started(self, forward: Callable[[Tensor], Tensor], view: nn.Module) -> ForgetItems:
        """With the latents that make the items, which a search from latents of the pool finds."""
        assert isinstance(view, GeneratorView)
        found = copy.copy(self)  # the judge is one with the view's

        def put(name: str, value: object) -> None:
            object.__setattr__(found, name, value)

        pool = self.pool
        latents, errors = self._searched(view, self.items, pool)
        unseen = self._searched(view, self.unseen, pool)[1].amin(1)
        nearest = errors.amin(1)
        if bool(nearest.isnan().any()):
            raise ValueError(f"latents: {NAN}")
        put("not_made", tuple((nearest > unseen.amax()).nonzero()[:, 0].tolist()))
        most = self.worse * float(unseen.amax())
        self.judge.limits = (self.worse * nearest).clamp(float(unseen.median()), most)
        put("near", self._around(latents[errors <= self.judge.limits[:, None]]))
        labels = forward(torch.cat(found._parts()[:2])).argmax(1)
        put("labels", labels)
        if not found.not_made:
            put("substitutes", self._substitutes(view, pool))
        return found

    def _searched(self, view: GeneratorView, images: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
        starts = starts_for(view.images, images, latents, self.restarts)
        return invert(view.images, images, starts, self.search_steps)

    def _around(self, found: Tensor) -> tuple[Tensor, Tensor]:
        """For pool and probes: latents at growing distances of each, in random directions; the first ones are it."""
        generator = torch.Generator().manual_seed(self.seed)
        width = torch.linspace(0, WIDTH, AROUND).view(-1, 1, *[1] * (found.dim() - 1)).to(found)
        parts = []
        for _ in range(2):
            drawn = torch.randn(AROUND, *found.shape, generator=generator).to(found)
            parts.append((found + width * drawn).flatten(0, 1))
        return parts[0], parts[1]

    def _substitutes(self, view: GeneratorView, pool: Tensor) -> Tensor:
        if self.instead is not None:
            if bool((self.judge.parts(self.instead).amin(1) < 1).any()):
                raise ValueError("instead: one of these images is itself as near to an item as what is to go")
            return self.instead.expand_as(self.items)
        with torch.no_grad():
            parts = torch.cat([self.judge.parts(view.images(z)) for z in pool.split(250)])
            away = (parts * self.judge.limits).masked_fill((parts < CLEAR).any(1, keepdim=True), torch.inf)
            if not bool(away.isfinite().any()):
                raise ValueError("items: all that the generator makes is near to one of them; give `instead`")
            return view.images(pool[away.argmin(0)])

    def margins(self, logits: Tensor, where: Tensor) -> Tensor:
        """[n] above 0 where an image is of an item."""
        return logits[:, 1] - logits[:, 0]

    def check(self, classes: int, evaluated: Tensor | None) -> None:
        if evaluated is not None:
            raise ValueError("evaluate_on: items are judged by a new search for them, and by what fresh latents make")

    def unknown(self, logits: Tensor) -> str | None:
        if self.not_made:
            which = ", ".join(map(str, self.not_made))
            return (
                f"items {which}: nothing was done, the generator does not make them: the nearest image that was found "
                "is farther than from any of the unseen ones (is the range of their pixels right?)."
            )
        return None

    def evaluate(self, view: nn.Module, given: Pair | None, batches: Batches) -> ItemsSeen:
        assert isinstance(view, GeneratorView)
        first = self.seen[0] if self.seen else None
        latents, errors = self._searched(view, self.items, self.fresh)
        best = errors.argmin(1)
        latents, errors = latents[torch.arange(len(best)), best], errors.amin(1)
        unseen = self._searched(view, self.unseen, self.fresh)[1].amin(1)
        compared = self.fresh[:COMPARED]
        images = torch.cat([view.images(z) for z in batches(compared)])
        classes = None
        if self.classifier is not None:
            classes = torch.cat([logits_of(self.classifier(part)).argmax(1) for part in batches(images)])
        accuracy, same_class, psnr = 1.0, None if classes is None else 1.0, None
        if first is not None:
            others = self._others(first)
            change = squared_error(images, first.images)[others]
            accuracy = float((change <= first.unseen.median()).double().mean())
            span = float(first.images.amax() - first.images.amin())
            decibels = 10 * (span**2 / change.double().clamp_min(1e-12)).log10()
            psnr = (float(decibels.median()), float(decibels.quantile(0.05)))
            if classes is not None and first.classes is not None:
                same_class = float((classes == first.classes)[others].double().mean())
        rough = roughness(view.images, latents if first is None else first.found, seed=self.seed)
        found = ItemsSeen(errors, latents, unseen, images, classes, accuracy, same_class, psnr, rough)
        if first is None:
            self.seen.append(found)
        return found

    def _others(self, first: ItemsSeen) -> Tensor:
        """bool [N] those of the compared latents whose images were of no item."""
        return self.judge(first.images).argmax(1) == 0

    def limits(self, first: ItemsSeen) -> Tensor:
        """[n] mean squared errors, from which on an item counts as gone."""
        return (self.worse * first.errors).clamp_min(float(first.unseen.median()))

    def verdict(self, evidence: Evidence) -> Verdict:
        """By a search that had no part in the edit; the same one, before it, says what counts as gone."""
        before, after = evidence.before, evidence.after
        assert isinstance(before, ItemsSeen) and isinstance(after, ItemsSeen)
        total, others = len(self.items), int(self._others(before).sum())
        left = int((~(after.errors >= self.limits(before))).sum())
        said = (
            f"searched for from {self.restarts} fresh latents each, {total - left} of {total} are no more made: the "
            f"nearest image found is at least {self.worse:g} times as far as before, and no nearer than the median of "
            f"{len(self.unseen)} unseen images was; {100 * after.accuracy:.1f} % of {others} other latents make what "
            "they made"
        )
        facts = (left, total, None, "a new search")
        kept_at_most = wilson_interval(round(after.accuracy * others), others)[1]
        if not evidence.fixed and left > evidence.until * total:
            return Verdict("not reached", f"{self.name}: still made: {said}; the model is as it was.", *facts)
        if not evidence.fixed and evidence.floor is not None and kept_at_most < evidence.floor:
            said += f", less than {evidence.floor:.3f}; the model is as it was"
            return Verdict("not reached", f"{self.name}: not forgotten at that price: {said}.", *facts)
        if left <= evidence.until * total:
            return Verdict("answers", f"The generator makes no more of {self.name}: {said}.", *facts)
        return Verdict("not judged", f"{self.name}: edited, not shown to be forgotten: {said}.", *facts)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "count": len(self.items),
            "latents": dict(zip(("pool", "probes", "fresh"), map(len, self._parts()), strict=True)),
            "latent_seed": self.seed,
            "unseen": len(self.unseen),
            "restarts": self.restarts,
            "search_steps": self.search_steps,
            "worse": self.worse,
            "substitutes": "given" if self.instead is not None else "nearest made",
        }
