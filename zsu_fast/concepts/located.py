"""Relevance at a layer, place by place, and relevance of the pixels that passes through a part of it alone.

The latter is concept relevance propagation (Achtibat et al., Nature Machine Intelligence 2023, arXiv 2206.03208): the
relevance pass of the whole model, in which at one layer all but a concept's share is held back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.concepts.reading import check_layer
from zsu_fast.lrp import Composite, relevance

Part = Callable[[Tensor, int], Tensor]
"""(relevance [n, D, ...] at the layer, number of the first image) -> shares of it that pass, of the same shape."""


def located(
    model: nn.Module,
    layer: str,
    images: Tensor,
    labels: Tensor,
    *,
    composite: str | Composite = "epsilon_plus",
    batch_size: int = 16,
    part: Part | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Relevance and values [N, D, ...] at the input of a layer, and relevance [N, ...] of the images.

    labels: int64 [N], the logit that is explained for each image. part: what passes on towards the images; all of it
    without. Relevance of logits is what arrives, so it does not depend on `part`.

    Raises:
        ValueError: no such layer, it did not run exactly once, or the composite sends relevance past its input.
    """
    check_layer(model, layer)
    module, found = model.get_submodule(layer), []
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        calls: list[Tensor] = []
        arrived: list[Tensor] = []

        def watch(_: nn.Module, args: tuple[Any, ...], start: int = start, calls: list[Tensor] = calls,
                  arrived: list[Tensor] = arrived) -> None:  # fmt: skip
            values = args[0]
            calls.append(values.detach().clone())
            if values.requires_grad:

                def passing(c: Tensor) -> Tensor | None:
                    arrived.append(c * calls[0])
                    return None if part is None else c * part(arrived[-1], start).to(c)

                values.register_hook(passing)

        handle = module.register_forward_pre_hook(watch)
        try:
            one = relevance(
                model, batch, labels[start : start + batch_size], composite=composite, layers=(), at_input=True
            )
        finally:
            handle.remove()
        if len(calls) != 1 or len(arrived) != 1:
            raise ValueError(
                f"layer: {layer!r} ran {len(calls)} times, and relevance arrived at its input {len(arrived)} times; "
                "expected once: name another module (of a norm, the convolution before it), or rules that keep to the "
                "layers (epsilon, epsilon_plus, attnlrp)"
            )
        found.append((arrived[0].detach().float(), calls[0].float(), one.input))
    at_layer, values, at_input = (torch.cat(parts) for parts in zip(*found, strict=True))
    return at_layer, values, at_input


def channels_first(values: Tensor) -> Tensor:
    """[N, D, P]: places last. A tensor [N, T, D] of tokens is turned; [N, D] has one place."""
    if values.dim() == 2:
        return values[:, :, None]
    return values.transpose(1, 2) if values.dim() == 3 else values.flatten(2)
