"""A linear probe on one set of labelled images: half of each class to train, half to test."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zsu_fast.cli.images import ImageSet
from zsu_fast.cli.session import Session
from zsu_fast.evaluate import ProbeResult, features, linear_probe
from zsu_fast.evaluate.inference import Progress


def linear_probe_on_halves(
    session: Session, images: ImageSet, targets: Sequence[int], seed: int, progress: Progress
) -> ProbeResult:
    """Fit on one half of the images' features, judge on the other."""
    assert images.labels is not None
    found: list[Tensor] = []
    for batch in images.batches(session.loaded.preprocess, session.batch_size):
        found.append(features(session.loaded.model, batch, batch_size=session.batch_size))
        progress(min(len(found) * session.batch_size, len(images)), len(images), "features")
    values, labels = torch.cat(found), images.labels
    train = stratified_half(labels, seed)
    return linear_probe(values[train], labels[train], values[~train], labels[~train], list(targets), seed=seed)


def stratified_half(labels: Tensor, seed: int) -> Tensor:
    """bool [N]: half of each class (the larger half if odd), drawn with the seed."""
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        where = torch.nonzero(labels == label)[:, 0]
        order = torch.randperm(len(where), generator=generator)
        chosen[where[order[: (len(where) + 1) // 2]]] = True
    return chosen
