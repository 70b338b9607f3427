"""What may be said of an edit: one value with a sentence, that summary, badge, JSON, exit code and record all read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from zsu_fast.evaluate.accuracy import Evaluation
from zsu_fast.evaluate.depth import Depth
from zsu_fast.evaluate.intervals import trials_for_bound, upper_bound

FORGOTTEN_AT_MOST = 0.10
"""The class counts as forgotten if at most this share of its unseen images can still be answered with it."""

KNOWN = 0.15
"""A model that answers with the class on fewer of its probes, or on less than a third as many as with another class,
does not know it, as far as can be seen. Probes from another source, or a weak net, lie well above."""


class Evaluated(Protocol):
    """What a request has measured of a model. accuracy: on what is to be kept, or on all, if it was measured."""

    @property
    def accuracy(self) -> float | None: ...

    def to_dict(self) -> dict[str, Any]:
        """JSON form, for the record."""


@dataclass(frozen=True)
class Evidence:
    """What a request judges an edit by that is in place.

    counts: for each group of its images, how many are not forgotten, and of how many. held_out: each was measured under
    an edit chosen without it. until: share of them that may remain. fixed: the size of the edit was given. before,
    after: as the request itself measured (on `evaluate_on`, if given). floor: the accuracy that must be kept there.
    """

    counts: Sequence[tuple[int, int]]
    held_out: bool
    until: float
    fixed: bool
    before: Evaluated | None
    after: Evaluated | None
    floor: float | None


@dataclass(frozen=True)
class Verdict:
    """How far the class is forgotten, and on what evidence.

    level: "invalid": the model did not know the class, nothing was done; "not reached": no edit met the aim, the model
        is as it was; "not judged": edited, but by a fixed budget or on too few images to say more; "answers": the
        answers forgot, judged on images that had no part in the choice (or on the instances, where they are what was
        to be forgotten); "features": the depth tests passed too (of a concept: vectors fitted anew on the features of
        its layer do not tell it).
    sentence: the same for people. right, images: of how many images that judged it the class is still the answer (how
        many instances are short of the goal).
    at_most: upper bound (one-sided, 95 %) of the share of unseen images that still get the class as answer.
    judged_by: "evaluation images", "held-out probes": each judged by an edit chosen without it; "the instances";
        "held-out images" of a concept.

        verdict = zsu_fast.forget(model, 3, probes, evaluate_on=(images, labels)).verdict
        print(verdict.sentence)
        assert verdict.level == "answers" and verdict.at_most < 0.1
    """

    level: str
    sentence: str
    right: int = 0
    images: int = 0
    at_most: float | None = None
    judged_by: str | None = None

    @property
    def forgotten(self) -> bool:
        """Whether the class may be called forgotten at all."""
        return self.level in ("answers", "features")

    def with_depth(self, depth: Depth) -> Verdict:
        """ "features" where the answers forgot and the attacks gain no more than from the oracle; else what it was.

        depth: from `zsu_fast.evaluate.depth`, of the edited model. The sentence says what was found either way.
        """
        if depth.holds is None:
            raise ValueError("depth: was measured without an oracle, or without one of the attacks that must hold")
        failed = [name for name, attack in depth.attacks.items() if attack.holds is False]
        if self.level == "answers" and depth.holds:
            said = "Prototype rows, linear probe and relearning gain no more of it than from a retrained model"
            said += f" ({depth.images} images)" + (f"; not so: {', '.join(failed)}." if failed else ".")
            return replace(self, level="features", sentence=f"{self.sentence} {said}")
        said = f"The features have not forgotten as a retrained model's: {', '.join(failed)}." if failed else ""
        return replace(self, sentence=f"{self.sentence} {said}".strip())

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"forgotten": self.forgotten}


def judge(name: str, counts: Sequence[tuple[int, int]], until: float, judged_by: str, fixed: bool) -> Verdict:
    """The verdict on an edit that is in place; for each class, how many of its images still get it, and of how many.

    Several classes are forgotten as well as the worst of them: the most remembered, or the one least is known of.
    """
    met = all(right <= until * images for right, images in counts)
    right, images = max(counts, key=lambda pair: upper_bound(*pair) if met else pair[0] / pair[1])
    bound = upper_bound(right, images)
    where = (
        f"{right} of {images} evaluation images"
        if judged_by == "evaluation images"
        else f"{right} of {images} probes, each judged by an edit chosen without it,"
    )
    if len(counts) > 1:
        where += " of the worst of them"
    said = f"{where} still get it as answer (at most {100 * bound:.1f} % of unseen ones, with 95 % confidence)"
    facts = (right, images, bound, judged_by)
    if bound <= FORGOTTEN_AT_MOST and met:
        return Verdict("answers", f"The model's answers have forgotten {name}: {said}.", *facts)
    if fixed:
        return Verdict("not judged", f"{name} was perturbed, not judged forgotten: {said}.", *facts)
    if judged_by == "evaluation images" and not met:
        return Verdict("not reached", f"{name} is not forgotten: {said}; the model is as it was.", *facts)
    if not met:
        return Verdict("not judged", f"{name} was perturbed and is not forgotten: {said}.", *facts)
    enough = trials_for_bound(right, FORGOTTEN_AT_MOST)
    return Verdict(
        "not judged",
        f"{name} was perturbed, and these images are too few to judge it: {said}; {enough} would do.",
        *facts,
    )


def judged_by_known(name: str, found: Verdict, before: Sequence[tuple[int, int]]) -> Verdict:
    """The verdict, unless what judged it was not known to begin with. before: as `counts`, of the unedited model."""
    if found.level != "answers":
        return found
    known, count = min(before, key=lambda pair: pair[0] / pair[1])  # each judged by some, or the level would be less
    if known >= KNOWN * count:
        return found
    sentence = (
        f"{name} was edited, and these {found.judged_by} cannot judge it: before, the model knew it on {known} of "
        f"{count} of them (are their labels right, and what else the model expects?)."
    )
    return replace(found, level="not judged", sentence=sentence)


def judge_instances(name: str, goal: str, evidence: Evidence) -> Verdict:
    """The verdict on single images, which are themselves what was to be forgotten: nothing is estimated from them."""
    left, images = evidence.counts[0]
    met = left <= evidence.until * images
    said = f"{images - left} of {images} now {goal}; they are the request, so they themselves judge it"
    if isinstance(evidence.before, Evaluation) and isinstance(evidence.after, Evaluation):
        before, after = evidence.before.accuracy or 0.0, evidence.after.accuracy or 0.0
        said += f"; accuracy on {sum(evidence.after.counts.values())} evaluation images {before:.3f} -> {after:.3f}"
        if evidence.floor is not None and after < evidence.floor:
            said += f", below the floor of {evidence.floor:.3f}"
            return Verdict("not reached", f"{name}: not forgotten at that price: {said}; the model is as it was.")
    facts = (left, images, None, "the instances")
    if met:
        return Verdict("answers", f"The model's answers have forgotten {name}: {said}.", *facts)
    return Verdict("not judged", f"{name}: edited with a fixed budget, short of the goal: {said}.", *facts)


def judge_depth(name: str, depth: Depth) -> Verdict:
    """The verdict on a model that was edited before, from its attacks alone; "features" only beside an oracle."""
    shares = depth.attacks["answers"].forget
    right, before = (round(shares[model] * depth.images) for model in ("edited", "original"))
    found = judge(name, [(right, depth.images)], FORGOTTEN_AT_MOST, "evaluation images", fixed=True)
    verdict = judged_by_known(name, found, [(before, depth.images)])
    return verdict if depth.holds is None else verdict.with_depth(depth)
