"""What a model has at one of its layers: pooled activations, in which concepts are directions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.given import check_images, check_int
from zsu_fast.evaluate.inference import Progress, forward_batches, inference_mode, logits_of
from zsu_fast.model.wrapped import bare_model


def pooled(values: Tensor) -> Tensor:
    """[N, D]: the mean over the places of a picture [N, D, H, W] (or volume), or over the tokens of [N, T, D]."""
    if values.dim() == 3:
        return values.mean(1)
    return values.flatten(2).mean(2) if values.dim() > 3 else values


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What the module gets, at each call inside, with the graph that it comes from."""
    kept: list[Tensor] = []

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        kept.extend([value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)][:1])

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield kept
    finally:
        handle.remove()


class Reading(nn.Module):
    """A model, what it has at a layer, and concepts there, in one run: [logits | margins of concepts | activations].

    layer: name of a module of the model, whose input is read and pooled. directions: [K, D] with offsets [K], of
    concepts, or None. Relevance of a margin goes through the model as that of a logit does.
    """

    def __init__(
        self, model: nn.Module, layer: str, directions: Tensor | None = None, offsets: Tensor | None = None
    ) -> None:
        super().__init__()
        self.model = bare_model(model)
        self.layer = layer
        check_layer(self.model, layer)
        self.training = False
        self.directions, self.offsets = directions, offsets  # no buffers: they are nothing of the model's

    def forward(self, images: Tensor) -> Tensor:
        with inputs_of(self.model.get_submodule(self.layer)) as kept:
            logits = logits_of(self.model(images))
        if not kept:
            raise ValueError(f"layer: {self.layer!r} did not run, or was not given a tensor")
        found = pooled(kept[-1])
        if len(found) != len(logits):
            raise ValueError(
                f"layer: {self.layer!r} gets {tuple(kept[-1].shape)} of {len(logits)} images, not one row for each"
            )
        parts = [logits, found]
        if self.directions is not None and self.offsets is not None:
            if found.shape[1] != self.directions.shape[1]:
                raise ValueError(
                    f"bank: its vectors have {self.directions.shape[1]} values, the layer {self.layer!r} of this model "
                    f"{found.shape[1]}"
                )
            parts.insert(1, nn.functional.linear(found, self.directions.to(found), self.offsets.to(found)))
        return torch.cat(parts, 1)

    def answers(self, found: Tensor) -> Tensor:
        """[N, classes]: the logits in what `forward` gave, of a reading with directions."""
        assert self.directions is not None
        return found[:, : -sum(self.directions.shape)]


def check_layer(model: nn.Module, layer: str) -> None:
    """ValueError if the model has no such module."""
    if layer not in dict(model.named_modules()) or not layer:
        raise ValueError(f"layer: the model has no module {layer!r}; see model.named_modules()")


def classifier_of(model: nn.Module, images: Tensor) -> str:
    """Name of the linear module that runs last: its inputs are the features. ValueError if none runs."""
    ran: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name
    ]
    try:
        with inference_mode(model):
            next(iter(forward_batches(model, images[:1], 1)))
    finally:
        for handle in handles:
            handle.remove()
    if not ran:
        raise ValueError("layer: no linear module runs in the model: name the module whose input is to be read")
    return ran[-1]


def activations(
    model: nn.Module, images: Tensor, layer: str, *, batch_size: int = 64, progress: Progress | None = None
) -> tuple[Tensor, Tensor]:
    """Activations [N, D] that a layer gets, pooled, and logits [N, classes]; both float32 on the CPU.

    Raises:
        ValueError: no such layer, or one that did not run.
    """
    check_images("images", images, 1)
    check_int("batch_size", batch_size, 1)
    reading, found = Reading(model, layer), []
    with inference_mode(model):
        for output in forward_batches(reading, images, batch_size, progress, "activations"):
            found.append(logits_of(output).float().cpu())
        classes = logits_of(reading.model(images[:1].to(next(iter(model.parameters())).device))).shape[1]
    everything = torch.cat(found)
    return everything[:, classes:], everything[:, :classes]


def part(images: Tensor, where: Sequence[int] | Tensor) -> Tensor:
    """The images at these indices."""
    return images[torch.as_tensor(where, dtype=torch.int64, device=images.device)]
