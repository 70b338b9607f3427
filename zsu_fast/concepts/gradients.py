"""Integrated gradients (Sundararajan et al., ICML 2017, arXiv 1703.01365), and how far two attributions agree."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.given import check_images, check_int, check_labels
from zsu_fast.evaluate.inference import inference_mode, logits_of


@dataclass(frozen=True, eq=False)
class Integrated:
    """attributions: like the images. error: float [N], what is missing in their sum for it to be the difference of the
    logits of image and baseline, as a share of that difference: completeness would be 0."""

    attributions: Tensor
    error: Tensor


def integrated_gradients(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    baseline: Tensor | None = None,
    steps: int = 32,
    batch_size: int = 64,
) -> Integrated:
    """Attributions of the logit of each image's label: `steps` passes forward and back where relevance takes one.

    baseline: broadcast against the images; default zeros, the mean picture after the usual normalisation. Midpoint
    rule over the straight way.
    """
    check_images("images", images, 1)
    check_int("steps", steps, 1)
    truth = check_labels("labels", labels, len(images), images.device)
    start = torch.zeros_like(images) if baseline is None else baseline.to(images).expand_as(images)
    sums, gains = [], []
    with inference_mode(model), torch.enable_grad():
        for some, base, own in zip(
            images.split(batch_size), start.split(batch_size), truth.split(batch_size), strict=True
        ):
            total = torch.zeros_like(some)
            for step in range(steps):
                at = (base + (step + 0.5) / steps * (some - base)).detach().requires_grad_()
                total += torch.autograd.grad(logits_of(model(at)).gather(1, own[:, None]).sum(), at)[0]
            with torch.no_grad():
                ends = [logits_of(model(x)).gather(1, own[:, None])[:, 0] for x in (some, base)]
            sums.append(total / steps * (some - base))
            gains.append(ends[0] - ends[1])
    found, gain = torch.cat(sums), torch.cat(gains)
    missing = (found.flatten(1).sum(1) - gain).abs() / gain.abs().clamp_min(torch.finfo(gain.dtype).tiny)
    return Integrated(found, missing.detach())


def agreement(a: Tensor, b: Tensor) -> Tensor:
    """float [N]: rank correlation (Spearman's) of two attributions of the same images, summed over their channels."""
    if a.shape != b.shape:
        raise ValueError(f"b: expected the shape of a, {tuple(a.shape)}, got {tuple(b.shape)}")
    ranks = [_ranks((x.sum(1) if x.dim() > 3 else x).flatten(1).double()) for x in (a, b)]
    centred = [rank - rank.mean(1, keepdim=True) for rank in ranks]
    lengths = [x.norm(dim=1).clamp_min(1e-300) for x in centred]
    return ((centred[0] * centred[1]).sum(1) / (lengths[0] * lengths[1])).float()


def _ranks(values: Tensor) -> Tensor:
    """Of each row; equal values share their mean rank."""
    ordered = values.sort(1).values
    below = torch.searchsorted(ordered, values.contiguous())
    upto = torch.searchsorted(ordered, values.contiguous(), right=True)
    return (below + upto - 1).double() / 2
