"""A sparse linear layer on concepts, in the place of the classifier: which concepts a class is answered by.

Post-hoc concept bottleneck models (Yuksekgonul et al., ICLR 2023, arXiv 2205.15480). What the layer says of a class
is worth as much as it answers like the model: its accuracy stands beside the model's, on images that it did not learn
from.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.concepts.bank import ConceptBank
from zsu_fast.concepts.reading import activations
from zsu_fast.evaluate.given import check_classes
from zsu_fast.evaluate.images import check_labelled
from zsu_fast.evaluate.inference import Progress

NEAR = 0.05
"""By how much of accuracy the concepts may fall short of the model, and still count as an account of it."""


@dataclass(frozen=True, eq=False)
class Bottleneck:
    """names: K concepts. weights: float32 [classes, K], on standardised margins; offsets: float32 [classes].

    accuracy, of_model: of the layer and of the model, on the half of the images that the layer did not learn from;
    agreement: share of these on which both give the same answer. images: how many.
    """

    names: tuple[str, ...]
    weights: Tensor
    offsets: Tensor
    accuracy: float
    of_model: float
    agreement: float
    images: int

    @property
    def faithful(self) -> bool:
        """Whether the concepts account for the model's answers; if not, the model uses what the bank does not have."""
        return self.accuracy >= self.of_model - NEAR

    def top(self, target: int, count: int = 5) -> list[tuple[str, float]]:
        """The concepts that speak most for a class, and their weights; those that speak against it are left out."""
        row = self.weights[target]
        order = row.sort(descending=True, stable=True).indices[:count].tolist()
        return [(self.names[at], float(row[at])) for at in order if row[at] > 0]

    def to_dict(self) -> dict[str, Any]:
        facts = ("accuracy", "of_model", "agreement", "images", "faithful")
        return {"concepts": list(self.names)} | {name: getattr(self, name) for name in facts}


def concept_bottleneck(
    model: nn.Module,
    bank: ConceptBank,
    labelled: tuple[Tensor, Tensor],
    *,
    penalty: float = 1e-3,
    l1: float = 0.99,
    steps: int = 500,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> Bottleneck:
    """Fit the layer on the margins of half of the images, and check it on the other half.

    Args:
        labelled: (images [N, ...], labels int [N]) of all classes.
        penalty: weight of l1 |W|_1 + (1 - l1) |W|^2 / 2 beside the mean cross entropy.
    """
    images, labels = check_labelled("labelled", labelled)
    found, logits = activations(model, images, bank.layer, batch_size=batch_size, progress=progress)
    check_classes("labelled labels", labels, logits.shape[1])
    margins = bank.margins(found)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    learn, judge = order[: len(order) // 2], order[len(order) // 2 :]
    if len(learn) < 2:
        raise ValueError(f"labelled: expected at least 4 images, got {len(labels)}")
    mean, scale = margins[learn].mean(0), margins[learn].std(0).clamp_min(1e-12)
    margins = (margins - mean) / scale
    weights, offsets = sparse_fit(margins[learn], labels[learn], logits.shape[1], penalty, l1, steps)
    answers, own = F.linear(margins[judge], weights, offsets).argmax(1), logits[judge].argmax(1)
    truth = labels[judge]
    return Bottleneck(
        bank.names, weights, offsets, float((answers == truth).float().mean()), float((own == truth).float().mean()),
        float((answers == own).float().mean()), len(judge),
    )  # fmt: skip


def sparse_fit(
    values: Tensor, labels: Tensor, classes: int, penalty: float, l1: float, steps: int
) -> tuple[Tensor, Tensor]:
    """Weights [classes, K] and offsets: multinomial regression with an elastic net, by FISTA (Beck and Teboulle, 2009).

    The gradient of the mean cross entropy is Lipschitz with half the largest eigenvalue of the second moments.
    """
    x = torch.cat([values, torch.ones(len(values), 1)], 1).double()
    aims = F.one_hot(labels, classes).double()
    step = 1 / (0.5 * torch.linalg.matrix_norm(x, 2).square() / len(x) + penalty * (1 - l1))
    w = ahead = torch.zeros(classes, x.shape[1]).double()
    pace = 1.0
    for _ in range(steps):
        gradient = ((x @ ahead.T).softmax(1) - aims).T @ x / len(x)
        gradient[:, :-1] += penalty * (1 - l1) * ahead[:, :-1]
        new = ahead - step * gradient
        new[:, :-1] = new[:, :-1].sign() * (new[:, :-1].abs() - step * penalty * l1).clamp_min(0)
        faster = (1 + (1 + 4 * pace * pace) ** 0.5) / 2
        ahead, w, pace = new + (pace - 1) / faster * (new - w), new, faster
    return w[:, :-1].float(), w[:, -1].float()
