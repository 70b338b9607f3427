"""An attacker of features: all attacks on one model, with the same images on each."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from zsu_fast.evaluate.attacks import mlp_probe, nearest_prototype, neighbour_probe, prototype_row
from zsu_fast.evaluate.given import check_classes, check_int, check_seed, check_targets
from zsu_fast.evaluate.images import check_labelled, images_digest
from zsu_fast.evaluate.inference import Progress, answers_of
from zsu_fast.evaluate.probe import features, features_and_logits, linear_probe
from zsu_fast.evaluate.relearn import check_optimizer
from zsu_fast.evaluate.relearn_attack import SETTINGS, Setting, strongest_relearning

PROTOTYPE_IMAGES = (5, 10, 36)


@dataclass(frozen=True)
class Attacked:
    """What attacks on one model have back.

    rates: attack -> float64 [M], how often each test image gets its class. own: bool [M], test images of the class.
    settings: attack -> optimiser, rate and start by which relearning had most back. by: SHA-256 of the attacker: its
    images, labels and settings.
    """

    rates: dict[str, Tensor]
    own: Tensor
    settings: dict[str, tuple[str, float, str]] = field(default_factory=dict)
    by: str = ""


class Attacker:
    """Who has some images, and wants a class back.

        attacker = Attacker(lessons, (images, labels), target=3)
        original, oracle = attacker.attack(model), attacker.attack(retrained)
        for edited in edits:
            print(compare(attacker.attack(edited), original, oracle).holds)

    Arguments and errors: see :func:`zsu_fast.evaluate.depth`.
    """

    def __init__(
        self,
        lessons: tuple[Tensor, Tensor | Sequence[int]],
        test: tuple[Tensor, Tensor | Sequence[int]],
        target: int,
        *,
        layer: str | None = None,
        stages: Sequence[str] = (),
        relearn_steps: int = 32,
        relearn_by: Sequence[Setting] = SETTINGS,
        batch_size: int = 64,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        (self.target,) = check_targets(target)
        check_seed(seed)
        check_int("batch_size", batch_size, 1)
        check_int("relearn_steps", relearn_steps, 0)
        if not relearn_by:
            raise ValueError("relearn_by must hold at least one pair of optimiser and learning rate")
        for optimizer, rate in relearn_by:
            check_optimizer(optimizer, rate, "relearn_by: ")
        self.lessons, self.test = check_labelled("lessons", lessons), check_labelled("test", test)
        for name, (_, labels) in (("lessons", self.lessons), ("test", self.test)):
            if not 0 < int((labels == self.target).sum()) < len(labels):
                raise ValueError(f"{name} must hold images of class {self.target} and of others")
        self.layer, self.stages = layer, stages
        self.relearn_steps, self.relearn_by = relearn_steps, relearn_by
        self.batch_size, self.seed, self.progress = batch_size, seed, progress
        given = [self.target, layer, [*stages], relearn_steps, [*relearn_by], seed]
        for images, labels in (self.lessons, self.test):
            given += [images_digest(images), labels.tolist()]
        self._digest = hashlib.sha256(repr(given).encode()).hexdigest()

    def attack(self, model: nn.Module) -> Attacked:
        """All attacks on one model, which stays as it is."""
        (shown, known), (judging, truth) = self.lessons, self.test
        target, seed = self.target, self.seed
        lesson_features, lesson_logits = self._features(model, shown)
        values, logits = self._features(model, judging)
        check_targets(target, logits.shape[1])
        for name, labels in (("lessons", known), ("test", truth)):
            check_classes(f"{name} labels", labels, logits.shape[1])
        rates = {"answers": (answers_of(logits) == truth).double()}
        most = int((known == target).sum())
        for images in sorted({min(count, most) for count in PROTOTYPE_IMAGES}):
            rates[f"prototype row, {images} images"] = prototype_row(
                lesson_features, known, lesson_logits, values, truth, logits, target, images=images, seed=seed
            ).rates
        given_to_all = (lesson_features, known, values, truth, target)
        rates["nearest prototype"] = nearest_prototype(*given_to_all).rates
        rates["10 neighbours"] = neighbour_probe(*given_to_all, k=min(10, len(known))).rates
        rates["linear probe"] = linear_probe(*given_to_all, seed=seed).rates
        rates["MLP probe"] = mlp_probe(*given_to_all, seed=seed).rates
        for stage in self.stages:
            seen, asked = (features(model, x, stage, self.batch_size, self.progress) for x in (shown, judging))
            rates[f"probe before {stage}"] = linear_probe(seen, known, asked, truth, target, seed=seed).rates
        relearned, settings = self._relearned(model) if self.relearn_steps else ({}, {})
        return Attacked(rates | relearned, truth == target, settings, self._digest)

    def _features(self, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        return features_and_logits(model, images, self.layer, self.batch_size, self.progress)

    def _relearned(self, model: nn.Module) -> tuple[dict[str, Tensor], dict[str, tuple[str, float, str]]]:
        """Rates and settings by attack."""
        images, labels = self.lessons
        rates, settings = {}, {}
        for kind, kept in (("relearning", labels >= 0), ("relearning from the others", labels != self.target)):
            found = strongest_relearning(
                model, (images[kept.to(images.device)], labels[kept]), self.test, self.target,
                steps=sorted({max(1, self.relearn_steps // 2), self.relearn_steps}), settings=self.relearn_by,
                batch_size=self.batch_size, seed=self.seed, progress=self.progress,
            )  # fmt: skip
            for step, best in found.items():
                name = f"{kind}, {step} steps"
                rates[name] = best.rates
                settings[name] = (*best.setting, "a fresh row" if best.fresh_row else "its own row")
        return rates, settings
