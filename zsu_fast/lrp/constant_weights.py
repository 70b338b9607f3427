"""Weights that do not change: what the rules derive from them is kept from one call to the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from zsu_fast.ops.prepared import Kept, keeping, open_kept


@contextmanager
def constant_weights(model: nn.Module) -> Iterator[None]:
    """A promise that the parameters and buffers of `model` stay as they are, which makes many calls cheaper.

    Inside, `relevance` keeps the tensors that the rules derive from them (|W|, W+, weights with BatchNorm folded in)
    until exit, in this thread (or task); they take up to twice the memory of the weights. Outside, they last for one
    call.

    Changes through torch's ordinary in-place operations are noticed even so. Not noticed is what leaves no trace: edits
    of `tensor.data` or of memory shared with numpy or other processes, optimizers with fused=True, statistics that
    BatchNorm gathers in training mode.

    Example:
        with zsu_fast.lrp.constant_weights(model):
            found = [zsu_fast.relevance(model, batch, composite="epsilon_plus") for batch in batches]

    Raises:
        TypeError: `model` is not a module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"constant_weights: model must be a torch.nn.Module, got {type(model).__name__}")
    with keeping(Kept([*model.parameters(), *model.buffers()]), *open_kept()):
        yield
