"""One edited piece of one tensor, with its old and new values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Entry:
    """Elements of `tensor`, with their old and new values.

    A slice: `indices` (int64 [k]) along `dim` of the tensor, or of its row `row`; old and new have the shape of
    `tensor.index_select(dim, indices)`. Single elements: dim is None, and the indices count in the flattened tensor;
    old and new have shape [k]. The whole tensor: dim and indices are None.
    """

    tensor: str
    row: int | None
    dim: int | None
    indices: Tensor | None
    old: Tensor
    new: Tensor

    def slice_of(self, whole: Tensor) -> tuple[Tensor, int, Tensor]:
        """(view, dim, indices) of this entry in its tensor; ValueError if the tensor does not fit it."""
        fits = self.row is None or (self.dim is not None and whole.dim() > 0 and 0 <= self.row < whole.shape[0])
        if fits and whole.is_contiguous() is False and self.dim is None:
            raise ValueError(f"model: {self.tensor} is not contiguous, which edits of single elements need")
        if fits:
            view = whole[self.row] if self.row is not None else whole.view(-1) if self.dim is None else whole
            dim = self.dim or 0
            indices = torch.arange(view.shape[0]) if self.indices is None else self.indices
            old, new = (v.reshape(-1) if self.indices is None else v for v in (self.old, self.new))
            fits = dim < view.dim() and not (
                indices.numel() and (int(indices.max()) >= view.shape[dim] or int(indices.min()) < 0)
            )
            if fits:
                expected = (*view.shape[:dim], indices.numel(), *view.shape[dim + 1 :])
                fits = expected == tuple(old.shape) == tuple(new.shape)
        if not fits:
            raise ValueError(
                f"model: {self.tensor} has shape {tuple(whole.shape)}, which does not fit the patch "
                f"(row {self.row}, dimension {self.dim}, values of shape {tuple(self.old.shape)})"
            )
        if not whole.dtype == self.old.dtype == self.new.dtype:
            raise ValueError(f"model: {self.tensor} is {whole.dtype}, the patch holds {self.old.dtype}")
        return view, dim, indices.to(view.device)
