"""Methods that learn new values: always on a copy of the model, so that the model changes at once or not at all."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.inference import cuda_devices
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.model.tensors import Tensors, same_bits
from zsu_fast.unlearn.checkpoint import Stretch
from zsu_fast.unlearn.edits import Edits, Replacement
from zsu_fast.unlearn.methods.base import Given, Method, Progress, Proposal
from zsu_fast.unlearn.picks import Picks


@dataclass(frozen=True)
class Values:
    """New values of some tensors: an edit of one size."""

    after: dict[str, Tensor]
    largest: int = 1

    def picks(self, size: int) -> Picks:
        return Picks()

    def edits(self, size: int) -> Edits:
        return [Replacement(name, new) for name, new in self.after.items()]


class LearningMethod(Method):
    """A method whose edit is what training a copy gives.

    train_mode: whether the copy is in training mode, so that its BatchNorms normalise by the mini-batch and move their
    statistics, and its dropout drops.
    """

    learns: ClassVar[bool] = True
    train_mode: ClassVar[bool] = False

    def check_model(self, structure: Any) -> None:
        """Any model that gives logits will do."""

    def propose(self, given: Given) -> Iterator[Proposal]:
        yield taught(given, self.learn, self.asked.seed, training=self.train_mode)

    @abstractmethod
    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        """Change `student`, a copy of the model, so that it forgets these images' classes."""


def taught(
    given: Given,
    learn: Callable[[nn.Module, Given, Tensor, Tensor], None],
    seed: int,
    *,
    training: bool = False,
) -> Proposal:
    """What `learn(student, given, images, labels)` makes of a copy of the model, as an edit.

    Where images are held out, `given.retain`, `images` and `labels` are without them.
    """

    def choose(admitted: Tensor | None, kept: Tensor | None) -> Values:
        chosen = slice(None) if admitted is None else admitted.to(given.labels.device)
        learned = given
        if kept is not None and given.retain is not None:
            learned = replace(given, retain=(given.retain[0][kept], given.retain[1][kept]))

        def change(student: nn.Module) -> None:
            learn(student, learned, given.images[chosen], given.labels[chosen])

        return values_of_learning(given.model, change, seed, training=training)

    return Proposal((), "values", choose, 1)


def values_of_learning(
    model: nn.Module, change: Callable[[nn.Module], None], seed: int, *, training: bool = False
) -> Values:
    """What `change` makes of a copy of the model."""
    with torch.inference_mode(False), torch.enable_grad(), compiled_parts_as_written():
        student = student_of(model)
        set_training(student, training)
        seed_default_generators(model, seed)  # the transaction puts them back
        change(student)
    return learned_values(model, student)


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


def learned_values(model: nn.Module, student: nn.Module) -> Values:
    """What the student learned: all tensors that differ. Counters of batches stay as they are in the model."""
    before, after = Tensors(model), Tensors(student)
    once = set(before.by_identity().values())  # a tied weight has several names and is edited under one
    return Values(
        {
            name: after[name]
            for name in before
            if name in once and before[name].dim() and not same_bits(before[name], after[name])
        }
    )


def descend(
    loss_of: Callable[[int], Tensor],
    parameters: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    steps: int,
    progress: Progress,
    text: str,
    stretch: Stretch,
    after_step: Callable[[], None] = lambda: None,
    enough: Callable[[], bool] | None = None,
    clip: float | None = None,
    last: bool = True,
) -> None:
    """`steps` steps down loss_of(step), fewer if after one `enough` is true. clip: largest norm of all gradients.

    stretch: of `Given.stretch`; steps that it has behind it are not taken again. last: of it there are no more steps.

    ValueError if the loss becomes infinite or NaN: that is not forgetting.
    """
    for step in range(steps):
        if stretch.behind():
            continue
        loss = loss_of(step)
        _check_finite(f"the loss at step {step + 1} is {loss.item()}", loss)
        gradients: Any = torch.autograd.grad(loss, parameters, allow_unused=True) if loss.requires_grad else [None]
        if all(gradient is None for gradient in gradients):
            raise ValueError("model: no gradient reaches its parameters; does it run without gradients, or on others?")
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        if clip is not None:
            nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        after_step()
        progress(step + 1, steps, f"{text}, loss {loss.item():.3f}")
        ended = enough is not None and enough()
        stretch.done(ended or (last and step + 1 == steps))
        if ended:
            break
    _check_finite("in the end parameters are infinite or NaN", *parameters)


def _check_finite(found: str, *tensors: Tensor) -> None:
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise ValueError(f"learning_rate: {found}; a smaller one may help")


def mini_batches(count: int, size: int, generator: torch.Generator) -> tuple[Tensor, ...]:
    """Indices of one epoch's mini-batches, in a new order, of nearly equal size: of one image a norm makes nothing."""
    return torch.randperm(count, generator=generator).tensor_split(-(-count // size))


class EndlessBatches(Iterator[Tensor]):
    """Indices of mini-batches, epoch after epoch, each in a new order; of nothing, empty ones.

    epoch: how many make one.
    """

    def __init__(self, count: int, size: int, generator: torch.Generator) -> None:
        self._draw = partial(mini_batches, count, size, generator)
        self.epoch = -(-count // size)
        self._batches: tuple[Tensor, ...] = ()
        self._next = 0

    def __next__(self) -> Tensor:
        if not self.epoch:
            return torch.arange(0)
        if self._next == len(self._batches):
            self._batches, self._next = self._draw(), 0
        self._next += 1
        return self._batches[self._next - 1]

    def state_dict(self) -> dict[str, Any]:
        return {"order": torch.cat(self._batches) if self._batches else None, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        order, self._next = state["order"], state["next"]
        self._batches = () if order is None else order.tensor_split(self.epoch)
