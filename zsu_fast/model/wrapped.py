"""Wrappers (DDP, DataParallel, torch.compile, AveragedModel, Fabric) are taken off once, at the door.

Names are then those of the bare model, and an undo file fits it and every wrapper of it.
"""

from __future__ import annotations

import threading
import weakref

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

_locks: dict[int, threading.RLock] = {}  # by identity of the bare model, for as long as it lives


def bare_model(model: nn.Module) -> nn.Module:
    """The module that computes, without what wraps it. The wrapper sees every edit: it holds the same module."""
    while (inner := _inner(model)) is not None:
        model = inner
    return model


def _inner(model: nn.Module) -> nn.Module | None:
    children = model._modules
    if isinstance(model, (DataParallel, DistributedDataParallel)):
        return children["module"]
    if "_orig_mod" in children:  # torch.compile
        return children["_orig_mod"]
    # By name: importing these for a comparison costs more than all else here.
    if type(model).__name__ in ("AveragedModel", "ExponentialMovingAverage", "_FabricModule"):
        return children.get("module", children.get("_forward_module"))
    return None


def lock_of(model: nn.Module) -> threading.RLock:
    """The lock under which a model's flags and weights are changed; one for each bare model, for all threads."""
    bare = bare_model(model)
    lock = _locks.get(id(bare))
    if lock is None:
        # setdefault is one step for all threads; a lock around it could stay taken after an interrupt.
        lock = _locks.setdefault(id(bare), threading.RLock())
        weakref.finalize(bare, _locks.pop, id(bare), None)
    return lock
