"""Boundary unlearning: the region of the class is given to its neighbours, or to a class that is then cut off."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.baselines.baseline import (
    Baseline,
    LearningOptions,
    Trainer,
    check_floating,
    cross_entropy,
    default,
    logits,
    on_device_of,
)
from zsu_fast.unlearn.options import check_positive, option
from zsu_fast.unlearn.structure import Head, Structure


@dataclass(frozen=True)
class BoundaryOptions(LearningOptions):
    learning_rate: float = default(LearningOptions, "learning_rate", 1e-5)


@dataclass(frozen=True)
class BoundaryShrinkOptions(BoundaryOptions):
    bound: float = option("Step towards the boundary, in units of the model-ready images.", 0.1)

    def check(self) -> None:
        super().check()
        check_positive("bound", self.bound)


class BoundaryShrink(Baseline):
    """Each image is learned with its nearest wrong label: the best other answer after one step up its loss (FGSM).

    Needs images of the class alone. BatchNorm statistics stay. Source: Chen et al., "Boundary unlearning", CVPR 2023
    (arXiv 2303.11570).
    """

    name: ClassVar[str] = "boundary-shrink"
    options: ClassVar[type[BoundaryShrinkOptions]] = BoundaryShrinkOptions
    resumable: ClassVar[bool] = True

    asked: BoundaryShrinkOptions

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        check_floating("probes", images, self.name)
        given.count(len(images))
        parts = [on_device_of(student, c, images, labels) for c in torch.arange(len(images)).split(256)]
        wrong = torch.cat([nearest_wrong_labels(student, x, y, self.asked.bound, given.targets) for x, y in parts])
        Trainer(student, given, self.asked).epochs(images, wrong, cross_entropy(student), "boundary-shrink")


def nearest_wrong_labels(
    model: nn.Module, images: Tensor, labels: Tensor, bound: float, targets: tuple[int, ...]
) -> Tensor:
    """int64 [N]: the best answer that is no target, at x + bound sign(gradient of the cross entropy by x)."""
    images = images.detach().clone().requires_grad_()
    found = logits(model, images)
    loss = F.cross_entropy(found, labels.to(found.device), reduction="sum")
    (gradient,) = torch.autograd.grad(loss, images)
    with torch.no_grad():
        found = logits(model, images + bound * gradient.sign())
    return found.index_fill(1, torch.tensor(targets, device=found.device), -torch.inf).argmax(1)


class BoundaryExpand(Baseline):
    """The classifier gets one more row, the images of the class are learned as that class, and the row is cut off.

    Needs images of the class alone, and a model whose logits are the units of a linear layer, in their order. BatchNorm
    statistics stay. Source: Chen et al., "Boundary unlearning", CVPR 2023 (arXiv 2303.11570).
    """

    name: ClassVar[str] = "boundary-expand"
    options: ClassVar[type[BoundaryOptions]] = BoundaryOptions
    resumable: ClassVar[bool] = True

    asked: BoundaryOptions

    def check_model(self, structure: Structure) -> None:
        if structure.head is None:
            raise ValueError(f'method: "{self.name}" needs a classifier to widen, and {structure.no_head}')
        if structure.head.rows != list(range(len(structure.head.rows))):
            raise ValueError(f'method: "{self.name}" needs the rows of {structure.head.name!r} in the order of classes')

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        head = given.structure.head
        assert head is not None
        shadow = len(head.rows)
        generator = torch.Generator().manual_seed(self.asked.seed)
        resize(student, head, shadow + 1, generator)
        width = logits(student, *on_device_of(student, torch.arange(1), images)).shape[1]
        if width != shadow + 1:
            raise ValueError(f"model: gives {width} logits where its classifier has {shadow + 1} rows")
        expanded = torch.full_like(labels, shadow)
        Trainer(student, given, self.asked).epochs(images, expanded, cross_entropy(student), "boundary-expand")
        resize(student, head, shadow, generator)


def resize(model: nn.Module, head: Head, rows: int, generator: torch.Generator) -> None:
    """Weight and bias of the classifier with so many rows; new ones are drawn as `nn.Linear` draws them."""
    for name in filter(None, (head.weight, head.bias)):
        module_name, _, attribute = name.rpartition(".")
        module = model.get_submodule(module_name)
        old = getattr(module, attribute).detach()
        bound = 1 / math.sqrt(head.features)
        new = (2 * torch.rand(max(0, rows - len(old)), *old.shape[1:], generator=generator) - 1) * bound
        setattr(module, attribute, nn.Parameter(torch.cat([old[:rows], new.to(old)])))
