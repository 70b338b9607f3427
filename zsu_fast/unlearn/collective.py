"""`forget` in several processes that bring images of their own: what each gives is checked, and made one request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.class_names import given_names
from zsu_fast.evaluate.accuracy import summarise
from zsu_fast.evaluate.given import check_labels, check_targets
from zsu_fast.evaluate.images import ImageStream, images_of
from zsu_fast.evaluate.inference import answers_of, logits_of
from zsu_fast.model.tensors import model_digest
from zsu_fast.unlearn.group import Group
from zsu_fast.unlearn.methods import Method
from zsu_fast.unlearn.replicas import digest_of
from zsu_fast.unlearn.requests import Batches, ForgetClass, Request, check_finite, indices_of
from zsu_fast.unlearn.synthetic import SyntheticProbes
from zsu_fast.unlearn.verdict import Evaluated


@dataclass(frozen=True, eq=False)
class ForgetClassTogether(ForgetClass):
    """`ForgetClass`, of whose probes each process holds a part: `probes` are those here, `labels` those of all."""

    def __post_init__(self) -> None:
        """Checked by `shared_request`."""

    @cached_property
    def probe_labels(self) -> Tensor:
        assert isinstance(self.labels, Tensor)
        return self.labels

    def evaluate(self, view: nn.Module, given: Any, batches: Batches) -> Evaluated | None:
        """given: a `Shard` and the labels of all."""
        if given is None:
            return None
        shard, labels = given
        answers = shard.outcome(torch.cat([answers_of(logits_of(view(batch))) for batch in shard.batches()]))
        return summarise(shard.gather(answers), labels.cpu(), self.classes)


def shared_request(
    group: Group, request: Any, probes: Any, labels: Any, names: Any, device: torch.device
) -> ForgetClassTogether:
    """The request of all, from a request or targets, probes and labels of each; no probe may be here at all.

    Raises:
        TypeError, ValueError: naming the argument; requests of other kinds than classes.
    """
    if isinstance(request, ForgetClass):
        request, probes, labels, names = request.targets, request.probes, request.labels, request.class_names
    elif isinstance(request, Request):
        raise ValueError(f"group: requests to forget a {request.kind} are carried out by one process")
    if isinstance(probes, SyntheticProbes):
        raise ValueError("group: probes are synthesised by one process")
    names = given_names(names)
    targets = check_targets(indices_of(request, names))
    images, beside = _part("probes", probes, device)
    labels = beside if labels is None else labels
    if labels is None and len(targets) > 1:
        raise ValueError("probe_labels: needed with several targets, to say which probe belongs to which")
    if labels is None:
        own = torch.full((len(images),), targets[0], device=images.device)
    else:
        own = check_labels("probe_labels", labels, len(images), images.device)
    everyone = group.gather(own)
    if len(everyone) and set(everyone.unique().tolist()) != set(targets):
        found = sorted(everyone.unique().tolist())
        raise ValueError(f"probe_labels: expected each of the targets {targets}, got {found}")
    return ForgetClassTogether(tuple(targets), images, everyone, {t: names[t] for t in targets if t in names})


def shared_images(name: str, given: Any, device: torch.device) -> Any:
    """Retain images, with labels or without, or labelled ones to judge by; None stays None."""
    if given is None:
        return None
    images, labels = _part(name, given, device)
    if labels is None and name != "evaluate_on":
        return images
    if labels is None:
        raise TypeError(f"{name}: expected a pair (images, labels), got {type(given).__name__}")
    return images, check_labels(f"{name} labels", labels, len(images), images.device)


def check_alike(group: Group, model: nn.Module, method: Method, request: Request, given: dict[str, Any]) -> None:
    """ValueError in all processes, saying what it is that they do not have in common.

    given: name -> images, a pair of images and labels, or None.
    """
    if (why := method.why_alone()) is not None:
        raise ValueError(f"group: {why}")
    for name, value in (("targets", request.classes), ("method", (method.name, method.asked))):
        if not group.same(digest_of(value)):
            raise ValueError(f"{name}: not the same in all processes, here {value}")
    for name, images in ({"probes": request.probes} | given).items():
        kind = type(images).__name__, *(_kind(part) for part in (images if isinstance(images, tuple) else [images]))
        if not group.same(kind):
            raise ValueError(f"{name}: of another kind in another process, here {kind}; give an empty part, not None")
    if not group.same(model_digest(model)):
        raise ValueError("model: its tensors are not the same in all processes")


def _part(name: str, given: Any, device: torch.device) -> tuple[Tensor, Any]:
    """Images in memory, maybe none, and the labels that they bring."""
    images, labels = images_of(name, given, finite=True)
    if isinstance(images, ImageStream):
        found = images.on(device).tensor()
        return found, images.labels if labels is None else labels
    return check_finite(name, images) if len(images) else images, labels


def _kind(images: Any) -> Sequence[Any]:
    return (images.dtype, tuple(images.shape[1:])) if isinstance(images, Tensor) else (images,)
