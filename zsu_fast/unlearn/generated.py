"""The request that a generator make no more of a class, as a judge tells it: a classifier of what it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.given import check_int, check_seed, check_targets
from zsu_fast.evaluate.inference import model_device
from zsu_fast.evaluate.intervals import upper_bound, wilson_interval
from zsu_fast.unlearn.generator_view import GeneratorView, Seen, look
from zsu_fast.unlearn.latents import FRESH, OfGenerator, Sampler
from zsu_fast.unlearn.requests import NAN, Batches, Pair, check_finite
from zsu_fast.unlearn.verdict import Evidence, Verdict

FEWEST = 20
"""A generator that makes fewer of a class than this, of the latents of the pool, does not make it."""
SLACK = 1.5
"""By the upper bound, no more than `until` times this may be of the class; a second judge may find twice `until`."""


@dataclass(frozen=True, eq=False)
class ForgetGenerated(OfGenerator):
    """Make a generator make no more of one class, or of several.

    targets: class index or indices of the judge. judge: images that the generator makes -> logits [N, classes]; what
    these need before it (a normalisation) is part of it. latents: the shape of one, of standard normal values (64 or
    (100, 1, 1)); or a function (count, torch.Generator) -> [count, ...]; or a tensor of them, of which 6 in 17.5
    choose the edit, 1.5 say how large it must be, and 10, that had no part in either, judge it. second: another judge
    with the same classes, that takes no part but in the verdict. features: network, images -> [N, D], for the Fréchet
    distance; without it the inputs of the judge's classifier. reference: images to hold what is made against, without
    the classes that go; by default what the unedited generator makes of the others. generate: how the model makes
    images of latents, where it is not model(z). discriminator: images -> a logit each, for a method that takes
    one. draws: how many latents judge. seed: of what is drawn.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    targets: int | Sequence[int]
    judge: nn.Module
    latents: int | Sequence[int] | Sampler | Tensor
    second: nn.Module | None = None
    features: nn.Module | None = None
    reference: Tensor | None = None
    generate: Callable[[nn.Module, Tensor], Tensor] | None = None
    discriminator: nn.Module | None = None
    draws: int = FRESH
    seed: int = 0
    labels: Tensor | None = field(default=None, init=False, repr=False)  # the judge's, of pool and held
    seen: list[Seen] = field(default_factory=list, init=False, repr=False)  # of the unedited model, what it made

    kind: ClassVar[str] = "generator"
    beside: ClassVar[tuple[str, ...]] = ("judge", "second", "features", "discriminator")
    argument: ClassVar[str] = "latents"
    behind: ClassVar[float] = 0.0
    is_its_images: ClassVar[bool] = False
    short: ClassVar[str] = "that are of the class"

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(check_targets(self.targets)))
        check_int("draws", self.draws, 100)
        check_seed(self.seed)
        for name in self.beside:
            given = getattr(self, name)
            if not isinstance(given, nn.Module) and (given is not None or name == "judge"):
                raise TypeError(f"{name}: expected a torch.nn.Module, got {type(given).__name__}")
        if self.reference is not None:
            check_finite("reference", self.reference)
        object.__setattr__(self, "latents", self._drawn(model_device(self.judge, torch.device("cpu"))))

    @property
    def retain(self) -> Pair:
        """Of the probes those of other classes, and these."""
        kept = ~self.is_target(self.probe_labels) if self.labels is not None else slice(None)
        return self.probes[kept], self.probe_labels[kept]

    @property
    def classes(self) -> tuple[int, ...]:
        assert isinstance(self.targets, tuple)
        return self.targets

    @property
    def groups(self) -> list[Tensor]:
        return [torch.ones_like(self.probe_labels, dtype=torch.bool)]

    @property
    def name(self) -> str:
        return "class " + ", ".join(map(str, self.classes))

    def is_target(self, labels: Tensor) -> Tensor:
        """bool [N]: whether each of the judge's answers int64 [N] is a class to forget."""
        return torch.isin(labels, torch.tensor(self.classes, device=labels.device))

    def started(self, forward: Callable[[Tensor], Tensor], view: nn.Module) -> ForgetGenerated:
        found = replace(self)
        logits = forward(torch.cat(self._parts()[:2]))
        if bool(logits.isnan().any()):
            raise ValueError(f"latents: {NAN}")
        object.__setattr__(found, "labels", logits.argmax(1))
        return found

    def margins(self, logits: Tensor, where: Tensor) -> Tensor:
        """[n] by how much the best of the classes leads the best other one."""
        own = torch.zeros(logits.shape[1], dtype=torch.bool, device=logits.device)
        own[list(self.classes)] = True
        return logits[:, own].float().amax(1) - logits[:, ~own].float().amax(1)

    def check(self, classes: int, evaluated: Tensor | None) -> None:
        check_targets(self.classes, classes)
        if len(self.classes) == classes:
            raise ValueError("targets: expected some class to be left, got all of them")
        if evaluated is not None:
            raise ValueError("evaluate_on: a generator is judged by what it makes of fresh latents; see `reference`")

    def unknown(self, logits: Tensor) -> str | None:
        if bool(logits.isnan().any()):
            return f"{self.name}: {NAN}"
        for target in self.classes:
            made = int((self.pool_labels == target).sum())
            if made < FEWEST:
                return (
                    f"class {target}: nothing was done, the generator hardly makes it: the judge takes {made} of "
                    f"{len(self.pool)} images for it (are the judge and what it expects of images right?)."
                )
        return None

    def evaluate(self, view: nn.Module, given: Pair | None, batches: Batches) -> Seen:
        assert isinstance(view, GeneratorView)
        first = self.seen[0] if self.seen else None
        found = look(view, self.fresh, self.classes, batches, first, self.reference, self.seed)
        if first is None:
            self.seen.append(found)
        return found

    def verdict(self, evidence: Evidence) -> Verdict:
        """By images of fresh latents, and by a second judge if there is one."""
        before, after = evidence.before, evidence.after
        assert isinstance(before, Seen) and isinstance(after, Seen)
        until, total = evidence.until, len(after.labels)
        bound = upper_bound(after.made, total)
        facts = (after.made, total, bound, "fresh latents")
        said = (
            f"of {total} images of fresh latents the judge takes {after.made} for it, {before.made} before (at most "
            f"{100 * bound:.2f} % of all, with 95 % confidence)"
        )
        sure = after.made <= until * total and bound <= SLACK * until
        if after.made_second is not None:
            sure = sure and after.made_second <= 2 * until * total
            said += f"; a second judge {after.made_second}, {before.made_second} before"
        kept_at_most, others = 1.0, total - before.made
        if after.accuracy is not None:
            said += f"; {100 * after.accuracy:.1f} % of the others keep their class"
            kept_at_most = wilson_interval(round(after.accuracy * others), others)[1]
        if not evidence.fixed and after.made > SLACK * until * total:
            return Verdict("not reached", f"{self.name} is still made: {said}; the model is as it was.", *facts)
        if not evidence.fixed and evidence.floor is not None and kept_at_most < evidence.floor:
            said += f", less than {evidence.floor:.3f}; the model is as it was"
            return Verdict("not reached", f"{self.name}: not forgotten at that price: {said}.", *facts)
        if sure:
            return Verdict("answers", f"The generator makes no more of {self.name}: {said}.", *facts)
        return Verdict("not judged", f"{self.name}: edited, not shown to be forgotten: {said}.", *facts)

    def describe(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "targets": list(self.classes),
            "latents": dict(zip(("pool", "probes", "fresh"), map(len, self._parts()), strict=True)),
            "latent_seed": self.seed,
            "second_judge": self.second is not None,
        }
