"""Whether what was forgotten is still forgotten: a request's own images, looked at anew on the model as it is now."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.images import held, labelled_images
from zsu_fast.evaluate.inference import forward_batches, inference_mode, logits_of
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.unlearn.items import ForgetItems
from zsu_fast.unlearn.requests import ForgetClass, Request


def can_look(request: Request) -> bool:
    """Not at items: where they lie is measured by the generator that still makes them, and that is gone."""
    return not isinstance(request, ForgetItems)


def left_of(model: nn.Module, request: Request, evaluate_on: object, batch_size: int) -> tuple[int, int]:
    """How many images are not forgotten, and of how many; where there are several classes, of the worst of them.

    Of a class the images of `evaluate_on` count, where they are given, else the probes, which chose the edit. Of every
    other kind its own images (prompts, latents) do: instances short of the goal, with the losses of unseen images taken
    from the model as it is.
    """
    if isinstance(request, ForgetClass) and evaluate_on is not None:
        images, labels = labelled_images("evaluate_on", evaluate_on, None, finite=True)
        own = torch.isin(labels, torch.tensor(request.classes, device=labels.device)).nonzero()[:, 0]
        request = ForgetClass(request.classes, held(images[own]), labels[own])
    view = request.view(model)

    def forward(images: Tensor) -> Tensor:
        return torch.cat([logits_of(output) for output in forward_batches(view, images, batch_size)])

    with inference_mode(view), compiled_parts_as_written():
        request = request.started(forward, view)
        logits = forward(request.probes).to(request.probe_labels.device)
        left = ~(request.margins(logits, torch.ones_like(request.probe_labels, dtype=torch.bool)) < 0)
    left = left.to(request.probe_labels.device)
    counts = [(int(left[group].sum()), int(group.sum())) for group in request.groups]
    return max(counts, key=lambda pair: pair[0] / pair[1])
