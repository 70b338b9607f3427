"""Targets, and where the relevance of each starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Literal, cast

import torch
from torch import Tensor

Init = Literal["logit", "one", "probability"]
Target = int | Tensor | None

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


def labelled(target: Target | Sequence[Target]) -> list[tuple[str, Target]]:
    """Each target with its name in messages."""
    if not isinstance(target, list | tuple):
        return [("target", cast(Target, target))]
    if not target:
        raise ValueError("target is empty: give one target, or a list of at least one")
    return [(f"target[{i}]", value) for i, value in enumerate(target)]


def check_target(label: str, target: object, samples: int) -> None:
    if isinstance(target, Tensor):
        if reason := unfit(target):
            raise TypeError(f"{label} must be an int or a dense tensor of integers [{samples}], got {reason}")
        if target.shape != (samples,) or target.dtype not in _INTEGERS:
            raise ValueError(
                f"{label} must be an int or integers [{samples}], got {target.dtype} {tuple(target.shape)}"
            )
    elif target is not None and (isinstance(target, bool) or not isinstance(target, Integral)):
        raise TypeError(f"{label} must be an int, a tensor [N] or None, got {type(target).__name__}")


def unfit(tensor: Tensor) -> str | None:
    """What makes it a tensor without values that can be indexed, if anything does."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return f"one of layout {tensor.layout}"
    return "one on the meta device, without values" if tensor.is_meta else None


def check_class(label: str, target: int, classes: int) -> None:
    if not 0 <= target < classes:
        raise ValueError(f"{label} must be in 0..{classes - 1}, got {target}")


@dataclass(frozen=True, eq=False)
class Unseen:
    """What the host has not looked at when the relevance passes of one target are under way.

    Attributes:
        label: What messages call the target.
        classes: How many there are.
        target: The target, if it is a tensor.
        divisor: The logits that `init` divides by, [N, 1]; None if it divides by none.
    """

    label: str
    classes: int
    target: Tensor | None
    divisor: Tensor | None
    init: Init

    def check(self) -> None:
        """The one look that the host takes at the device. ValueError."""
        for values in (self.target, self.divisor):
            if values is not None and values.is_cuda and torch.cuda.is_current_stream_capturing():
                return
        if self.target is not None and bool(((self.target < 0) | (self.target >= self.classes)).any()):
            raise ValueError(f"{self.label} must be in 0..{self.classes - 1}, got {self.target.tolist()}")
        if self.divisor is not None and bool((self.divisor == 0).any()):
            raise ValueError(
                f"init {self.init!r} divides by the logit of {self.label}, which is exactly 0 for some sample; take "
                'init="logit"'
            )


def start(logits: Tensor, label: str, target: Target, init: Init) -> tuple[Tensor, Unseen]:
    """c = R / logit at the target of each sample, 0 elsewhere: where the relevance of one target starts.

    It is NaN where the target or its logit is not as it must be, which `Unseen.check` tells.
    """
    samples, classes = logits.shape
    value, divisor = torch.ones_like(logits[:, :1]), None
    if target is None:
        index = logits.argmax(1)
    elif isinstance(target, Tensor):
        target = target.to(logits.device, torch.int64)
        index = target.clamp(0, classes - 1)
        value = torch.where((index == target)[:, None], value, torch.nan)
    else:
        check_class(label, target, classes)
        index = torch.full((samples,), int(target), device=logits.device)
    if init != "logit":
        wide = logits if logits.dtype == torch.float64 else logits.float()
        divisor = wide.gather(1, index[:, None])
        wanted = value if init == "one" else value * wide.softmax(1).gather(1, index[:, None])
        value = torch.where(divisor == 0, torch.nan, wanted / divisor).to(logits.dtype)
    c = torch.zeros_like(logits).scatter_(1, index[:, None], value)
    return c, Unseen(label, classes, target if isinstance(target, Tensor) else None, divisor, init)
