"""How far an edited model is from another one: in its answers on given images, and in its weights.

The other one is the oracle (retrained without the class), an untrained net, or the original. Functions of logits
[N, classes] of the same N images; NaN or infinity in them is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from zsu_fast.model.tensors import Tensors

__all__ = [
    "activation_distance",
    "completeness",
    "jensen_shannon",
    "retrain_free_divergence",
    "tug_of_war",
    "weight_distance",
    "zero_retrain_forgetting",
]


def jensen_shannon(logits: Tensor, others: Tensor) -> Tensor:
    """[N] divergence of the answers in bits, 0 (the same) to 1 (nothing in common).

    JS(p, q) = KL(p, m) / 2 + KL(q, m) / 2 with m = (p + q) / 2. Mean over forget images, to the oracle: ideal 0.
    """
    first, second = _log_probabilities(logits, others)
    middle = torch.logaddexp(first, second) - math.log(2)
    halves = [torch.where(p > -math.inf, p.exp() * (p - middle), 0.0).sum(1) for p in (first, second)]
    return ((halves[0] + halves[1]) / (2 * math.log(2))).clamp(0.0, 1.0)


def zero_retrain_forgetting(logits: Tensor, untrained: Tensor) -> float:
    """ZRF: 1 - mean Jensen-Shannon divergence of the answers on forget images to those of an untrained net.

    The ideal is the oracle's value; 1 would be answers as of an untrained net. In bits, so that it lies in [0, 1].
    Source: V. S. Chundawat et al., "Can bad teaching induce forgetting?", AAAI 2023. (Their published code swaps the
    arguments of the divergence and divides by the number of classes, which makes every value about 1.)
    """
    return 1.0 - float(jensen_shannon(logits, untrained).mean())


def retrain_free_divergence(edited_forget: Tensor, original_unseen: Tensor) -> float:
    """RF-JSD: mean answer of the edited model on forget images against that of the original on unseen ones.

    Needs no oracle; for instances, the unseen images are of the same classes, for a class of the others. Ideal 0.
    Source: LoTUS, CVPR 2025.
    """
    means = [values.double().softmax(1).mean(0, keepdim=True).log() for values in (edited_forget, original_unseen)]
    return float(jensen_shannon(*means))


def activation_distance(logits: Tensor, others: Tensor) -> float:
    """Mean L2 distance of the probabilities, 0 to sqrt(2); to the oracle, ideal 0.

    Source: A. Golatkar et al., "Mixed-privacy forgetting in deep networks", CVPR 2021.
    """
    first, second = (values.exp() for values in _log_probabilities(logits, others))
    return float((first - second).norm(dim=1).mean())


def completeness(logits: Tensor, others: Tensor) -> float:
    """Share of images with the same answer; with the oracle, ideal 1."""
    first, second = _log_probabilities(logits, others)
    return float((first.argmax(1) == second.argmax(1)).double().mean())


def tug_of_war(edited: Sequence[float], oracle: Sequence[float]) -> float:
    """ToW: the product of 1 - |difference of accuracies| over (forget, retain, test) sets; ideal 1.

    Source: K. Zhao et al., "What makes unlearning hard and what to do about it", NeurIPS 2024 (2406.01257).
    """
    if len(edited) != len(oracle) or not edited:
        raise ValueError(f"edited and oracle must be as many accuracies, got {len(edited)} and {len(oracle)}")
    for name, values in (("edited", edited), ("oracle", oracle)):
        for value in values:
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"{name} must be accuracies in [0, 1], got {value}")
    return math.prod(1.0 - abs(a - b) for a, b in zip(edited, oracle, strict=True))


def weight_distance(model: nn.Module, other: nn.Module, *, normalised: bool = False) -> float:
    """L2 distance of all floating-point parameters; normalised: divided by the norm of the model's.

    To the original: a small one says that the edit is easily taken back (arXiv 2505.22310).
    Raises ValueError if the models do not have the same parameters.
    """
    mine, theirs = Tensors(model), Tensors(other)
    if sorted(mine.parameters) != sorted(theirs.parameters):
        raise ValueError("other must have the parameters of model")
    squares = norm = 0.0
    for name in mine.parameters:
        if not mine[name].is_floating_point():
            continue
        if mine[name].shape != theirs[name].shape:
            raise ValueError(f"other must have the parameters of model, {name} is {tuple(theirs[name].shape)}")
        value = mine[name].detach().double().cpu()
        squares += float((value - theirs[name].detach().double().cpu()).square().sum())
        norm += float(value.square().sum())
    return math.sqrt(squares / norm) if normalised else math.sqrt(squares)


def _log_probabilities(logits: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    for name, values in (("logits", logits), ("others", others)):
        if not isinstance(values, Tensor) or values.dim() != 2 or values.shape[0] == 0:
            raise ValueError(f"{name} must be a tensor [N, classes] of at least one image")
        if bool(values.isnan().any()) or bool((values == math.inf).any()):
            raise ValueError(f"{name} must be finite, got NaN or infinity")
    if logits.shape != others.shape:
        raise ValueError(f"others must be of shape {list(logits.shape)} like logits, got {list(others.shape)}")
    return logits.double().cpu().log_softmax(1), others.double().cpu().log_softmax(1)
