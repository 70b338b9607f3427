"""Accuracy of the forgotten classes, of the others, and of each class, with confidence intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.batch_size import BatchSize, check_batch_size
from zsu_fast.evaluate.given import check_classes, check_labels, check_targets
from zsu_fast.evaluate.images import Images, ImageStream, images_of, length
from zsu_fast.evaluate.inference import Progress, answers_of, inference_mode, logits_of, run, run_batches
from zsu_fast.evaluate.intervals import wilson_interval
from zsu_fast.evaluate.rows import Rows
from zsu_fast.model.wrapped import check_module


@dataclass(frozen=True, repr=False)
class Evaluation:
    """What a model knows of a set of images. Accuracies are fractions, top-1.

    Attributes:
        forget_accuracy: over the images of the target classes; None if there are none.
        retain_accuracy: over all other images; None if there are none.
        accuracy: over all images; None if there are none.
        per_class: class -> accuracy, for every class that has images, ascending.
        counts: class -> number of images.
        forget_interval, retain_interval: 95 % Wilson intervals (low, high) of the two accuracies; None like them.
        taken_for: class -> how many images of the target classes the model takes for it, the most frequent first.
        targets: the target classes.

        found = zsu_fast.evaluate(model, images, labels, target=3)
        print(f"{found.forget_accuracy:.1%} of the class, {found.retain_accuracy:.1%} of the others")
    """

    forget_accuracy: float | None
    retain_accuracy: float | None
    accuracy: float | None
    per_class: dict[int, float]
    counts: dict[int, int]
    forget_interval: tuple[float, float] | None
    retain_interval: tuple[float, float] | None
    taken_for: dict[int, int]
    targets: list[int]

    def __repr__(self) -> str:
        parts = {"forget": (self.forget_accuracy, self.forget_interval)}
        parts["retain"] = self.retain_accuracy, self.retain_interval
        told = [
            f"{what}={accuracy:.3f} [{interval[0]:.3f}, {interval[1]:.3f}]"
            for what, (accuracy, interval) in parts.items()
            if accuracy is not None and interval is not None
        ]
        told.append(f"{sum(self.counts.values())} images of {len(self.counts)} classes, targets={self.targets}")
        return f"Evaluation({', '.join(told)})"

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can carry it: class indices as text, intervals as lists."""
        plain: dict[str, Any] = {}
        for key, value in asdict(self).items():
            if isinstance(value, dict):
                value = {str(name): item for name, item in value.items()}
            plain[key] = list(value) if isinstance(value, tuple) else value
        return plain


def evaluate(
    model: nn.Module,
    images: Any,
    labels: Tensor | Sequence[int] | None = None,
    target: int | Sequence[int] | None = None,
    *,
    batch_size: BatchSize = 256,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure the forgotten and the kept classes of a classifier.

    The model runs in evaluation mode and without gradients; its train/eval flags and the random number generators
    are put back as they were. A sample whose logits hold NaN counts as wrong whatever its label.

    Args:
        model: returns logits [N, classes] or an object with ``.logits``.
        images: [N, ...], what the model takes (preprocessed), or whatever they can be read from, batch by batch, see
            `zsu_fast.evaluate.images_of`; moved to the model's device batch by batch.
        labels: [N] integer class indices; None: those that come with the images.
        target: the class, or the classes, that count as forgotten.
        batch_size: images in one forward pass; "auto": 256, or as many as there is memory for.
        progress: called as ``progress(done, total, text)`` after every batch.

    Raises:
        TypeError: images, labels or target of a wrong type, or a model that is none or returns no logits.
        ValueError: labels or target that are no class of the model, images that it does not take.
    """
    check_module(model)
    found, beside = images_of("images", images)
    labels = beside if labels is None else labels  # type: ignore[assignment]
    truth = None
    if isinstance(found, Tensor) or labels is not None:
        truth = check_labels("labels", labels, len(found))
    targets = check_targets(target)

    predictions = predict(model, found, batch_size=batch_size, progress=progress, labels=truth, targets=targets)
    if truth is None:
        assert isinstance(found, ImageStream)
        truth = check_labels("labels", found.labels, len(found))
    return summarise(predictions, truth, targets)


def summarise(predictions: Tensor, labels: Tensor, targets: Sequence[int]) -> Evaluation:
    """The Evaluation of predictions int64 [N] (see :func:`predict`) against labels int64 [N], both on the CPU."""
    correct = predictions == labels
    forget = torch.isin(labels, torch.tensor(list(targets)))
    per_class: dict[int, float] = {}
    counts: dict[int, int] = {}
    for label in labels.unique().tolist():
        of_class = labels == label
        counts[label] = int(of_class.sum())
        per_class[label] = int(correct[of_class].sum()) / counts[label]
    forget_accuracy, forget_interval = _accuracy(correct[forget])
    retain_accuracy, retain_interval = _accuracy(correct[~forget])
    answers, frequency = predictions[forget].unique(return_counts=True)
    taken_for = dict(sorted(zip(answers.tolist(), frequency.tolist(), strict=True), key=lambda pair: -pair[1]))
    return Evaluation(
        forget_accuracy=forget_accuracy,
        retain_accuracy=retain_accuracy,
        accuracy=_accuracy(correct)[0],
        per_class=per_class,
        counts=counts,
        forget_interval=forget_interval,
        retain_interval=retain_interval,
        taken_for=taken_for,
        targets=list(targets),
    )


def predict(
    model: nn.Module,
    images: Images,
    *,
    batch_size: BatchSize = 256,
    progress: Progress | None = None,
    labels: Tensor | None = None,
    targets: Sequence[int] = (),
) -> Tensor:
    """Top-1 classes, int64 [N] on the CPU; -1 where the logits hold NaN.

    ``labels`` and ``targets``, if given, are checked against the number of classes as soon as it is known, with
    the first batch, so that a wrong one does not cost a whole pass.
    """
    images, _ = images_of("images", images)
    check_batch_size(batch_size)
    found = Rows(length(images))

    def answers(batch: Tensor) -> Tensor:
        return logits_of(run(model, batch))

    with inference_mode(model):
        for logits in run_batches(answers, model, images, batch_size, progress, "evaluate"):
            if not len(found):
                if logits.is_meta:
                    raise ValueError("model: its logits are on the meta device, without values; load its weights first")
                if targets:
                    check_targets(targets, logits.shape[1])
                if labels is not None:
                    check_classes("labels", labels, logits.shape[1])
            found.add(answers_of(logits))
    return found.tensor()


def _accuracy(correct: Tensor) -> tuple[float | None, tuple[float, float] | None]:
    total, right = correct.numel(), int(correct.sum())
    if total == 0:
        return None, None
    return right / total, wilson_interval(right, total)
