"""U-LiRA: can models that unlearned some images be told from models that never saw them, knowing many of both?

The strongest of the attacks on membership here: for each image it knows how sure of it both kinds of models are. It
needs such models, so nets have to be small, or somebody's computer large.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from zsu_fast.evaluate.given import check_classes, check_labels, check_seed
from zsu_fast.extras import require

FEW = 64  # models of each kind, below which all images share one variance


@dataclass(frozen=True)
class LikelihoodRatio:
    """How often the attack is right. All values are fractions.

    Attributes:
        accuracy: of its guesses, one for each model and image, half of them about each kind; 0.5 is chance, and ideal.
            A tie counts as half right.
        interval: of the accuracy, 95 %, by the bootstrap over pairs of models; the images stay the same.
        auc: probability that it rates a model that unlearned an image higher than one that never saw it (another
            image, perhaps); 0.5 is chance, and ideal.
        hits_at_1_percent: share of the models that unlearned which it finds while it is wrong about at most one in a
            hundred of the others; ideal 0.01.
        of_images: float64 [N], the accuracy by image: who had worse luck than the mean.
        models, images: how many pairs of models and images there were.
    """

    accuracy: float
    interval: tuple[float, float]
    auc: float
    hits_at_1_percent: float
    of_images: Tensor
    models: int
    images: int


def likelihood_ratio(unlearned: Tensor, unseen: Tensor, labels: Tensor, *, seed: int = 0) -> LikelihoodRatio:
    """U-LiRA of Hayes et al., "Inexact unlearning needs more careful evaluations" (arXiv 2403.01218).

    How sure a model is of an image is ln(p / (1 - p)) of its own class, nearly normal over models. The attack fits a
    normal distribution to the models of each kind, but for one pair of them, and says of these by the ratio of the two
    densities which unlearned; so for every pair. With fewer than 64 pairs the variance of each kind is one for all
    images (as Carlini et al., "Membership inference attacks from first principles", advise for few models).

    Pairs should have been trained on the same images but for those that one of them unlearned, pairs on different ones.

    Args:
        unlearned: logits [M, N, classes] of M models that were trained on the N images and then unlearned them.
        unseen: likewise, of M models of the same recipe that were never trained on them.
        labels: integer [N], the classes of the images.
        seed: of the bootstrap.

    Raises:
        ImportError: scikit-learn is missing (extra "evaluate").
        TypeError, ValueError: naming the argument; fewer than 3 pairs.
    """
    metrics = require("sklearn.metrics", "evaluate")
    check_seed(seed)
    for name, logits in (("unlearned", unlearned), ("unseen", unseen)):
        if not isinstance(logits, Tensor) or not logits.is_floating_point() or logits.dim() != 3:
            shown = f"{logits.dtype} {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise TypeError(f"{name}: expected floating-point logits [models, images, classes], got {shown}")
        if not bool(logits.isfinite().all()):
            raise ValueError(f"{name} holds infinite values or NaN")
    if unlearned.shape != unseen.shape or len(unlearned) < 3 or not unlearned.shape[1] or unlearned.shape[2] < 2:
        raise ValueError(
            "unlearned, unseen: expected logits of the same shape, of at least 3 models, 1 image and 2 classes, got "
            f"{tuple(unlearned.shape)} and {tuple(unseen.shape)}"
        )
    labels = check_labels("labels", labels, unlearned.shape[1])
    check_classes("labels", labels, unlearned.shape[2])
    sure = torch.stack([confidence(logits, labels) for logits in (unlearned, unseen)])  # [2, M, N]
    models = sure.shape[1]
    ratios = torch.empty_like(sure)
    for pair in range(models):
        known = sure[:, torch.arange(models) != pair]
        mean, variance = known.mean(1), known.var(1)
        if models < FEW:
            variance = variance.mean(1, keepdim=True).expand_as(mean)
        # Where all models of a kind agree, any other value speaks against it, however near: but not more than this.
        variance = variance.clamp_min(1e-12)
        density = -0.5 * ((sure[:, pair, None] - mean) ** 2 / variance + variance.log())  # [tested, kind, N]
        ratios[:, pair] = density[:, 0] - density[:, 1]
    right = torch.stack([_right(ratios[0]), _right(-ratios[1])]).mean(0)  # [M, N]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(models, (1000, models), generator=generator)
    low, high = right.mean(1)[drawn].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    truth = torch.tensor([True, False])[:, None, None].expand_as(ratios).flatten()
    wrong, hit, _ = metrics.roc_curve(truth, ratios.flatten(), drop_intermediate=False)
    return LikelihoodRatio(
        accuracy=float(right.mean()),
        interval=(low, high),
        auc=float(metrics.auc(wrong, hit)),
        hits_at_1_percent=float(hit[wrong <= 0.01].max()),
        of_images=right.mean(0),
        models=models,
        images=len(labels),
    )


def confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """ln(p / (1 - p)) of the class of each image, float64 [..., N], for logits [..., N, classes]."""
    logits = logits.detach().cpu().double()
    own = labels.expand(logits.shape[:-1])[..., None]
    rest = logits.scatter(-1, own, -torch.inf)
    return logits.gather(-1, own)[..., 0] - rest.logsumexp(-1)


def _right(ratio: Tensor) -> Tensor:
    return (ratio.sign() + 1) / 2
