"""What enters the classifier, kept: then logits under an edit of the classifier cost no run of the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from zsu_fast.model.tensors import Tensors, same_bits
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.shard import Shard
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


def shortcut(tensors: Tensors, head: Head, features: Shard, logits: Tensor) -> Quick | None:
    """From kept features to logits, if that is the model's own arithmetic bit for bit, as it is tried; else None.

    They go through in the batches in which the model runs them: another number of rows may round otherwise.
    """

    def quick(where: Tensor) -> Tensor:
        bias, shard = None if head.bias is None else tensors[head.bias], features.admitted(where)
        parts = [F.linear(part, tensors[head.weight], bias) for part in shard.batches()]
        return shard.outcome(torch.cat(parts))[:, head.rows]

    try:
        everything = torch.ones(features.total, dtype=torch.bool, device=features.images.device)
        exact = features.images.dim() == tensors[head.weight].dim() == 2 and same_bits(quick(everything), logits)
    except RuntimeError:  # another dtype than the weight: the model casts on its way
        exact = False
    return quick if exact else None
