"""Running a model without leaving a trace in it: evaluation mode, no gradient, batches; everything put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.batch_size import BatchSize, fitting, halving
from zsu_fast.evaluate.images import Images, length
from zsu_fast.model.forward_errors import may_be_the_inputs, not_taken
from zsu_fast.model.wrapped import check_module, lock_of

Progress = Callable[[int, int, str], None]
_Found = TypeVar("_Found")


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradient inside; the train/eval flag of every module and the RNG as before outside.

    One thread at a time for each model: they would put back each other's flags. The flags are set one by one and not
    with ``model.eval()``: a module may override ``train`` with side effects (merging adapters, freezing), which a
    restore could not undo.

    Raises:
        TypeError: it is no module; with what to pass instead.
    """
    check_module(model)
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
        hint = "; what a language model says is forgotten by a ForgetText" if logits.dim() == 3 else ""
        raise ValueError(f"model must return logits of shape [N, classes], got {list(logits.shape)}{hint}")
    return logits


def answers_of(logits: Tensor) -> Tensor:
    """Logits [N, classes] -> top-1 classes, int64 [N] on the CPU; -1 where there is NaN: that is no answer."""
    return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1).cpu()


def forward_batches(
    model: nn.Module,
    images: Images,
    batch_size: BatchSize,
    progress: Progress | None = None,
    text: str = "evaluate",
    argument: str = "images",
) -> Iterator[object]:
    """The model's outputs, one batch after another; images go to the model's device batch by batch.

    To be used inside :func:`inference_mode`. ``progress(done, total, text)`` is called after each batch; of a stream
    whose length is not known before its end, total is what is done. ``argument`` names the images in errors.
    """
    return run_batches(partial(run, model, argument=argument), model, images, batch_size, progress, text)


def run_batches(
    call: Callable[[Tensor], _Found],
    model: nn.Module,
    images: Images,
    batch_size: BatchSize,
    progress: Progress | None,
    text: str,
    most: int = 256,
) -> Iterator[_Found]:
    """`call` of each batch, on the model's device; "auto": of `most` images, or as many as there is memory for.

    Where it runs out all the same, in parts half as large from the batch on that was too much.
    """
    if batch_size != "auto":
        return map(call, batches_for(model, images, batch_size, progress, text))
    if length(images) == 0:
        return iter(())
    size = fitting(call, images[:2].to(model_device(model, images.device)), most)
    return halving(call, batches_for(model, images, size, progress, text))


def batches_for(
    model: nn.Module, images: Images, batch_size: int, progress: Progress | None = None, text: str = "evaluate"
) -> Iterator[Tensor]:
    """The batches that :func:`forward_batches` runs, on the model's device."""
    device = model_device(model, images.device)
    expected = length(images)
    done = 0
    for batch in images.split(min(batch_size, 2**31)) if expected != 0 else ():  # torch takes no larger ones
        yield batch.to(device, non_blocking=True)
        done += len(batch)
        if progress is not None:
            progress(done, done if expected is None else expected, text)


def run(model: nn.Module, batch: Tensor, argument: str = "images") -> object:
    """The model's output. ValueError, naming ``argument``, where the model does not take such a batch."""
    try:
        return model(batch)
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        if not may_be_the_inputs(error):
            raise
        raise not_taken(argument, model, batch, error) from error


def model_device(model: nn.Module, default: torch.device) -> torch.device:
    """The device of the first parameter or buffer; ``default`` for a model that has none."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return default


def cuda_devices(model: nn.Module) -> list[torch.device]:
    """The CUDA devices that the parameters are on."""
    return sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=lambda d: d.index or 0)
