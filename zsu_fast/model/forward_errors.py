"""Why a forward pass failed: no memory, other processes, or inputs that the model does not take."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory was asked for and there was none: on the CPU torch raises a plain RuntimeError."""
    refused = ("can't allocate memory", "not enough memory")  # on Windows the latter
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and any(words in str(error) for words in refused)
    )


def raised_in(error: BaseException) -> str:
    """Name of the Python module that raised it, or called what did."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__"))


def may_be_the_inputs(error: BaseException) -> bool:
    """Whether inputs can be why a forward pass raised it: it is not for want of memory, of a device, of a process."""
    of_machine = is_out_of_memory(error) or isinstance(error, torch.AcceleratorError)
    return not of_machine and not raised_in(error).startswith("torch.distributed.")


def not_taken(argument: str, model: object, inputs: Tensor, error: Exception) -> ValueError:
    """What to raise where the model has raised `error` on inputs [N, ...] that came as `argument`.

    It names another device or dtype than the model's, or the shape, with what the model or torch said of it.
    """
    parameters = model.parameters() if isinstance(model, nn.Module) else ()
    first = next((p for p in parameters if p.is_floating_point()), inputs)
    if first.device != inputs.device:
        return ValueError(f"{argument}: on {inputs.device}, the model is on {first.device}")
    if inputs.is_floating_point() and first.dtype != inputs.dtype:
        return ValueError(f"{argument}: {inputs.dtype}, the model is {first.dtype}")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    came = f"a batch of shape {tuple(inputs.shape)}, {inputs.dtype}"
    return ValueError(f"{argument}: the model does not take {came}: {reason}{_hint(inputs)}")


def _hint(images: Tensor) -> str:
    """What pictures often are instead of [N, C, H, W] in floating point."""
    if images.dim() == 3 and images.shape[0] in (1, 3):
        return " (of one image pass [None])"
    if images.dim() == 4 and images.shape[3] in (1, 3) and images.shape[1] not in (1, 3):
        return " (channels come first: permute(0, 3, 1, 2))"
    return "" if images.is_floating_point() else " (pixels must be preprocessed as in training)"
