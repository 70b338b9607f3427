"""How deep a model forgot: attacks on it, beside the same attacks on the original and on a retrained model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.attacker import Attacked, Attacker
from zsu_fast.evaluate.inference import Progress
from zsu_fast.evaluate.intervals import upper_bound
from zsu_fast.evaluate.relearn_attack import SETTINGS, Setting

DRAWS = 1000  # of the bootstrap
PRICE = 0.02  # what the other classes may have lost
MUST_HOLD = ("prototype row", "linear probe", "relearning")
"""Attacks by name, up to what follows it, that decide whether the features forgot."""


@dataclass(frozen=True)
class Attack:
    """One attack on up to three models. Accuracies are fractions on the test images.

    forget: model -> accuracy on the class, for "original", "edited" and, where there is one, "oracle"; retain: likewise
    on the others. share: of the way from the original to the oracle, see :func:`share_of_the_way`; interval: of it,
    95 %, by the bootstrap over test images of the class. oracle_at_most: one-sided 95 % upper bound of the oracle's.
    others_at_least: what the other classes must keep, two points less than the worse of original and oracle gives them.
    settings: model -> the optimiser and rate by which relearning had most back, and whether from "its own row" of the
    class or "a fresh row", a prototype put in its place.
    """

    forget: dict[str, float]
    retain: dict[str, float]
    share: float | None = None
    interval: tuple[float, float] | None = None
    oracle_at_most: float | None = None
    others_at_least: float | None = None
    settings: dict[str, tuple[str, float, str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        forget: dict[str, float],
        retain: dict[str, float],
        images: int,
        interval: tuple[float, float] | None = None,
    ) -> Attack:
        """From the accuracies by model, on so many images of the class; without an oracle nothing is compared."""
        if "oracle" not in forget:
            return cls(forget, retain)
        share = share_of_the_way(forget["original"], forget["edited"], forget["oracle"])
        others = min(retain["original"], retain["oracle"]) - PRICE
        return cls(forget, retain, share, interval, upper_bound(round(forget["oracle"] * images), images), others)

    @property
    def holds(self) -> bool | None:
        """Whether the edited model gives the attacker no more than a retrained one may; None without an oracle.

        Features that are of no use for the other classes either are damaged and have not forgotten: then it does not.
        """
        if self.oracle_at_most is None or self.others_at_least is None:
            return None
        return self.forget["edited"] <= self.oracle_at_most and self.retain["edited"] >= self.others_at_least


@dataclass(frozen=True)
class Depth:
    """What :func:`depth` found. attacks: name -> result; images: test images of the class."""

    attacks: dict[str, Attack]
    images: int

    @property
    def holds(self) -> bool | None:
        """Whether prototype rows, linear probe and relearning all give no more than a retrained model may, and leave
        the other classes what they had.

        None without an oracle, or where one of these attacks was left out.
        """
        asked = {name: attack.holds for name, attack in self.attacks.items() if name.startswith(MUST_HOLD)}
        complete = all(any(name.startswith(kind) for name in asked) for kind in MUST_HOLD)
        return all(asked.values()) if complete and None not in asked.values() else None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can carry it."""
        attacks = {}
        for name, attack in self.attacks.items():
            settings = {who: list(setting) for who, setting in attack.settings.items()}
            attacks[name] = asdict(attack) | {"settings": settings, "holds": attack.holds}
        return {"attacks": attacks, "images": self.images, "holds": self.holds}


def share_of_the_way(original: float, edited: float, oracle: float) -> float | None:
    """(original - edited) / (original - oracle): 0, nothing happened inside; 1, as good as retraining.

    None where the oracle is not below the original: then the attack tells nothing. More than 1 is more than
    retraining does, and stands out as much as less.
    """
    return None if oracle >= original else (original - edited) / (original - oracle)


