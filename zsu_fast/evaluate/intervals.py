"""Confidence intervals of proportions, and of areas under a ROC curve."""

from __future__ import annotations

import math
from statistics import NormalDist


def wilson_interval(successes: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson score interval of a proportion.

    Unlike the normal approximation it stays inside [0, 1] and keeps its width at 0 and at 1, which is where the
    accuracy of a forgotten class lies.

    Args:
        successes: number of successes, 0..total.
        total: number of trials, at least 1.
        confidence: coverage, strictly between 0 and 1.

    Returns:
        (low, high), fractions.

    Raises:
        ValueError: if an argument lies outside its range.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    if total < 1:
        raise ValueError(f"total must be at least 1, got {total}")
    if not 0 <= successes <= total:
        raise ValueError(f"successes must be between 0 and total={total}, got {successes}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    z2 = NormalDist().inv_cdf((1.0 + confidence) / 2.0) ** 2
    p = successes / total
    centre = p + z2 / (2 * total)
    half = math.sqrt(z2 * (p * (1.0 - p) / total + z2 / (4 * total * total)))
    # The bounds are exactly 0 and 1 there; rounding would leave 1e-17 or more than 1.
    low = 0.0 if successes == 0 else (centre - half) / (1.0 + z2 / total)
    high = 1.0 if successes == total else (centre + half) / (1.0 + z2 / total)
    return low, high


def upper_bound(successes: int, total: int, confidence: float = 0.95) -> float:
    """Exact one-sided upper confidence bound of a proportion; 1 for no trials.

    The p at which `successes` or fewer of `total` have probability 1 - confidence.
    Source: C. J. Clopper, E. S. Pearson, "The use of confidence or fiducial limits", Biometrika 26 (1934).
    """
    if not 0 <= successes <= total:
        raise ValueError(f"successes must be between 0 and total={total}, got {successes}")
    if successes == total:
        return 1.0

    low, high = 1e-12, 1.0 - 1e-12
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _at_most(successes, total, middle) > 1 - confidence else (low, middle)
    return high


def trials_for_bound(successes: int, share: float, confidence: float = 0.95) -> int:
    """The fewest trials, of which `successes` succeed, that bound a proportion by `share` (see :func:`upper_bound`)."""

    def few(total: int) -> bool:
        return total == successes or _at_most(successes, total, share) > 1 - confidence

    low, high = successes, successes + 1
    while few(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if few(middle) else (low, middle)
    return high


def _at_most(successes: int, total: int, p: float) -> float:
    """The probability of `successes` or fewer in `total` trials of probability p, 0 < p < 1."""
    terms = (
        math.lgamma(total + 1) - math.lgamma(i + 1) - math.lgamma(total - i + 1)
        + i * math.log(p) + (total - i) * math.log1p(-p)
        for i in range(successes + 1)
    )  # fmt: skip
    return sum(map(math.exp, terms))


def auc_interval(auc: float, positives: int, negatives: int, confidence: float = 0.95) -> tuple[float, float]:
    """Score interval of an area under the ROC curve, which is P(positive > negative) + P(equal) / 2.

    As Wilson's it stays inside [0, 1] and keeps its width at 0 and at 1, where the usual estimates of the variance
    vanish. Around 0.5 it is that of the Mann-Whitney test.

    Args:
        auc: the area, 0..1.
        positives, negatives: independent samples of each kind, at least 1.
        confidence: coverage, strictly between 0 and 1.

    Returns:
        (low, high), fractions.

    Raises:
        ValueError: if an argument lies outside its range.

    Source: R. G. Newcombe, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic,
    part 2", Statistics in Medicine 25 (2006), method 5: the variance of Hanley and McNeil (1982) at the bound.
    """
    if not 0.0 <= auc <= 1.0:
        raise ValueError(f"auc must be between 0 and 1, got {auc}")
    if positives < 1 or negatives < 1:
        raise ValueError(f"positives and negatives must be at least 1, got {positives} and {negatives}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie strictly between 0 and 1, got {confidence}")
    z2 = NormalDist().inv_cdf((1.0 + confidence) / 2.0) ** 2
    others = (positives + negatives) / 2 - 1

    def inside(bound: float) -> bool:
        spread = 1.0 + others * ((1.0 - bound) / (2.0 - bound) + bound / (1.0 + bound))
        return (bound - auc) ** 2 <= z2 * bound * (1.0 - bound) * spread / (positives * negatives)

    def bisect(outside: float) -> float:
        within = auc
        for _ in range(60):
            middle = (within + outside) / 2
            within, outside = (middle, outside) if inside(middle) else (within, middle)
        return within

    return (0.0 if auc == 0.0 else bisect(0.0)), (1.0 if auc == 1.0 else bisect(1.0))
