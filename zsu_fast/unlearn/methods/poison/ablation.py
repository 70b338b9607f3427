"""What of the forgetting is due to the labels, what to the patch, and what a cut without any training gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import comb
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

Classifier = tuple[Tensor, Tensor | None]
"""Weight [C, D] and bias [C]."""

ORIGINAL, LABELS, PATCH, BOTH, CUT = (
    "as it was",
    "labels alone",
    "patch alone",
    "labels and patch",
    "lra-npp, untrained",
)
SURE = 0.05


@dataclass(frozen=True)
class Judges:
    """Features [N, D] of images that no classifier here was tuned on, and labels int64 [N]: of the class, of others."""

    own: tuple[Tensor, Tensor]
    kept: tuple[Tensor, Tensor]

    def right(self, which: tuple[Tensor, Tensor], classifier: Classifier) -> Tensor:
        """bool [N]: the label is the answer."""
        features, labels = which
        weight, bias = classifier
        return F.linear(features.to(weight), weight, bias).argmax(1) == labels


def ablation(judges: Judges, classifiers: Mapping[str, Classifier]) -> dict[str, Any]:
    """{"rows": [{"edit", "forget", "retain"}], "images", "patch_adds", "said"}, JSON-able, for the record.

    "patch_adds": whether labels and patch together forget images that the labels alone do not, more than the other way
    round (sign test on the images on which the two differ, one-sided, 5 %). The other way round the patch hinders.
    """
    rows = []
    for name, classifier in classifiers.items():
        own, kept = judges.right(judges.own, classifier), judges.right(judges.kept, classifier)
        rows.append({"edit": name, "forget": float(own.float().mean()), "retain": float(kept.float().mean())})
    count = len(judges.own[1])
    found: dict[str, Any] = {"rows": rows, "images": {"forget": count, "retain": len(judges.kept[1])}}
    label, both = (judges.right(judges.own, classifiers[name]) for name in (LABELS, BOTH))
    more, fewer = int((label & ~both).sum()), int((~label & both).sum())
    adds, hinders = sign_test(more, fewer) < SURE, sign_test(fewer, more) < SURE
    what = "adds to the forgetting" if adds else "hinders" if hinders else "adds nothing that these images show"
    said = f"The patch {what}: the labels alone leave {int(label.sum())} of {count} held-out images with the class, "
    return found | {"patch_adds": adds, "said": f"{said}labels and patch {int(both.sum())}."}


def sign_test(more: int, fewer: int) -> float:
    """P(at least `more` heads in `more + fewer` throws of a fair coin)."""
    thrown = more + fewer
    return sum(comb(thrown, heads) for heads in range(more, thrown + 1)) / 2**thrown


def split(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of three quarters to learn from, and of the quarter that judges (both sorted); at least one each."""
    order = torch.randperm(count, generator=generator)
    judging = max(1, count // 4)
    return order[judging:].sort().values, order[:judging].sort().values
