"""Masking in place: elements of a weight by a score, and slices (neurons) of many tensors."""

import torch
from torch import Tensor

from .selection import descending

SET, SCALE, ADD = 0, 1, 2
"""Operations of `mask_neurons_`: the slice becomes `value`, slice * value, or slice + noise."""


def topk_mask_(
    weight: Tensor,
    scores: Tensor,
    k: int,
    absolute: bool,
    value: float,
    saved_indices: Tensor | None,
    saved_values: Tensor | None,
) -> None:
    """Set the elements of `weight` with the k largest scores to `value`, in place.

    saved_indices, saved_values: int64 [k] and [k], which get the row-major indices, ascending, and what stood there.
    """
    picked = descending(scores.flatten(), absolute)[:k]
    mask = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    mask[picked] = True
    if saved_indices is not None:
        saved_indices.copy_(picked.sort().values)
    mask = mask.view(weight.shape)
    if saved_values is not None:
        saved_values.copy_(weight.masked_select(mask))
    weight.masked_fill_(mask, value)


def mask_neurons_(
    tensors: list[Tensor],
    indices: list[Tensor],
    dims: list[int],
    saved: list[Tensor],
    noise: list[Tensor],
    operation: int,
    value: float,
) -> None:
    """Overwrite slices of the tensors, in place: SET to `value`, SCALE by it, or ADD the noise of each.

    saved, noise: one for each tensor, of the shape of `tensor.index_select(dim, index)`, or none.
    """
    for i, (tensor, index, dim) in enumerate(zip(tensors, indices, dims, strict=True)):
        old = tensor.index_select(dim, index)
        if saved:
            saved[i].copy_(old)
        if operation == SET:
            tensor.index_fill_(dim, index, value)
        elif operation == SCALE:
            tensor.index_copy_(dim, index, old * value)
        else:
            tensor.index_copy_(dim, index, old + noise[i])
