"""Can it be told which images a model was trained on? Membership inference from the loss and entropy of its answers.

The attacks are the simple ones of the unlearning literature. They bound a leak from below: an attacker with shadow
models sees more, see `zsu_fast.evaluate.likelihood_ratio`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsu_fast.evaluate.batch_size import BatchSize, check_batch_size
from zsu_fast.evaluate.given import check_classes, check_seed
from zsu_fast.evaluate.images import Images, labelled_images
from zsu_fast.evaluate.inference import Progress, forward_batches, inference_mode, logits_of
from zsu_fast.evaluate.intervals import auc_interval, wilson_interval
from zsu_fast.extras import require

LEAST = 10  # images on each side: a tenth of them, which judges the logistic regression, has one of each kind
Scored = tuple[Tensor, Tensor]  # float64 [N, 2], see `scores`, and labels int64 [N]


@dataclass(frozen=True)
class Membership:
    """How well members can be told from nonmembers by what a model answers. All values are fractions.

    Attributes:
        loss_auc: probability that a member has the lower cross-entropy of the two; 0.5 is chance, and ideal. Yeom et
            al., "Privacy risk in machine learning" (2018), without their threshold.
        entropy_auc: likewise with the entropy of the answer, which needs no label.
        loss_interval, entropy_interval: 95 % score intervals (low, high), see `auc_interval`.
        accuracy: of a logistic regression on the loss, on held out images; 0.5 is chance, and ideal. The "simple MIA"
            of Kurmanji et al., "Towards unbounded machine unlearning" (2023): mean over ten stratified splits. It is
            there to compare with papers; a few large losses blind it to differences among small ones, which the area
            sees.
        members_called, nonmembers_called, forgotten_called: shares that a logistic regression on the entropy, fitted
            on members and nonmembers, calls members (Chundawat et al., "Can bad teaching induce forgetting?", 2023).
            By itself the last one means nothing where the first two are alike; ideal is what a model retrained
            without the forgotten images gets, or nearly: what unseen images of the same kind get. None without
            forgotten images.
        forgotten_interval: its 95 % Wilson interval.
        images: how many members, and as many nonmembers, were compared.
        forgotten_images: how many forgotten ones there were.
    """

    loss_auc: float
    loss_interval: tuple[float, float]
    entropy_auc: float
    entropy_interval: tuple[float, float]
    accuracy: float
    members_called: float
    nonmembers_called: float
    forgotten_called: float | None
    forgotten_interval: tuple[float, float] | None
    images: int
    forgotten_images: int

    def to_dict(self) -> dict[str, Any]:
        """As JSON can carry it: intervals as lists."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}


def membership(
    model: nn.Module,
    members: Any,
    nonmembers: Any,
    *,
    forgotten: Any = None,
    batch_size: BatchSize = 256,
    seed: int = 0,
    progress: Progress | None = None,
) -> Membership:
    """Attack a model: which images was it trained on?

    For a class that was to be forgotten, compare its training images with unseen images of it; and, with ``forgotten``
    its training images, the training images of the other classes with unseen ones of those. The original model, under
    the same attack, says how much there was to hide.

    A class that is easier than another would be taken for membership. So members and nonmembers are matched: of each
    class that both have, as many of one as of the other are compared, drawn with the seed where there are more.

    Args:
        model: returns logits [N, classes] or an object with ``.logits``; run in evaluation mode, left as it was.
        members: (images [N, ...], labels [N]) that the model was trained on, prepared without augmentation; or a
            Dataset or loader that gives both.
        nonmembers: likewise, of the same source, that it was not trained on.
        forgotten: likewise, that it was trained on and should not show it.
        batch_size: images in one forward pass; "auto": 256, or as many as there is memory for.
        seed: of the drawing and of the splits.
        progress: called as ``progress(done, total, text)`` after every batch.

    Raises:
        ImportError: scikit-learn is missing (extra "evaluate").
        TypeError, ValueError: naming the argument; fewer than 10 matched images on a side; logits without a loss.
    """
    require("sklearn", "evaluate")  # before the forward passes
    check_seed(seed)
    check_batch_size(batch_size)
    given = {"members": members, "nonmembers": nonmembers} | ({} if forgotten is None else {"forgotten": forgotten})
    checked = {name: labelled_images(name, pair) for name, pair in given.items()}
    scored: dict[str, Scored] = {}
    for name, (images, labels) in checked.items():
        values = scores(model, images, labels, name=name, batch_size=batch_size, progress=progress)
        scored[name] = (values, labels)
    return attack(scored["members"], scored["nonmembers"], scored.get("forgotten"), seed=seed)


