"""The report on a concept that a classifier's features forgot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from zsu_fast.concepts.cav import fit
from zsu_fast.concepts.reading import activations
from zsu_fast.evaluate.inference import inference_mode
from zsu_fast.report import accuracy, neurons, parts, words
from zsu_fast.report.analysis import Analysis, heat_of
from zsu_fast.report.base import Card, Report
from zsu_fast.report.made_of import Made, made_of, section
from zsu_fast.unlearn import ForgetConcept
from zsu_fast.unlearn.watch import trace_structure

SHOWN = 6
MOST_OWN = 32


@dataclass(frozen=True)
class ConceptSeen:
    """What is seen of a concept in a model, beside what the record has.

    p_value: share of random assignments of the images to the two sides that are told apart as well (None: the model
    gives NaN). seen: relevance of the pixels for the margin of the bank's vector.
    """

    p_value: float | None
    seen: Analysis


def look(model: nn.Module, request: ForgetConcept, batch_size: int, seed: int) -> ConceptSeen:
    """The model is unchanged by this."""
    values, logits = activations(model, request.probes, request.bank.layer, batch_size=batch_size)
    known = bool(values.isfinite().all())
    p_value = fit(values, request.probe_labels == 1, seed=seed).p_value if known else None
    images = request.images[:SHOWN]
    with inference_mode(model):
        rules = "attnlrp" if trace_structure(model, images[:1]).heads else "epsilon_plus"
    return ConceptSeen(p_value, heat_of(request.view(model), images, [logits.shape[1]] * len(images), rules))


def made_of_one(
    model: nn.Module, users: Sequence[int], labelled: tuple[Tensor, Tensor] | None, photos: Callable[[Tensor], Any]
) -> Made | None:
    """What the first class that uses the concept is made of, by labelled images of it and of others."""
    if labelled is None or not users:
        return None
    images, labels = labelled
    own = labels == users[0]
    if not bool(own.any()) or bool(own.all()):
        return None
    return made_of(model, images[own][:MOST_OWN], users[0], (images[~own], labels[~own]), photos)


@dataclass(frozen=True, kw_only=True)
class ConceptReport(Report):
    """Everything may be missing; its section is then left out.

    Attributes:
        before, after: what `look` saw.
        photos: uint8 [n, H, W, C], images with the concept, and others without it.
        made_of: what the first class that uses the concept was made of, and is made of now.
    """

    before: ConceptSeen | None = None
    after: ConceptSeen | None = None
    photos: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None
    made_of: tuple[Made | None, Made | None] = (None, None)

    inputs: ClassVar[str] = "images, half with the concept and half without"
    glossary: ClassVar[tuple[str, ...]] = (
        "retain images", "evaluation images", "accuracy", "at most .. %, with 95 % confidence", "features",
        "relearning", "neuron", "relevance", "concept", "vector fitted anew",
    )  # fmt: skip

    @property
    def title(self) -> str:
        return f"Forget the concept {self.request['concept']}"

    @property
    def asked(self) -> str:
        return (
            f"What the model holds of an image at the input of its layer {self.request['layer']} is to tell no more "
            f"whether the image has the concept {self.request['concept']}. Classes that use the concept may lose what "
            "they used of it; the others are to stay."
        )

    def shown(self) -> list[str]:
        old, new = self._told
        said = []
        for what, name in (("classes that use the concept", "users"), ("the other classes", "others")):
            if old[name] is not None and new[name] is not None:
                before, after = (words.percent(one[name]["accuracy"]) for one in (old, new))
                said.append(
                    f"On {words.count(sum(new[name]['counts'].values()), 'evaluation image')} of {what}, "
                    f"{self.apart}, {before} of the answers were right before and {after} are after."
                )
        return said + self.on_retain_images()

    def not_shown(self) -> list[str]:
        said = [
            "Other layers than this one: what they hold of the concept was not tested.",
            "Ways of reading the features other than by a vector, as by another network: not tested.",
            "Images of another kind than those that judged: the bound says nothing of them.",
            "How soon training on a few images brings the concept back: not tested here.",
        ]
        if self._told[1]["others"] is None:
            said.append("What the edit costs the classes on images that had no part in its choice: not measured.")
        return said

    def judges(self) -> list[str]:
        seen = self._told[1]
        counts = [sum(seen[name]["counts"].values()) for name in ("users", "others") if seen[name]]
        return [f"{words.count(sum(counts), 'evaluation image')}, {self.apart}"] if counts else []

    def cards(self) -> list[Card]:
        old, new = self._told
        note = f"by vectors fitted anew, each without the image that it judges; {new['images']} images, chance is half"
        cards = [Card.share("Told apart", old["refitted"], new["refitted"], note)]
        for what, name in (("Classes that use it", "users"), ("The other classes", "others")):
            if old[name] is not None and new[name] is not None:
                note = f"accuracy on the evaluation images, {self.apart}"
                cards.append(Card.share(what, old[name]["accuracy"], new[name]["accuracy"], note))
        return cards

    def sections(self) -> list[str]:
        seen = [Analysis() if one is None else one.seen for one in (self.before, self.after)]
        return [
            self._evidence(),
            self._samples(),
            neurons.maps(seen[0], seen[1], None if self.photos is None else self.photos[0], "the concept's vector"),
            self._classes(),
            *self._made_of(),
            neurons.strips(self.picks, {}),
        ]

    @property
    def _users(self) -> Sequence[int]:
        return self.request["used_by"] or ()

    @property
    def _told(self) -> tuple[dict[str, Any], dict[str, Any]]:
        seen = self.record["evaluation"]
        return seen["before"], seen["after"]

    def _evidence(self) -> str:
        old, new = self._told
        before, after = (words.number(None if one is None else one.p_value) for one in (self.before, self.after))
        lines = [
            (
                "told apart by vectors fitted anew",
                words.percent(old["refitted"]),
                words.percent(new["refitted"]),
            ),
            ("p: share of random labellings told apart as well", before, after),
            ("told apart by the bank's vector", words.percent(old["bank"]), words.percent(new["bank"])),
        ]
        lead = f"At the input of <span class='mono'>{escape(str(self.request['layer']))}</span>."
        given = self.request["evidence"]
        if given.get("accuracy") is not None:
            lead += f" Of the bank's own images {words.percent(given['accuracy'])} were told apart by vectors fitted"
            lead += f" without them (p = {words.number(given.get('p_value'))})."
        table = parts.table("how far it is known", ("", "before", "after"), lines)
        return parts.section("Is it still known?", lead, table)

    def _samples(self) -> str:
        if self.photos is None:
            return ""
        shown = [parts.photos(what, found) for what, found in zip(("with", "without"), self.photos, strict=True)]
        return parts.section("The concept", "Images with it, and below others without it.", "".join(shown))

    def _classes(self) -> str:
        shares: list[dict[int, float]] = [{}, {}]
        for found, told in zip(shares, self._told, strict=True):
            for name in ("users", "others"):
                found |= accuracy.by_class(told[name]["per_class"]) if told[name] else {}
        if not shares[0]:
            return ""
        what = "Top-1 accuracy on the evaluation images. Marked: classes that use the concept."
        return accuracy.per_class(shares[0], shares[1], self._users, self.names, what=what)

    def _made_of(self) -> list[str]:
        name = self.label(self._users[0]) if self._users else ""
        return [
            section(f"What {name}, which uses it, {when} made of", made)
            for when, made in zip(("was", "is now"), self.made_of, strict=True)
        ]
