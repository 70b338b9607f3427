"""Take a concept out of what layers write: as little of their outputs as makes both sides alike in the mean.

LEACE (Belrose et al., NeurIPS 2023, arXiv 2306.03819) for a concept that is there or not: of all affine maps after
which no linear classifier does better than the commoner side, the one that changes the least is

    y' = y - d w^T (y - m),    d: difference of the two means, w: S^-1 d / (d^T S^-1 d), S: covariance

but for a constant, m: the source's is the mean of all, here it is that of the side without the concept, which stays
where it is while the other one comes to it. It folds into the layer's weight and bias. Layer after layer, each as the
ones before it leave it, it is what the source calls concept scrubbing. Nonlinear functions behind may bring differences
back, and d is only as good as the images are many: that is for others to measure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from zsu_fast.concepts.cav import ridge_direction
from zsu_fast.concepts.reading import pooled
from zsu_fast.model.tensors import Tensors


def eraser(values: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(d, w, m), float64 [D] each, from pooled outputs [N, D] and labels bool [N]; w is a ridge estimate with w d = 1.

    Where the two sides have the same mean there is nothing to take out: d and w are zero.
    """
    found = values.detach().double().cpu()
    inside = labels.cpu().bool()
    without = found[~inside].mean(0)
    difference = found[inside].mean(0) - without
    direction = ridge_direction(found, inside)
    size = direction @ difference
    if not bool(size > 0):
        return torch.zeros_like(difference), torch.zeros_like(difference), without
    return difference, direction / size, without


@torch.no_grad()
def erase_(tensors: Tensors, weight: str, bias: str | None, mean: str | None, values: Tensor, labels: Tensor) -> None:
    """Fold the eraser of a layer's outputs into the layer, in place.

    weight, bias: names of its tensors, units along dimension 0. mean: running mean of a BatchNorm behind a layer
    without bias, which takes the constant in its place; without either the constant is left out, so that what is
    subtracted is d w^T y. values: pooled outputs [N, units] of the layer, labels: bool [N], with the concept.
    """
    d, w, m = eraser(values, labels)
    held = tensors[weight]
    rows = held.double().flatten(1)
    d, w, m = d.to(rows), w.to(rows), m.to(rows)
    held.copy_((rows - d[:, None] * (w @ rows)[None]).view_as(held))
    if bias is not None:
        old = tensors[bias].double()
        tensors[bias].copy_(old - d * (w @ (old - m)))
    elif mean is not None:
        tensors[mean].sub_((d * (w @ m)).to(tensors[mean]))


def outputs_of(
    run: Callable[[Tensor], object], module: nn.Module, batches: Iterable[Tensor], convolution: bool
) -> Tensor:
    """Pooled outputs [N, units] of a linear layer (over tokens) or a convolution (over places)."""
    found: list[Tensor] = []

    def keep(_: nn.Module, __: Sequence[object], out: Tensor) -> None:
        found.append(out.flatten(2).mean(2) if convolution and out.dim() > 2 else pooled(out))

    handle = module.register_forward_hook(keep)
    try:
        with torch.no_grad():
            for batch in batches:
                run(batch)
    finally:
        handle.remove()
    return torch.cat(found)
