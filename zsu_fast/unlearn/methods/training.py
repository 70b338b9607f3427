"""Methods that learn new values: always on a copy of the model, so that the model changes at once or not at all."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.inference import cuda_devices
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.model.tensors import Tensors, same_bits
from zsu_fast.unlearn.edits import Edits, Replacement
from zsu_fast.unlearn.methods.base import Given, Method, Progress, Proposal
from zsu_fast.unlearn.picks import Picks


@dataclass(frozen=True)
class Values:
    """New values of some tensors; an edit of size n goes n of `largest` equal steps of the straight way to them."""

    before: dict[str, Tensor]
    after: dict[str, Tensor]
    largest: int = 1

    def picks(self, size: int) -> Picks:
        return Picks()

    def edits(self, size: int) -> Edits:
        share = size / self.largest
        return [
            Replacement(name, new if share == 1 or not new.is_floating_point() else self.before[name].lerp(new, share))
            for name, new in self.after.items()
        ]


class LearningMethod(Method):
    """A method whose edit is what training a copy gives.

    train_mode: whether the copy is in training mode, so that its BatchNorms normalise by the mini-batch and move their
    statistics, and its dropout drops.
    """

    steps_of_edit: int = 1  # how finely the way from the old to the new values can be cut
    train_mode: ClassVar[bool] = False

    def check_model(self, structure: Any) -> None:
        """Any model that gives logits will do."""

    def propose(self, given: Given) -> Iterator[Proposal]:
        def choose(admitted: Tensor | None) -> Values:
            chosen = slice(None) if admitted is None else admitted.to(given.labels.device)
            with torch.inference_mode(False), torch.enable_grad(), compiled_parts_as_written():
                student = student_of(given.model)
                set_training(student, self.train_mode)
                seed_default_generators(given.model, self.asked.seed)  # the transaction puts them back
                self.learn(student, given, given.images[chosen], given.labels[chosen])
            return learned_values(given.model, student, self.steps_of_edit)

        yield Proposal((), "values", choose, self.steps_of_edit)

    @abstractmethod
    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        """Change `student`, a copy of the model, so that it forgets these images' classes."""


def student_of(model: nn.Module) -> nn.Module:
    """A copy whose float parameters take gradients, but for single numbers: what is no row cannot be edited.

    Raises ValueError for parameters in half precision, in which small steps are lost.
    """
    student = copy.deepcopy(model)
    for name, parameter in student.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"model: must be float32 or float64 for a method that trains, {name!r} is {parameter.dtype}"
            )
        parameter.requires_grad_(parameter.is_floating_point() and parameter.dim() > 0)
    return student


def set_training(model: nn.Module, training: bool) -> None:
    """Flag by flag: `train()` of a module may do other things too."""
    for module in model.modules():
        module.training = training


def seed_default_generators(model: nn.Module, seed: int) -> None:
    """Of what modules draw: dropout, new parameters. No device but the model's is touched."""
    torch.default_generator.manual_seed(seed)
    for device in cuda_devices(model):
        torch.cuda.default_generators[device.index or 0].manual_seed(seed)


def learned_values(model: nn.Module, student: nn.Module, steps: int = 1) -> Values:
    """What the student learned: all tensors that differ. Counters of batches stay as they are in the model."""
    before, after = Tensors(model), Tensors(student)
    once = set(before.by_identity().values())  # a tied weight has several names and is edited under one
    changed = {
        name: after[name]
        for name in before
        if name in once and before[name].dim() and not same_bits(before[name], after[name])
    }
    return Values({name: before[name].clone() for name in changed}, changed, steps)


def descend(
    loss_of: Callable[[int], Tensor],
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    steps: int,
    progress: Progress,
    text: str,
    after_step: Callable[[], None] = lambda: None,
    enough: Callable[[], bool] = lambda: False,
) -> None:
    """`steps` steps down loss_of(step), fewer if after one `enough` is true.

    ValueError if the loss becomes infinite or NaN: that is not forgetting.
    """
    for step in range(steps):
        loss = loss_of(step)
        _check_finite(f"the loss at step {step + 1} is {loss.item()}", loss)
        gradients: Any = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else [None]
        if all(gradient is None for gradient in gradients):
            raise ValueError("model: no gradient reaches its parameters; does it run without gradients, or on others?")
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        after_step()
        progress(step + 1, steps, f"{text}, loss {loss.item():.3f}")
        if enough():
            break
    _check_finite("in the end parameters are infinite or NaN", *parameters)


def _check_finite(found: str, *tensors: Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError(f"learning_rate: {found}; a smaller one may help")


def mini_batches(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Indices of one epoch's mini-batches, in a new order, of nearly equal size: of one image a norm makes nothing."""
    return torch.randperm(count, generator=generator).tensor_split(-(-count // size))


def batches_for_ever(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of mini-batches, epoch after epoch, each in a new order."""
    while True:
        yield from mini_batches(count, size, generator)
