"""What enters the classifier, kept: then logits under an edit of the classifier cost no run of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from zsu_fast.model.tensors import Tensors, same_bits
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.structure import Head
from zsu_fast.unlearn.watch import classifier_inputs

Quick = Callable[[Tensor], Tensor]
"""Mask or indices of the images -> their logits under the edit that is in place."""


def kept_features(
    given: Given, head: Head, batches: tuple[Tensor, ...], text: str | None = None
) -> tuple[Tensor, Tensor]:
    """Features [N, D] that enter the classifier, and logits [N, classes]; progress is told under `text`."""

    def told() -> Iterator[Tensor]:
        for done, batch in enumerate(batches):
            yield batch
            if text is not None:
                given.progress(done + 1, len(batches), text)

    return classifier_inputs(given.model, Tensors(given.model).held(head.weight), told())


def shortcut(
    tensors: Tensors, head: Head, features: Tensor, logits: Tensor, batches: Callable[[Tensor], Sequence[Tensor]]
) -> Quick | None:
    """From kept features to logits, if that is the model's own arithmetic bit for bit, as it is tried; else None.

    batches: features -> the parts in which the model runs them: another number of rows may round otherwise.
    """

    def quick(where: Tensor) -> Tensor:
        bias = None if head.bias is None else tensors[head.bias]
        parts = [F.linear(part, tensors[head.weight], bias) for part in batches(features[where])]
        return torch.cat(parts)[:, head.rows]

    try:
        everything = torch.ones(len(features), dtype=torch.bool, device=features.device)
        exact = features.dim() == 2 and tensors[head.weight].dim() == 2 and same_bits(quick(everything), logits)
    except RuntimeError:  # another dtype than the weight: the model casts on its way
        exact = False
    return quick if exact else None
