"""A classifier tuned on features that are kept: what stands before it runs once for each image, and never again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rates:
    """Of stochastic gradient descent, as `torch.optim.SGD` has them."""

    epochs: int
    learning_rate: float
    momentum: float
    weight_decay: float
    batch: int


@torch.no_grad()
def tuned(
    weight: Tensor,
    bias: Tensor | None,
    features: Tensor,
    labels: Tensor,
    rates: Rates,
    generator: torch.Generator,
    progress: Callable[[int, int, str], None] = lambda done, total, text: None,
) -> tuple[Tensor, Tensor | None]:
    """Weight [C, D] and bias [C] after `rates.epochs` passes of SGD down the cross entropy of `labels` int64 [N].

    features: [N, D]. The gradient is written out, (softmax - one-hot)^T features / n for a mini-batch of n: of so small
    a product autograd's book-keeping would be most of the time. In float32 at least, whatever the weight has.

    Raises:
        ValueError: it diverges (infinite or NaN); names `learning_rate`.
    """
    wide = torch.promote_types(weight.dtype, torch.float32)
    w, x = weight.detach().to(wide, copy=True), features.to(weight.device, wide)
    b = torch.zeros(len(w), dtype=wide, device=w.device) if bias is None else bias.detach().to(wide, copy=True)
    aims = torch.nn.functional.one_hot(labels.to(w.device), len(w)).to(wide)
    speed_w, speed_b = torch.zeros_like(w), torch.zeros_like(b)
    for epoch in range(rates.epochs):
        for where in torch.randperm(len(x), generator=generator).split(rates.batch):
            where = where.to(x.device)
            given = x[where]
            error = torch.addmm(b, given, w.T).softmax(1).sub_(aims[where]).div_(len(where))
            speed_w.mul_(rates.momentum).addmm_(error.T, given)
            speed_b.mul_(rates.momentum).add_(error.sum(0))
            if rates.weight_decay:
                speed_w.add_(w, alpha=rates.weight_decay)
                speed_b.add_(b, alpha=rates.weight_decay)
            w.sub_(speed_w, alpha=rates.learning_rate)
            if bias is not None:
                b.sub_(speed_b, alpha=rates.learning_rate)
        if not bool(w.isfinite().all()):
            raise ValueError(f"learning_rate: the classifier is infinite or NaN after epoch {epoch + 1}; a smaller one")
        progress(epoch + 1, rates.epochs, "classifier")
    return w.to(weight.dtype), None if bias is None else b.to(bias.dtype)
