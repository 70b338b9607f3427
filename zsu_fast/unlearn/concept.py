"""The request to forget a concept: what images have in common that the features tell, whatever class they are of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.concepts.bank import ConceptBank, bytes_of_each, check_side
from zsu_fast.concepts.cav import held_out_margins
from zsu_fast.concepts.reading import Reading
from zsu_fast.evaluate.accuracy import Evaluation, summarise
from zsu_fast.evaluate.given import check_classes, check_targets
from zsu_fast.evaluate.inference import answers_of, logits_of
from zsu_fast.evaluate.intervals import upper_bound
from zsu_fast.unlearn.requests import NAN, Batches, OfClassifier, Pair
from zsu_fast.unlearn.verdict import Evidence, Verdict

AT_MOST = 0.70
"""A concept counts as forgotten if a vector fitted anew tells at most this share of unseen images, of which one half is
chance."""
KNOWN = 0.75
"""A layer on which less of the images are told apart does not know the concept, as far as can be seen."""
USES = 0.10
"""A class uses the concept whose share of the answers is larger by this with it than without."""


@dataclass(frozen=True)
class ConceptEvaluation:
    """What a model makes of a concept.

    refitted: share of the images that vectors fitted on all others of them tell apart, on the features as they are.
    bank: share that the bank's vector still tells. images: how many. users, others: the caller's images of the classes
    that use the concept and of those that do not (None without any).
    """

    refitted: float
    bank: float
    images: int
    users: Evaluation | None
    others: Evaluation | None

    @property
    def accuracy(self) -> float | None:
        return None if self.others is None else self.others.accuracy

    def to_dict(self) -> dict[str, Any]:
        classes = {name: None if found is None else found.to_dict() for name, found in
                   (("users", self.users), ("others", self.others))}  # fmt: skip
        return asdict(replace(self, users=None, others=None)) | classes


@dataclass(frozen=True, eq=False)
class ForgetConcept(OfClassifier):
    """Make the features forget a concept.

    concept: its name in `bank`, which holds its vector and the layer. images: with the concept, without: without it,
    otherwise alike, [N, ...] and [M, ...]; ten of each at least, better some hundreds, several times as many as the
    layer has units, and none that the bank was made from: these judge, by vectors that are fitted anew on the features
    as the edit leaves them. Of the larger side as many are taken as the smaller one has. used_by: the classes that use
    the concept and may suffer; by default those that are answered more often with it than without.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    concept: str
    bank: ConceptBank
    images: Tensor
    without: Tensor
    used_by: int | Sequence[int] | None = None

    kind: ClassVar[str] = "concept"
    argument: ClassVar[str] = "images"
    behind: ClassVar[float] = -1.0  # told apart by a smaller margin is told apart
    is_its_images: ClassVar[bool] = False
    short: ClassVar[str] = "told apart by the concept"

    def __post_init__(self) -> None:
        if not isinstance(self.bank, ConceptBank):
            raise TypeError(f"bank: expected a ConceptBank, got {type(self.bank).__name__}")
        self.bank.index(self.concept)
        count = min(len(check_side("images", self.images)), len(check_side("without", self.without)))
        if self.images.shape[1:] != self.without.shape[1:] or self.images.dtype != self.without.dtype:
            raise ValueError(
                f"without: expected images like those with the concept, {self.images.dtype} "
                f"{tuple(self.images.shape[1:])}, got {self.without.dtype} {tuple(self.without.shape[1:])}"
            )
        if shared := bytes_of_each(self.images) & bytes_of_each(self.without):
            raise ValueError(f"without: {len(shared)} of them are among the images with the concept")
        for name in ("images", "without"):
            side = getattr(self, name)
            object.__setattr__(self, name, side[torch.linspace(0, len(side) - 1, count).round().long()])
        if self.used_by is not None and self.used_by != ():
            object.__setattr__(self, "used_by", tuple(check_targets(self.used_by)))

    @property
    def probes(self) -> Tensor:
        return torch.cat([self.images, self.without.to(self.images.device)])

    @property
    def probe_labels(self) -> Tensor:
        """1 with the concept, 0 without."""
        return (torch.arange(2 * len(self.images)) < len(self.images)).long().to(self.images.device)

    @property
    def groups(self) -> list[Tensor]:
        return [torch.ones_like(self.probe_labels, dtype=torch.bool)]

    @property
    def name(self) -> str:
        return f"concept {self.concept!r}"

    @property
    def users(self) -> tuple[int, ...]:
        """Classes that use the concept, as indices."""
        assert isinstance(self.used_by, tuple)
        return self.used_by

    def view(self, model: nn.Module) -> Reading:
        """The model with the margin of the concept and the activations beside its logits."""
        vectors, offsets = self.bank.unit()
        at = self.bank.index(self.concept)
        return Reading(model, self.bank.layer, vectors[at : at + 1], offsets[at : at + 1])

    def started(self, forward: Callable[[Tensor], Tensor], view: nn.Module) -> ForgetConcept:
        if self.used_by is not None:
            return self
        logits, _, _ = self._parts(forward(self.probes))
        shares = [
            torch.bincount(logits[side].argmax(1), minlength=logits.shape[1]).float() / len(self.images)
            for side in (self.probe_labels == 1, self.probe_labels == 0)
        ]
        return replace(self, used_by=tuple((shares[0] - shares[1] > USES).nonzero()[:, 0].tolist()))

    def margins(self, logits: Tensor, where: Tensor) -> Tensor:
        """Each image's by a vector that is fitted on the others of `where`; no gradient goes through the fit."""
        return held_out_margins(self._parts(logits)[2], self.probe_labels[where] == 1).to(logits.device)

    def check(self, classes: int, evaluated: Tensor | None) -> None:
        own = classes - 1 - self.bank.vectors.shape[1]
        if own < 2:
            raise ValueError("model: it has one output: there are no classes that could use the concept or not")
        if self.used_by:
            check_targets(self.used_by, own)
        if evaluated is not None:
            check_classes("evaluate_on labels", evaluated, own)

    def unknown(self, logits: Tensor) -> str | None:
        if bool(logits.isnan().any()):
            return f"{self.name}: {NAN}"
        told = self._told(logits)
        if told.refitted < KNOWN:
            return (
                f"{self.name}: nothing was done, the layer {self.bank.layer!r} does not know it: vectors fitted "
                f"without an image get {100 * told.refitted:.1f} % of {told.images} right."
            )
        return None

    def evaluate(self, view: nn.Module, given: Pair | None, batches: Batches) -> ConceptEvaluation:
        found = torch.cat([logits_of(view(batch)) for batch in batches(self.probes)])
        told = self._told(found)
        if given is None:
            return told
        images, labels = given[0], given[1].cpu()
        answers = torch.cat([answers_of(self._parts(logits_of(view(batch)))[0]) for batch in batches(images)])
        using = torch.isin(labels, torch.tensor(self.users, dtype=labels.dtype))
        users, others = (
            summarise(answers[own], labels[own], self.users) if bool(own.any()) else None for own in (using, ~using)
        )
        return replace(told, users=users, others=others)

    def verdict(self, evidence: Evidence) -> Verdict:
        """By the held-out parts of the images and by all of them, whichever tells more of the concept."""
        before, after = evidence.before, evidence.after
        assert isinstance(before, ConceptEvaluation) and isinstance(after, ConceptEvaluation)
        held_out = evidence.counts[0] if evidence.held_out else (0, 0)
        right, count = max(held_out, (round(after.refitted * after.images), after.images), key=_share)
        bound = upper_bound(right, count)
        said = (
            f"on the inputs of {self.bank.layer!r} vectors fitted anew, each without the image that it judges, get "
            f"{right} of {count} right (at most {100 * bound:.0f} % of unseen ones, with 95 % confidence; chance is "
            f"half, before it was {100 * before.refitted:.0f} %), the bank's own vector {100 * after.bank:.0f} %"
        )
        classes = _of_classes(before, after)
        facts = (right, count, bound, "held-out images")
        if evidence.floor is not None and after.accuracy is not None and after.accuracy < evidence.floor:
            sentence = f"{self.name}: not forgotten at that price: {said}; {classes}; the model is as it was."
            return Verdict("not reached", sentence, *facts)
        said += f"; {classes}" if classes else ""
        if bound <= AT_MOST:
            return Verdict("features", f"The features have forgotten {self.name}: {said}.", *facts)
        if evidence.fixed or right <= evidence.until * count:
            return Verdict("not judged", f"{self.name} was perturbed, not judged forgotten: {said}.", *facts)
        return Verdict("not reached", f"{self.name} is not forgotten: {said}; the model is as it was.", *facts)

    def describe(self) -> dict[str, Any]:
        at = self.bank.index(self.concept)
        return {
            "kind": self.kind,
            "concept": self.concept,
            "layer": self.bank.layer,
            "evidence": self.bank.evidence[at],
            "used_by": list(self.used_by) if isinstance(self.used_by, tuple) else self.used_by,
        }

    def _parts(self, found: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, margin, activations."""
        width = self.bank.vectors.shape[1]
        return found[:, : -width - 1], found[:, -width - 1], found[:, -width:]

    def _told(self, found: Tensor) -> ConceptEvaluation:
        _, margin, values = self._parts(found)
        labels = self.probe_labels == 1
        refitted = (held_out_margins(values, labels) > 0).float().mean()
        by_bank = ((margin > 0) == labels.to(margin.device)).float().mean()
        return ConceptEvaluation(float(refitted), float(by_bank), len(labels), None, None)


def _share(counts: tuple[int, int]) -> float:
    return upper_bound(*counts) if counts[1] else 0.0


def _of_classes(before: ConceptEvaluation, after: ConceptEvaluation) -> str:
    """Accuracy of the classes that use the concept and of the others, before and after, as far as it was measured."""
    said = []
    for what, old, new in (
        ("the classes that use it", before.users, after.users),
        ("the others", before.others, after.others),
    ):
        if old is not None and new is not None:
            said.append(f"{what} {old.accuracy or 0.0:.3f} -> {new.accuracy or 0.0:.3f}")
    return f"accuracy of {', '.join(said)}" if said else ""
