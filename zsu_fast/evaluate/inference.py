"""Running a model without leaving a trace in it: evaluation mode, no gradient, batches; everything put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from zsu_fast.model.wrapped import lock_of

Progress = Callable[[int, int, str], None]


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient inside; the train/eval flag of every module and the RNG as before outside.

    One thread at a time for each model: they would put back each other's flags. The flags are set one by one and not
    with ``model.eval()``: a module may override ``train`` with side effects (merging adapters, freezing), which a
    restore could not undo.
    """
    with lock_of(model), torch.random.fork_rng(devices=cuda_devices(model)), torch.no_grad():
        flags = [(module, module.training) for module in model.modules()]
        try:
            for module, _ in flags:
                module.training = False
            yield
        finally:
            for module, flag in flags:
                module.training = flag


def logits_of(output: object) -> Tensor:
    """The logits [N, classes] in what a model returned: the tensor itself, or its attribute ``logits``.

    Raises:
        TypeError: if there is no tensor to be found.
        ValueError: if it is not of shape [N, classes].
    """
    logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(logits, Tensor):
        raise TypeError(f"model must return logits or an object with .logits, got {type(output).__name__}")
    if logits.dim() != 2:
        raise ValueError(f"model must return logits of shape [N, classes], got {list(logits.shape)}")
    return logits


def answers_of(logits: Tensor) -> Tensor:
    """Logits [N, classes] -> top-1 classes, int64 [N] on the CPU; -1 where there is NaN: that is no answer."""
    return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1).cpu()


def forward_batches(
    model: nn.Module, images: Tensor, batch_size: int, progress: Progress | None = None, text: str = "evaluate"
) -> Iterator[object]:
    """The model's outputs, one batch after another; images go to the model's device batch by batch.

    To be used inside :func:`inference_mode`. ``progress(done, total, text)`` is called after each batch.
    """
    device = model_device(model, images.device)
    total = images.shape[0]
    for start in range(0, total, batch_size):
        batch = images[start : start + batch_size]
        yield model(batch.to(device, non_blocking=True))
        if progress is not None:
            progress(min(start + batch_size, total), total, text)


def model_device(model: nn.Module, default: torch.device) -> torch.device:
    """The device of the first parameter or buffer; ``default`` for a model that has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return default


def check_images(images: object, batch_size: int, name: str = "images") -> Tensor:
    """``images`` if it is a tensor [N, ...]; refuses it, or a bad ``batch_size``, by name otherwise."""
    if not isinstance(images, Tensor):
        raise TypeError(f"{name} must be a tensor of shape [N, ...], got {type(images).__name__}")
    if images.dim() < 2:
        raise ValueError(f"{name} must have a batch dimension first, shape [N, ...], got {list(images.shape)}")
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be an integer of at least 1, got {batch_size!r}")
    return images


def check_labels(labels: Tensor | Sequence[int], count: int, name: str = "labels") -> Tensor:
    """``labels`` as int64 [count] on the CPU.

    Raises:
        TypeError: if they are not integers.
        ValueError: if the shape is not [count] or one is negative.
    """
    try:
        tensor = torch.as_tensor(labels).detach().cpu()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise TypeError(
            f"{name} must be integers (class indices), got {type(labels).__name__} of other things"
        ) from None
    if tensor.numel() and (tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool):
        raise TypeError(f"{name} must be integers (class indices), got dtype {tensor.dtype}")
    if tuple(tensor.shape) != (count,):
        raise ValueError(f"{name} must be of shape [{count}], one for each image, got {list(tensor.shape)}")
    tensor = tensor.to(torch.int64)
    if count and int(tensor.min()) < 0:
        raise ValueError(
            f"{name} must be class indices >= 0, got {int(tensor.min())} at position {int(tensor.argmin())}"
        )
    return tensor


def check_labelled(
    given: object, batch_size: int, name: str = "images", labels: str = "labels"
) -> tuple[Tensor, Tensor]:
    """A pair (images [N, ...], labels [N]) of at least one image; the labels as int64 on the CPU."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(f"{name} must be a pair (images, labels), got {type(given).__name__}")
    images = check_images(given[0], batch_size, name)
    if images.shape[0] == 0:
        raise ValueError(f"{name} must hold at least one image, got none")
    return images, check_labels(given[1], images.shape[0], labels)


def check_classes(labels: Tensor, classes: int, name: str = "labels") -> None:
    """Refuses labels int64 [N] that are not classes of a model with so many."""
    if labels.numel() and int(labels.max()) >= classes:
        where = int(labels.argmax())
        raise ValueError(
            f"{name} must be in 0..{classes - 1}, the classes of the model, "
            f"got {int(labels[where])} at position {where}"
        )


def check_seed(seed: object) -> int:
    """``seed`` if torch, numpy and scikit-learn all take it."""
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer in 0..2**32-1, got {seed!r}")
    return seed


def check_targets(target: int | Sequence[int] | Tensor, classes: int | None = None) -> list[int]:
    """``target`` as a list of distinct class indices.

    Raises:
        TypeError: if it holds something else than integers.
        ValueError: if it is empty, repeats a class, or a class is outside 0..classes-1.
    """
    values = target.tolist() if isinstance(target, Tensor) else target
    if not isinstance(values, Sequence):
        values = [values] if not hasattr(values, "__iter__") else list(values)
    if isinstance(values, str) or any(isinstance(v, bool) or not hasattr(v, "__index__") for v in values):
        raise TypeError(f"target must be a class index or a sequence of them, got {target!r}")
    targets = [int(v) for v in values]
    if not targets:
        raise ValueError("target must name at least one class, got none")
    if len(set(targets)) != len(targets):
        raise ValueError(f"target must not repeat a class, got {targets}")
    for value in targets:
        if value < 0 or (classes is not None and value >= classes):
            raise ValueError(f"target must be in 0..{'classes' if classes is None else classes}-1, got {value}")
    return targets


def cuda_devices(model: nn.Module) -> list[torch.device]:
    """The CUDA devices that the parameters are on."""
    return sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=lambda d: d.index or 0)