def depth(
    edited: nn.Module,
    original: nn.Module,
    lessons: tuple[Tensor, Tensor | Sequence[int]],
    test: tuple[Tensor, Tensor | Sequence[int]],
    target: int,
    *,
    oracle: nn.Module | None = None,
    layer: str | None = None,
    stages: Sequence[str] = (),
    relearn_steps: int = 32,
    relearn_by: Sequence[Setting] = SETTINGS,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> Depth:
    """Attack the features of an edited model, of the original and of an oracle, all with the same images.

    The attacks: a prototype row from 5, 10 and 36 lessons (as many as there are); nearest prototype, 10 neighbours,
    linear probe and a small MLP on the features; and relearning from all lessons, with the class's own row or a fresh
    one, and from the lessons of the other classes, for each model by the start, optimiser and rate that has most back,
    after half of the steps and after all.

    Where several edits of one original are compared, :class:`Attacker` attacks each model once.

    Args:
        edited, original, oracle: classifiers of the same classes. The oracle was retrained without the class by the
            recipe of the original; only beside one can be said how deep is deep enough.
        lessons: (images, labels) that the attacker has, of the class and of others. Judged are test: other ones.
        target: the class.
        layer: whose input the features are; default: that of the last linear layer, see `zsu_fast.evaluate.features`.
        stages: names of modules before whose input a linear probe is tried as well, for instance the first convolution
            of each stage. What stands there does not decide whether the model forgot: `holds` is of `layer`.
        relearn_steps: mini-batches to relearn from; 0 leave relearning out.
        relearn_by: pairs of optimiser and learning rate to try, see `zsu_fast.evaluate.relearn`. For each model counts
            the one that ends with the highest mean accuracy over the classes, judged on the test images: rather too
            much than too little, and of the oracle alike.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    attacker = Attacker(
        lessons, test, target, layer=layer, stages=stages, relearn_steps=relearn_steps, relearn_by=relearn_by,
        batch_size=batch_size, seed=seed, progress=progress,
    )  # fmt: skip
    of_original, of_edited = attacker.attack(original), attacker.attack(edited)
    return compare(of_edited, of_original, None if oracle is None else attacker.attack(oracle), seed=seed)


def compare(edited: Attacked, original: Attacked, oracle: Attacked | None = None, *, seed: int = 0) -> Depth:
    """What attacks by one :class:`Attacker` had back, model beside model; seed: of the bootstrap.

    Raises:
        ValueError: they tried different attacks, or had other images.
    """
    models = {"original": original, "edited": edited} | ({} if oracle is None else {"oracle": oracle})
    own = original.own
    for who, of in models.items():
        if of.by != original.by:
            raise ValueError(f"attacked by another attacker than the original: {who}")
    attacks = {}
    for name in original.rates:
        rates = {who: of.rates[name] for who, of in models.items()}
        others = {who: float(right[~own].mean()) for who, right in rates.items()}
        settings = {who: of.settings[name] for who, of in models.items() if name in of.settings}
        compared = _compared({who: right[own] for who, right in rates.items()}, others, seed)
        attacks[name] = replace(compared, settings=settings)
    return Depth(attacks, int(own.sum()))


def _compared(forget: dict[str, Tensor], retain: dict[str, float], seed: int) -> Attack:
    """From model -> [images of the class] how often each gets its class."""
    means = {who: float(rates.mean()) for who, rates in forget.items()}
    count = len(forget["original"])
    if "oracle" not in forget:
        return Attack.of(means, retain, count)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (DRAWS, count), generator=generator)
    original, edited, oracle = (forget[who][drawn].mean(1) for who in ("original", "edited", "oracle"))
    shares = ((original - edited) / (original - oracle))[oracle < original]
    interval = None
    if len(shares) >= DRAWS * 0.95:  # else the oracle is not surely below the original
        low, high = shares.quantile(torch.tensor([0.025, 0.975], dtype=shares.dtype)).tolist()
        interval = (low, high)
    return Attack.of(means, retain, count, interval)
