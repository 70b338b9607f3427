"""Wrappers (DDP, DataParallel, torch.compile, averages, Fabric) are taken off once, at the door.

Names are then those of the bare model, and an undo file fits it and every wrapper of it. A wrapper is known by name: of
another module that holds a network, a LightningModule say, the forward may add something.
"""

from __future__ import annotations

import os
import threading
import weakref

import torch
from torch import nn

_NETWORK_OF = {  # package and class of a wrapper (or of a base of it) -> the child that computes
    "torch.DataParallel": "module",
    "torch.DistributedDataParallel": "module",
    "torch.OptimizedModule": "_orig_mod",  # torch.compile
    "torch.AveragedModel": "module",
    "lightning._FabricModule": "_forward_module",
    "lightning_fabric._FabricModule": "_forward_module",
    "timm.ModelEmaV2": "module",
    "timm.ModelEmaV3": "module",
    "ema_pytorch.EMA": "ema_model",
}

_locks: dict[int, threading.RLock] = {}  # by identity of the bare model, for as long as it lives


def bare_model(model: nn.Module) -> nn.Module:
    """The module that computes, without what wraps it. The wrapper sees every edit: it holds the same module."""
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def _inner(model: nn.Module) -> nn.Module | None:
    for kind in type(model).__mro__:
        # By name: importing these for a comparison costs more than all else here, and most are not installed.
        child = _NETWORK_OF.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}")
        if child is not None:
            return model._modules.get(child)
    return None


def check_module(model: object) -> None:
    """TypeError, with what to pass instead, for what is no module."""
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else type(model).__name__
        raise TypeError(f"model: expected a torch.nn.Module, got {kind}{instead_of(model)}")


def instead_of(holder: object) -> str:
    """What of an object that is no network to pass instead, where it can be told."""
    if isinstance(holder, str | os.PathLike):
        return "; load the weights into the network, and pass that"
    if isinstance(holder, dict) and any(isinstance(value, torch.Tensor) for value in holder.values()):
        return ", a state dict; load it into the network (load_state_dict), and pass that"
    if isinstance(holder, torch.export.ExportedProgram):
        return "; pass its .module()"
    if hasattr(holder, "shadow_params") and hasattr(holder, "copy_to"):  # EMAModel of diffusers, torch_ema
        return ", averages of parameters without a network: copy them into one (its copy_to), and pass that"
    held = holder if isinstance(holder, dict) else getattr(holder, "__dict__", {})
    names = [name for name, value in held.items() if isinstance(value, nn.Module)]
    return f"; pass the network that it holds ({', '.join(f'.{name}' for name in names)})" if names else ""


def written_name(name: str) -> str:
    """The name of a tensor or module as it was before torch.compile, which puts its own part at any place."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def lock_of(model: nn.Module) -> threading.RLock:
    """The lock under which a model's flags and weights are changed; one for each bare model, for all threads."""
    bare = bare_model(model)
    lock = _locks.get(id(bare))
    if lock is None:
        # setdefault is one step for all threads; a lock around it could stay taken after an interrupt.
        lock = _locks.setdefault(id(bare), threading.RLock())
        weakref.finalize(bare, _locks.pop, id(bare), None)
    return lock