def scores(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    name: str = "images",
    batch_size: BatchSize = 256,
    progress: Progress | None = None,
) -> Tensor:
    """Cross-entropy and entropy of the answer (nats), float64 [N, 2] on the CPU, for labels int64 [N]."""
    found = [torch.empty(0, 2, dtype=torch.float64)]
    with inference_mode(model):
        for output in forward_batches(model, images, batch_size, progress, name, name):
            logits = logits_of(output).detach().cpu().double()
            start = sum(map(len, found))
            truth = labels[start : start + len(logits)]
            check_classes(f"{name} labels", truth, logits.shape[1])
            # entr(0) = 0: a logit of -inf rules a class out, which is no error.
            entropy = torch.special.entr(logits.softmax(1)).sum(1)
            found.append(torch.stack([F.cross_entropy(logits, truth, reduction="none"), entropy], 1))
            if not bool(found[-1].isfinite().all()):
                raise ValueError(f"{name}: the model's loss is infinite or NaN for some images; it cannot be compared")
    return torch.cat(found)


def attack(members: Scored, nonmembers: Scored, forgotten: Scored | None = None, *, seed: int = 0) -> Membership:
    """The `Membership` of images of which the scores are known, each (scores [N, 2], labels [N])."""
    linear_model = require("sklearn.linear_model", "evaluate")
    metrics = require("sklearn.metrics", "evaluate")
    selection = require("sklearn.model_selection", "evaluate")
    pipeline = require("sklearn.pipeline", "evaluate")
    preprocessing = require("sklearn.preprocessing", "evaluate")

    inside, outside = _matched(members, nonmembers, seed)
    count = len(inside)
    if count < LEAST:
        raise ValueError(
            f"members and nonmembers must have at least {LEAST} images each, of the same classes, got {count}"
        )
    values = np.concatenate([inside, outside])
    truth = np.arange(2 * count) < count
    # Standardised, so that the regularisation does not depend on how small the losses are.
    regression = pipeline.make_pipeline(preprocessing.StandardScaler(), linear_model.LogisticRegression())
    splits = selection.StratifiedShuffleSplit(n_splits=10, random_state=seed)
    accuracy = float(selection.cross_val_score(regression, values[:, :1], truth, cv=splits).mean())
    regression.fit(values[:, 1:], truth)
    called = regression.predict(values[:, 1:])
    loss_auc, entropy_auc = (float(metrics.roc_auc_score(truth, -column)) for column in values.T)
    hits = total = 0
    if forgotten is not None and (total := len(forgotten[0])):
        hits = int(regression.predict(forgotten[0][:, 1:].numpy()).sum())
    return Membership(
        loss_auc=loss_auc,
        loss_interval=auc_interval(loss_auc, count, count),
        entropy_auc=entropy_auc,
        entropy_interval=auc_interval(entropy_auc, count, count),
        accuracy=accuracy,
        members_called=float(called[:count].mean()),
        nonmembers_called=float(called[count:].mean()),
        forgotten_called=hits / total if total else None,
        forgotten_interval=wilson_interval(hits, total) if total else None,
        images=count,
        forgotten_images=total,
    )


def _matched(first: Scored, second: Scored, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """As many scores of each class from the one as from the other, float64 [M, 2] both.

    Sorted first, so that the order in which the images came has no part in what is drawn, or in a split.
    """
    generator = np.random.default_rng(seed)
    kept: tuple[list[Any], list[Any]] = ([np.empty((0, 2))], [np.empty((0, 2))])
    for label in np.intersect1d(first[1].numpy(), second[1].numpy()):
        both = [values[labels == int(label)].numpy() for values, labels in (first, second)]
        fewest = min(map(len, both))
        for side, of_class in zip(kept, both, strict=True):
            ordered = of_class[np.lexsort(of_class.T)]
            side.append(ordered[generator.permutation(len(ordered))[:fewest]])
    return np.concatenate(kept[0]), np.concatenate(kept[1])
