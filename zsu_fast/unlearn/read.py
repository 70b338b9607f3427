"""How a method gets its images: streams where it only runs them, tensors where it does more, on the model's device."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from zsu_fast.evaluate.given import check_labels
from zsu_fast.evaluate.images import ImageStream, images_of
from zsu_fast.unlearn.methods import Method
from zsu_fast.unlearn.requests import ForgetClass, Pair, check_finite, labelled


def placed(images: Tensor, device: torch.device) -> Tensor:
    """A stream brings its batches to `device`; a tensor stays where the caller put it."""
    return cast(Tensor, images.on(device)) if isinstance(images, ImageStream) else images


def read_probes(request: ForgetClass, method: Method, device: torch.device) -> ForgetClass:
    """The request with its probes as the method takes them.

    ValueError for what can be read only once where the method must run it again.
    """
    probes = request.probes
    if not isinstance(probes, ImageStream):
        return request
    if not method.streams:
        images = probes.on(device).tensor()
        return replace(request, probes=images, labels=probes.labels if request.labels is None else request.labels)
    if probes.once:
        _check_once("probes", method)
    return replace(request, probes=cast(Tensor, probes.on(device)))


def read_labelled(name: str, given: Any, device: torch.device) -> Pair:
    """Images and labels, of a stream both on `device`."""
    images, labels = labelled(name, given)
    images = placed(images, device)
    return images, labels.to(images.device)


def read_retained(given: Any, method: Method, device: torch.device) -> Tensor | Pair:
    """What was given as `retain_probes`, as the method takes them: images, or with labels a pair.

    The labels that a generator brings are None here: they are known when it has been read.
    """
    images, labels = images_of("retain_probes", given, finite=True)
    found = placed(check_finite("retain_probes", images), device)
    if isinstance(images, ImageStream):
        if method.streams and images.once:
            _check_once("retain_probes", method)
            if labels is None and not images.labelled:
                raise ValueError(
                    "retain_probes: a generator can be read only once, so it must bring labels: expected batches "
                    "(images, labels)"
                )
            return found, cast(Tensor, labels)
        found = found if method.streams else cast(ImageStream, found).tensor()
        labels = images.labels if labels is None else labels
    if labels is None:
        return found
    return found, check_labels("retain_probes labels", labels, len(found), found.device)


def _check_once(name: str, method: Method) -> None:
    if (why := method.runs_again()) is not None:
        raise ValueError(
            f"{name}: a generator can be read only once, and {why}; give a DataLoader, a Dataset or a list"
        )
