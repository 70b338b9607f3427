"""Methods that learn new values: always on a copy of the model, so that the model changes at once or not at all."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

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
    """A method whose edit is what training a copy gives."""

    steps_of_edit: int = 1  # how finely the way from the old to the new values can be cut

    def check_model(self, structure: Any) -> None:
        """Any model that gives logits will do."""

    def propose(self, given: Given) -> Iterator[Proposal]:
        def choose(admitted: Tensor | None) -> Values:
            chosen = slice(None) if admitted is None else admitted.to(given.labels.device)
            student = student_of(given.model)
            with torch.inference_mode(False), torch.enable_grad(), compiled_parts_as_written():
                self.learn(student, given, given.images[chosen], given.labels[chosen])
            return learned_values(given.model, student, self.steps_of_edit)

        yield Proposal((), "values", choose, self.steps_of_edit)

    @abstractmethod
    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        """Change `student`, a copy of the model in evaluation mode, so that it forgets these images' classes."""


def student_of(model: nn.Module) -> nn.Module:
    """A copy whose float parameters take gradients; modules train or evaluate as they do in `model`.

    Raises ValueError for parameters in half precision, in which small steps are lost.
    """
    student = copy.deepcopy(model)
    for name, parameter in student.named_parameters():
        if parameter.is_floating_point() and parameter.dtype not in (torch.float32, torch.float64):
            raise ValueError(
                f"model: must be float32 or float64 for a method that trains, {name!r} is {parameter.dtype}"
            )
        parameter.requires_grad_(parameter.is_floating_point())
    return student


def learned_values(model: nn.Module, student: nn.Module, steps: int = 1) -> Values:
    """What the student learned: all tensors that differ. Counters of batches stay as they are in the model."""
    before, after = Tensors(model), Tensors(student)
    changed = {
        name: after[name].detach()
        for name in before
        if before[name].dim() and not same_bits(before[name], after[name].detach())
    }
    return Values({name: before[name].clone() for name in changed}, changed, steps)


def descend(
    loss_of: Callable[[int], Tensor],
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    steps: int,
    progress: Progress,
    text: str,
) -> None:
    """`steps` steps down loss_of(step). ValueError if the loss becomes infinite or NaN: that is not forgetting."""
    for step in range(steps):
        loss = loss_of(step)
        if not bool(loss.isfinite()):
            raise ValueError(f"learning_rate: the loss at step {step + 1} is {loss.item()}; a smaller one may help")
        gradients: Any = torch.autograd.grad(loss, parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        optimizer.step()
        progress(step + 1, steps, f"{text}, loss {loss.item():.3f}")


def batches_for_ever(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of mini-batches, epoch after epoch, each in a new order."""
    while True:
        yield from torch.randperm(count, generator=generator).split(size)
