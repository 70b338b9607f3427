"""Does the class come back? A copy of an edited model is fine-tuned a little, and the class is watched meanwhile.

Knowledge that was only hidden returns within a few steps, from a few images of the class, or even from images of other
classes alone; a model that never knew the class has to learn it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zsu_fast.evaluate.accuracy import Evaluation, evaluate
from zsu_fast.evaluate.fresh_row import row_for
from zsu_fast.evaluate.given import (
    check_classes,
    check_images,
    check_int,
    check_labels,
    check_seed,
    check_targets,
)
from zsu_fast.evaluate.images import check_labelled
from zsu_fast.evaluate.inference import Progress, cuda_devices, inference_mode, logits_of, model_device

OPTIMIZERS: dict[str, Callable[[list[nn.Parameter], float], torch.optim.Optimizer]] = {
    "adam": lambda learned, rate: torch.optim.Adam(learned, lr=rate),
    "sgd": lambda learned, rate: torch.optim.SGD(learned, lr=rate, momentum=0.9),
}


class DivergedError(ValueError):
    """The loss became infinite or NaN."""


@dataclass(frozen=True)
class Relearning:
    """What a model knew after so many steps of fine-tuning. Accuracies are fractions, top-1, on the test images.

    Attributes:
        steps: after how many mini-batches was measured, ascending, from 0: before the first.
        evaluations: what was measured then.
        images: images that were learned from.
        target_images: those of them that are of the target classes; 0 is the retain-only test.
    """

    steps: tuple[int, ...]
    evaluations: tuple[Evaluation, ...]
    images: int
    target_images: int

    @property
    def retain_only(self) -> bool:
        """Whether images of other classes alone were learned from."""
        return self.target_images == 0

    @property
    def forget_accuracy(self) -> list[float]:
        """On the target classes, one for each of `steps`."""
        return [e.forget_accuracy for e in self.evaluations if e.forget_accuracy is not None]

    @property
    def retain_accuracy(self) -> list[float | None]:
        """On all others, likewise; None if the test has none."""
        return [e.retain_accuracy for e in self.evaluations]

    def relearn_time(
        self, reference: float, tolerance: float = 0.05, *, retain_reference: float | None = None
    ) -> int | None:
        """Steps until the accuracy on the class reaches (1 - tolerance) of a reference, None if it does not.

        It is r_t of Chundawat et al., "Zero-shot machine unlearning" (2023), to the resolution of `steps`; see
        :func:`anamnesis_index`.

        Args:
            reference: accuracy of the original model on the class, in (0, 1].
            tolerance: in [0, 1); theirs is 0.05.
            retain_reference: accuracy of the original model on the others. If given, that must be there as well:
                whatever is shown the class alone soon says nothing else, and is right about all of its images.
        """
        for name, value in (("reference", reference), ("retain_reference", retain_reference)):
            if value is not None and not 0.0 < value <= 1.0:
                raise ValueError(f"{name} must be an accuracy in (0, 1], got {value}")
        if not 0.0 <= tolerance < 1.0:
            raise ValueError(f"tolerance must lie in [0, 1), got {tolerance}")
        for step, forget, retain in zip(self.steps, self.forget_accuracy, self.retain_accuracy, strict=True):
            kept = retain_reference is None or (retain is not None and retain >= (1.0 - tolerance) * retain_reference)
            if kept and forget >= (1.0 - tolerance) * reference:
                return step
        return None

    def to_dict(self) -> dict[str, Any]:
        """As JSON can carry it."""
        return {
            "steps": list(self.steps),
            "forget_accuracy": self.forget_accuracy,
            "forget_interval": [list(e.forget_interval or ()) for e in self.evaluations],
            "retain_accuracy": self.retain_accuracy,
            "images": self.images,
            "target_images": self.target_images,
            "retain_only": self.retain_only,
        }


def anamnesis_index(
    edited: Relearning,
    oracle: Relearning,
    reference: float,
    tolerance: float = 0.05,
    *,
    retain_reference: float | None = None,
) -> float | None:
    """r_t of an edited model over r_t of one that was retrained without the class, see `Relearning.relearn_time`.

    Ideal 1; less if knowledge was left, more if the edit stands in the way of learning ("Streisand effect"). Infinite
    if only the retrained model reaches the accuracy. None if it does not, or has it before the first step: then
    nothing can be said. Source: Chundawat et al., "Zero-shot machine unlearning" (2023).

    Args:
        edited, oracle: what `relearn` found by the same call but for the model.
        reference, tolerance, retain_reference: as in `Relearning.relearn_time`.

    Raises:
        ValueError: measured after other steps, or on other images; naming the argument.
    """
    if (edited.steps, edited.images, edited.target_images) != (oracle.steps, oracle.images, oracle.target_images):
        raise ValueError("edited, oracle: expected the same call of relearn, got other steps or images to learn from")
    own, others = (
        curve.relearn_time(reference, tolerance, retain_reference=retain_reference) for curve in (edited, oracle)
    )
    if not others:
        return None
    return math.inf if own is None else own / others


def relearn(
    model: nn.Module,
    images: Tensor,
    labels: Tensor | Sequence[int],
    target: int | Sequence[int],
    *,
    test: tuple[Tensor, Tensor | Sequence[int]],
    steps: int | Sequence[int] = 64,
    learning_rate: float = 1e-4,
    batch_size: int = 256,
    parameters: Sequence[str] = ("*",),
    optimizer: str = "adam",
    fresh_row: bool = False,
    seed: int = 0,
    progress: Progress | None = None,
) -> Relearning:
    """Fine-tune a copy of a model and measure how fast the class comes back; the model itself is not touched.

    Give images of the class and of others for few-shot relearning, images of others only for the retain-only test.
    Compare with the same call on the original model, and best with a model that was retrained without the class: no
    curve says anything by itself, for every network learns a class sooner or later.

    The copy learns on the cross-entropy in evaluation mode: BatchNorm works with the statistics that it has and keeps
    them, so that what comes back comes by the weights; dropout is off. A hidden unit before a ReLU that was masked
    exactly has no gradient and stays masked; the class returns by others, if at all.

    Args:
        model: returns logits [N, classes] or an object with ``.logits``; float32 or float64, frozen or not.
        images, labels: what to learn from: [N, ...], model-ready, and [N] integer class indices.
        target: the class, or the classes, that count as forgotten.
        test: (images, labels) to measure on, other ones, with images of the target among them. Logits that hold NaN
            count as wrong.
        steps: mini-batches to learn from; measured after 0, 1, 2, 4, 8 ... and the last. Or the steps to measure at.
        learning_rate: 1e-3, that of the source, is for small networks: it ruins a trained transformer.
        batch_size: images in a mini-batch, and in a forward pass of the test. Each epoch has an order of its own.
        parameters: patterns for the names of those that learn, such as "layer4.*"; all others stay as they are.
        optimizer: "adam", with the defaults of torch, or "sgd" with a momentum of 0.9, by which small networks come
            back sooner at rates of 0.01 to 0.1.
        fresh_row: begin with the class's prototype row (`zsu_fast.evaluate.prototype_row`, of all its images) in place
            of the model's own, from which it may be a long way back whatever the features know. For one class.
        seed: of the order of the images. On the CPU, the same seed gives the same result.
        progress: called as ``progress(done, total, text)`` after every step.

    Raises:
        TypeError, ValueError: naming the argument; or the loss became infinite or NaN, which a curve would show as
            forgetting.

    Source: relearn time, by Adam (1e-3) in mini-batches of 256: V. S. Chundawat et al., "Zero-shot machine
    unlearning", IEEE TIFS 18 (2023), and its code; learning from the other classes alone: arXiv 2505.22310.
    """
    images = check_images("images", images, 1)
    truth = check_labels("labels", labels, len(images))
    test_images, test_truth = check_labelled("test", test)
    check_int("batch_size", batch_size, 1)
    targets = check_targets(target)
    measured = _measured(steps)
    of_target = torch.tensor(targets)
    prepare = _row_put(model, images, truth, targets, batch_size) if fresh_row else None
    if not bool(torch.isin(test_truth, of_target).any()):
        raise ValueError(f"test must hold images of the target {targets}, got none")
    found: list[Evaluation] = []
    for step, student in learning(
        model, images, truth, measured[-1], learning_rate, batch_size, parameters, seed, optimizer, prepare
    ):
        if not step:
            with inference_mode(student):
                classes = logits_of(student(images[:1].to(model_device(student, images.device)))).shape[1]
            check_targets(targets, classes)
            check_classes("labels", truth, classes)
            check_classes("test labels", test_truth, classes)
        if step in measured:
            found.append(evaluate(student, test_images, test_truth, targets, batch_size=batch_size))
        if progress is not None and step:
            progress(step, measured[-1], "relearn")
    return Relearning(tuple(measured), tuple(found), len(truth), int(torch.isin(truth, of_target).sum()))


def check_optimizer(optimizer: object, learning_rate: object, of: str = "") -> None:
    """ValueError, naming the one that is wrong. of: what they are given as, and a colon."""
    if optimizer not in OPTIMIZERS:
        raise ValueError(f"{of}optimizer must be one of {', '.join(OPTIMIZERS)}, got {optimizer!r}")
    if not isinstance(learning_rate, float | int) or not 0.0 < learning_rate < math.inf:
        raise ValueError(f"{of}learning_rate must be a positive number, got {learning_rate!r}")


def learning(
    model: nn.Module,
    images: Tensor,
    truth: Tensor,
    steps: int,
    learning_rate: float,
    batch_size: int,
    parameters: Sequence[str] = ("*",),
    seed: int = 0,
    optimizer: str = "adam",
    prepare: Callable[[nn.Module], object] | None = None,
) -> Iterator[tuple[int, nn.Module]]:
    """(0, a copy of the model), then the copy after 1, 2, .. `steps` mini-batches; see :func:`relearn`.

    prepare: what the attacker does to the copy before anything.
    """
    check_optimizer(optimizer, learning_rate)
    generator = torch.Generator().manual_seed(check_seed(seed))
    # Whoever calls this inside of no_grad or inference_mode gets the same.
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=cuda_devices(model)):
        student = copy.deepcopy(model)
        if prepare is not None:
            prepare(student)
        learned = _learned(student, parameters)
        for module in student.modules():
            module.training = False
        stepping = OPTIMIZERS[optimizer](learned, float(learning_rate))
        batches = _batches(len(truth), batch_size, generator)
        yield 0, student
        for step in range(1, steps + 1):
            chosen = next(batches)
            _step(student, images[chosen.to(images.device)], truth[chosen], learned, stepping, step)
            yield step, student


def _row_put(
    model: nn.Module, images: Tensor, truth: Tensor, targets: Sequence[int], batch_size: int
) -> Callable[[nn.Module], None]:
    """What puts a fresh row in place; ValueError where that cannot be."""
    if len(targets) != 1:
        raise ValueError(f"fresh_row is for one class, got {len(targets)}")
    if not 0 < int((truth == targets[0]).sum()) < len(truth):
        raise ValueError("fresh_row needs images of the class and of others")
    put = row_for(model, images, truth, targets[0], batch_size)
    if put is None:
        raise ValueError("fresh_row: the model has no linear classifier with a bias whose row could be replaced")
    return put


def _measured(steps: int | Sequence[int]) -> list[int]:
    given = [steps] if isinstance(steps, int) else list(steps)
    if not given or any(isinstance(s, bool) or not isinstance(s, int) or s < 0 for s in given) or max(given) < 1:
        raise ValueError(f"steps must be an integer of at least 1, or several to measure at, got {steps!r}")
    if isinstance(steps, int):
        given += [2**i for i in range(steps.bit_length())]
    return sorted({0, *given})


def _learned(student: nn.Module, patterns: Sequence[str]) -> list[nn.Parameter]:
    """The parameters that learn, made to take gradients; all others are made not to."""
    if isinstance(patterns, str) or not all(isinstance(pattern, str) for pattern in patterns):
        raise TypeError(f"parameters must be a sequence of patterns for names, got {patterns!r}")
    chosen = []
    for name, parameter in student.named_parameters():
        wanted = parameter.is_floating_point() and any(fnmatchcase(name, pattern) for pattern in patterns)
        if wanted and parameter.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"model must be float32 or float64 to be fine-tuned, {name!r} is {parameter.dtype}")
        parameter.requires_grad_(wanted)
        if wanted:
            chosen.append(parameter)
    if not chosen:
        raise ValueError(f"parameters: no parameter of the model has a name like {', '.join(patterns) or 'none'}")
    return chosen


def _batches(count: int, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    while True:
        yield from torch.randperm(count, generator=generator).split(batch_size)


def _step(
    student: nn.Module,
    batch: Tensor,
    labels: Tensor,
    learned: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    step: int,
) -> None:
    device = model_device(student, batch.device)
    logits = logits_of(student(batch.to(device)))
    loss = F.cross_entropy(logits, labels.to(logits.device))
    if not bool(loss.isfinite()):
        raise DivergedError(f"learning_rate: the loss at step {step} is {loss.item()}; a smaller one may help")
    # Not backward(): should the model reach tensors beyond its copy, they get no gradient from this.
    gradients = torch.autograd.grad(loss, learned, allow_unused=True) if loss.requires_grad else [None]
    if all(gradient is None for gradient in gradients):
        # A curve without learning would look like perfect forgetting.
        raise ValueError("model: no gradient reaches its parameters; does it run without gradients, or on others?")
    for parameter, gradient in zip(learned, gradients, strict=True):
        parameter.grad = gradient
    optimizer.step()
