"""What may be said of an edit: one value with a sentence, that summary, badge, JSON, exit code and record all read."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

LEVELS = ("invalid", "not reached", "not judged", "answers", "features")
FORGOTTEN_AT_MOST = 0.10
"""The class counts as forgotten if at most this share of its unseen images can still be answered with it."""
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Verdict:
    """How far the class is forgotten, and on what evidence.

    level: "invalid": the model did not know the class, nothing was done; "not reached": no edit met the aim, the model
        is as it was; "not judged": edited, but by a fixed budget or on too few images to say more; "answers": the
        answers forgot, judged on images that had no part in the choice; "features": the depth tests passed too.
    sentence: the same for people. right, images: of how many images that judged it the class is still the answer.
    at_most: upper bound (one-sided, 95 %) of the share of unseen images that still get the class as answer.
    judged_by: "evaluation images", or "held-out probes": each judged by an edit chosen without it.
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

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"forgotten": self.forgotten}


def upper_bound(successes: int, total: int, confidence: float = CONFIDENCE) -> float:
    """Exact one-sided upper confidence bound of a proportion; 1 for no trials.

    The p at which `successes` or fewer of `total` have probability 1 - confidence.
    Source: C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits", Biometrika 26 (1934).
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes must be between 0 and total={total}, got {successes}")
    if successes == total:
        return 1.0

    def tail(p: float) -> float:
        terms = (
            math.lgamma(total + 1) - math.lgamma(i + 1) - math.lgamma(total - i + 1)
            + i * math.log(p) + (total - i) * math.log1p(-p)
            for i in range(successes + 1)
        )  # fmt: skip
        return sum(map(math.exp, terms))

    low, high = 1e-12, 1.0 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if tail(middle) > 1 - confidence else (low, middle)
    return high


def judge(name: str, right: int, images: int, until: float, judged_by: str, fixed: bool) -> Verdict:
    """The verdict on an edit that is in place, from `right` of `images` that still get the class as answer."""
    bound = upper_bound(right, images)
    where = (
        f"{right} of {images} evaluation images"
        if judged_by == "evaluation images"
        else f"{right} of {images} probes, each judged by an edit chosen without it,"
    )
    said = f"{where} still get it as answer (at most {100 * bound:.1f} % of unseen ones, with 95 % confidence)"
    facts = (right, images, bound, judged_by)
    met = right <= until * images
    if bound <= FORGOTTEN_AT_MOST and met:
        return Verdict("answers", f"The model's answers have forgotten {name}: {said}.", *facts)
    if fixed:
        return Verdict("not judged", f"{name} was perturbed with a fixed budget, not judged forgotten: {said}.", *facts)
    if judged_by == "evaluation images" and not met:
        return Verdict("not reached", f"{name} is not forgotten: {said}; the model is as it was.", *facts)
    need = next(n for n in range(images + 1, 10**6) if upper_bound(right, n) <= FORGOTTEN_AT_MOST)
    return Verdict(
        "not judged",
        f"{name} was perturbed, and these images are too few to judge it: {said}; {need} would do.",
        *facts,
    )
