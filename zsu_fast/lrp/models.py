"""What a model must be, and return, for relevance to go through it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.model.carriers import why_unreachable
from zsu_fast.model.wrapped import bare_model, instead_of


def modules_of(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """`model.named_modules()`, whose nested generators take as long as a small model runs."""
    seen: set[nn.Module] = set()
    waiting = [("", model)]
    while waiting:
        name, module = waiting.pop()
        if module not in seen:
            seen.add(module)
            yield name, module
            prefix = f"{name}." if name else ""
            waiting += [(prefix + key, child) for key, child in reversed(module._modules.items()) if child is not None]


def checked_model(model: Callable[[Tensor], Any]) -> Callable[[Tensor], Any]:
    """The model that will run. Refuses what would change it, or hide its functions from the engine."""
    if not isinstance(model, nn.Module):
        if not callable(model) or isinstance(model, torch.export.ExportedProgram):  # whose call raises
            raise TypeError(f"model must be a module or a function, got {type(model).__name__}{instead_of(model)}")
        if isinstance(model, type) and issubclass(model, nn.Module):
            raise TypeError(f"model must be a module or a function, got the class {model.__name__} itself")
        return model
    model = bare_model(model)
    check_reachable(model)
    for name, module in modules_of(model):
        where = _where(name)
        if isinstance(module, nn.DataParallel):
            raise TypeError(f"{where} is DataParallel, which runs in other threads; pass its .module")
        if module.training and _acts_in_training(module):
            raise ValueError(f"{where} ({type(module).__name__}) is in training mode; call model.eval() first")
    return model


def check_reachable(model: nn.Module) -> None:
    """TypeError, with what to pass instead, for modules that hide their weights or functions."""
    for name, module in modules_of(model):
        if why := why_unreachable(module):
            raise TypeError(f"{_where(name)} {why}")


def _where(name: str) -> str:
    return f"model: module {name!r}" if name else "model"


def _acts_in_training(module: nn.Module) -> bool:
    """Whether `module` draws random numbers or changes its own state when it runs in training mode."""
    if isinstance(module, nn.modules.dropout._DropoutNd | nn.RReLU):
        return getattr(module, "p", 1.0) > 0
    if isinstance(module, nn.MultiheadAttention):
        return module.dropout > 0
    if isinstance(module, nn.modules.batchnorm._NormBase):  # BatchNorm and InstanceNorm
        return module.track_running_stats or isinstance(module, nn.modules.batchnorm._BatchNorm)
    if isinstance(module, nn.utils.parametrizations._SpectralNorm):
        return True
    drop = getattr(module, "drop_prob", None)  # DropPath, as timm and transformers have it
    return isinstance(drop, float) and drop > 0


def logits_of(output: Any, samples: int) -> Tensor:
    """The logits [samples, classes] in what a model returned. ValueError if there are none."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2 or len(logits) != samples:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model must return logits [{samples}, classes] or an object with .logits, got {got}")
    return logits
