"""Attacks on the features of an edited model: how well a forgotten class can be had back without training the model.

Each takes features [N, D] (see `zsu_fast.evaluate.features`) of lessons, labelled images of all classes that the
attacker has, and of test images that judge, and gives the accuracy on the class and on the others. The ideal for the
class is the same attack's figure on a model that was retrained without it: not chance, since classes share features.
The others' figure belongs beside it: features that are garbage for everybody forget the class too, and are no success.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zsu_fast.evaluate.given import check_labels, check_seed, check_targets
from zsu_fast.evaluate.probe import ProbeResult, fitted
from zsu_fast.extras import require

__all__ = ["mlp_probe", "nearest_prototype", "neighbour_probe", "prototype_row"]

ALLOWED = 0.01
"""Share of the lessons of other classes that an attacker may lose to the class that he puts back."""


def prototype_row(
    lessons: Tensor,
    lesson_labels: Tensor | Sequence[int],
    lesson_logits: Tensor,
    features: Tensor,
    labels: Tensor | Sequence[int],
    logits: Tensor,
    target: int,
    *,
    images: int = 5,
    draws: int = 10,
    seed: int = 0,
) -> ProbeResult:
    """Put the class back by one row: the mean feature of a few images, no training.

    The new logit is s <f - m, p - m> + b, where p is the mean feature of `images` drawn lessons of the class and m that
    of the lessons of the others; it takes the place of the model's own. Scale and bias are the attacker's to choose: of
    scales 2^-4 .. 2^4 times the one at which the row spreads as the others do, that with which most of the drawn images
    are had back (each by the mean of the others, where there are others); b as high as 1 % of the others' lessons
    allow.

    Args:
        lessons, lesson_labels, lesson_logits: [N, D], [N], [N, classes]: what the attacker has, with the answers of the
            model under attack. Lessons of the class and of others are needed.
        features, labels, logits: [M, D], [M], [M, classes] of the test images.
        target: the class.
        images: lessons of the class that each draw takes.
        draws: how often; the accuracies are means over the draws.

    Raises:
        ValueError: shapes that do not fit, too few lessons.

    Source: the prototype attack on class unlearning, arXiv 2506.01318; the choice of scale and bias is ours.
    """
    generator = torch.Generator().manual_seed(check_seed(seed))
    (wanted,) = check_targets(target, logits.shape[1])
    known = check_labels("lesson_labels", lesson_labels, len(lessons))
    truth = check_labels("labels", labels, len(features))
    own = (known == wanted).nonzero()[:, 0]
    if not 1 <= images <= len(own):
        raise ValueError(f"images must be in 1..{len(own)}, the lessons of class {wanted}, got {images}")
    if not 0 < len(own) < len(known):
        raise ValueError(f"lesson_labels must hold class {wanted} and others")
    if draws < 1:
        raise ValueError(f"draws must be at least 1, got {draws}")
    features, logits = features.double().cpu(), logits.double().cpu()
    rivals = _without(logits, wanted)
    rest = logits.clone()
    rest[:, wanted] = -torch.inf
    found = []
    for _ in range(draws):
        drawn = own[torch.randperm(len(own), generator=generator)[:images]]
        row, bias = row_from(lessons, known, lesson_logits, wanted, drawn)
        answers = torch.where(features @ row + bias > rivals, wanted, rest.argmax(1))
        found.append((answers == truth).double())
    return ProbeResult.of(torch.stack(found).mean(0), truth, [wanted])


def row_from(lessons: Tensor, known: Tensor, lesson_logits: Tensor, wanted: int, drawn: Tensor) -> tuple[Tensor, float]:
    """Weights float64 [D] and bias of the row for the class that :func:`prototype_row` makes of the drawn lessons."""
    lessons, lesson_logits = lessons.double().cpu(), lesson_logits.double().cpu()
    others = known != wanted
    centre = lessons[others].mean(0)
    rivals = _without(lesson_logits, wanted)
    kept = others & (lesson_logits.argmax(1) == known)
    shots = lessons[drawn] - centre
    row = shots.mean(0)
    if len(drawn) > 1:  # an image must not vouch for itself
        each = (shots.sum(0) - shots) / (len(drawn) - 1)
        seen = (shots * each).sum(1)
    else:
        seen = shots @ row
    spread = (lesson_logits[others].std() / ((lessons[others] - centre) @ row).std().clamp_min(1e-30)).item()
    best: tuple[int, float, float] | None = None
    for scale in (spread * 2.0**power for power in range(-4, 5)):
        lost = (rivals - scale * ((lessons - centre) @ row))[kept].sort().values
        bias = lost[min(len(lost) - 1, int(ALLOWED * len(lost)))].item() if len(lost) else 0.0
        back = int((scale * seen + bias > rivals[drawn]).sum())
        if best is None or back > best[0]:
            best = (back, scale, bias)
    assert best is not None
    _, scale, bias = best
    return scale * row, bias - scale * float(centre @ row)


def nearest_prototype(
    train_features: Tensor,
    train_labels: Tensor | Sequence[int],
    test_features: Tensor,
    test_labels: Tensor | Sequence[int],
    target: int | Sequence[int],
) -> ProbeResult:
    """The class whose mean standardised feature is nearest; arguments as in `zsu_fast.evaluate.linear_probe`."""
    classifier = require("sklearn.neighbors", "evaluate").NearestCentroid()
    return fitted(classifier, train_features, train_labels, test_features, test_labels, target)


def neighbour_probe(
    train_features: Tensor,
    train_labels: Tensor | Sequence[int],
    test_features: Tensor,
    test_labels: Tensor | Sequence[int],
    target: int | Sequence[int],
    *,
    k: int = 10,
) -> ProbeResult:
    """The majority of the k nearest standardised features; arguments as in `zsu_fast.evaluate.linear_probe`."""
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= len(train_features):
        raise ValueError(f"k must be an integer in 1..{len(train_features)}, got {k!r}")
    classifier = require("sklearn.neighbors", "evaluate").KNeighborsClassifier(n_neighbors=k)
    return fitted(classifier, train_features, train_labels, test_features, test_labels, target)


def mlp_probe(
    train_features: Tensor,
    train_labels: Tensor | Sequence[int],
    test_features: Tensor,
    test_labels: Tensor | Sequence[int],
    target: int | Sequence[int],
    *,
    hidden: int = 128,
    seed: int = 0,
) -> ProbeResult:
    """One hidden layer of ReLUs, by Adam; arguments as in `zsu_fast.evaluate.linear_probe`.

    It finds what a linear probe does not: a class that was folded in among others, but not away.
    """
    classifier = require("sklearn.neural_network", "evaluate").MLPClassifier(
        (hidden,), alpha=1e-3, max_iter=200, n_iter_no_change=5, tol=1e-3, random_state=check_seed(seed)
    )
    return fitted(classifier, train_features, train_labels, test_features, test_labels, target)


def _without(logits: Tensor, target: int) -> Tensor:
    """[N] the best logit of another class."""
    return logits.index_fill(1, torch.tensor([target]), -torch.inf).amax(1)
