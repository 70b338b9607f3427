"""Relearning by whoever wants the class back: of several optimisers and rates the one that serves him best counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

from torch import Tensor, nn

from zsu_fast.evaluate.accuracy import predict
from zsu_fast.evaluate.fresh_row import row_for
from zsu_fast.evaluate.inference import Progress
from zsu_fast.evaluate.relearn import DivergedError, learning

Setting = tuple[str, float]
SETTINGS: tuple[Setting, ...] = (("adam", 1e-4), ("adam", 1e-3), ("sgd", 1e-2), ("sgd", 1e-1))
"""(optimiser, learning rate). Small nets come back by the large rates, which ruin large ones."""


@dataclass(frozen=True)
class Relearned:
    """By the strongest setting. rates: float64 [M], 1 for each test image that gets its class.

    fresh_row: whether the class began with a prototype row in place of the one that the model had.
    """

    rates: Tensor
    setting: Setting
    fresh_row: bool


def strongest_relearning(
    model: nn.Module,
    lessons: tuple[Tensor, Tensor],
    test: tuple[Tensor, Tensor],
    target: int,
    *,
    steps: Sequence[int],
    settings: Sequence[Setting] = SETTINGS,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[int, Relearned]:
    """After each of `steps` mini-batches: what the best setting has back, judged on the test images themselves.

    The best is the one with the highest accuracy, mean over the classes: whoever answers the class to everything has
    nothing back, and with the class its confusions return, which are no damage. A setting that diverges is left out.
    Picked by the test images, the figure is an upper bound of what such an attacker gets, for each model alike.

    With lessons of the class and of others each setting is tried twice: from the model as it is, and with the class's
    prototype row put in place of its own (see `row_for`), which edits like to turn far away.

    Args:
        lessons, test: (images, labels int64 on the CPU), checked; test holds images of the target and of others.

    Raises:
        ValueError: all settings diverge; or naming the argument.
    """
    images, labels = lessons
    judging, truth = test
    classes = [truth == label for label in truth.unique()]
    starts: list[Callable[[nn.Module], None] | None] = [None]
    if 0 < int((labels == target).sum()) < len(labels):
        put = row_for(model, images, labels, target, batch_size, progress)
        starts += [] if put is None else [put]
    found: dict[int, list[Relearned]] = {step: [] for step in steps}
    for start, (optimizer, rate) in product(starts, settings):
        try:
            for step, student in learning(
                model, images, labels, max(steps), rate, batch_size, seed=seed, optimizer=optimizer, prepare=start
            ):
                if step in found:
                    right = _right(student, judging, truth, batch_size)
                    found[step].append(Relearned(right, (optimizer, rate), start is not None))
                if progress is not None and step:
                    progress(step, max(steps), f"relearn by {optimizer}, {rate:g}{', fresh row' if start else ''}")
        except DivergedError:
            continue
    if not all(found.values()):
        raise ValueError("relearn_by: every setting makes the loss infinite or NaN; smaller rates may help")

    def strength(one: Relearned) -> float:
        return sum(float(one.rates[own].mean()) for own in classes) / len(classes)

    return {step: max(of_step, key=strength) for step, of_step in found.items()}


def _right(model: nn.Module, images: Tensor, truth: Tensor, batch_size: int) -> Tensor:
    return (predict(model, images, batch_size=batch_size) == truth).double()
