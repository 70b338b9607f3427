"""Run a model from one of its modules on, with inputs that were kept: what stands before it need not run again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.model.tensors import same_bits

Run = Callable[[Tensor], Tensor]


def entry_module(model: nn.Module, layer: str, run: Run, sample: Tensor) -> str | None:
    """The innermost module around `layer` through whose one input everything passes; None if there is none.

    sample: at least two images. run: images -> what is wanted of the model. Tried, not inferred: a run on one blank
    image, in which the module gets the input that it had on all of `sample`, must give the same bits as the run on all.
    """
    modules = dict(model.named_modules())
    parts = layer.split(".")
    for name in (".".join(parts[:length]) for length in range(len(parts), 0, -1)):
        if name not in modules:
            continue
        with inputs_kept(modules[name]) as kept:
            wanted = run(sample)
        if len(kept) != 1 or kept[0].dim() == 0 or len(kept[0]) != len(sample):
            continue
        try:
            with entered(modules[name], kept[0]):
                found = run(torch.zeros_like(sample[:1]))
        except (RuntimeError, ValueError, IndexError, TypeError):  # the forward knows of the number of images
            continue
        if found.shape == wanted.shape and same_bits(found, wanted):
            return name
    return None


@contextmanager
def inputs_kept(module: nn.Module | None) -> Iterator[list[Tensor]]:
    """What the module, if there is one, gets at each call inside; shape () for a call with more than one tensor."""
    kept: list[Tensor] = []
    if module is None:
        yield kept
        return

    def keep(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        single = len(args) == 1 and isinstance(args[0], Tensor) and not kwargs
        kept.append(args[0].detach() if single else torch.empty(()))

    handle = module.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        yield kept
    finally:
        handle.remove()


@contextmanager
def entered(module: nn.Module, inputs: Tensor) -> Iterator[None]:
    """Inside, the module gets `inputs`, whatever the model was called with."""
    handle = module.register_forward_pre_hook(lambda *_: (inputs,))
    try:
        yield
    finally:
        handle.remove()
