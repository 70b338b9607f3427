"""Wrappers (DDP, DataParallel, torch.compile, averages, Fabric) are taken off once, at the door.

Names are then those of the bare model, and an undo file fits it and every wrapper of it. A wrapper is known by name: of
another module that holds a network, a LightningModule say, the forward may add something.
"""

from __future__ import annotations

import threading
import weakref

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
    return with_wrappers(model)[-1]


def with_wrappers(model: nn.Module) -> list[nn.Module]:
    """What wraps it, from the outside to the inside, and the module that computes."""
    found = [model]
    while (inner := _inner(found[-1])) is not None:
        found.append(inner)
    return found


def _inner(model: nn.Module) -> nn.Module | None:
    for kind in type(model).__mro__:
        # By name: importing these for a comparison costs more than all else here, and most are not installed.
        child = _NETWORK_OF.get(f"{kind.__module__.partition('.')[0]}.{kind.__name__}")
        if child is not None:
            return model._modules.get(child)
    return None


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
