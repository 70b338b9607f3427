"""What torch has that hides a model's functions from the engine, switched off while it looks.

Rules are found in the functions that a model calls, one by one, and what nodes save for their backward passes is the
engine's. So compiled code runs as written, gradient checkpointing keeps what it would compute again (see `blocks` for
memory="low"), and transforms of `torch.func` are refused.
"""

from __future__ import annotations

import functools
import sys
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import _get_current_function_mode_stack, _pop_mode

_Function = TypeVar("_Function", bound=Callable[..., Any])
_REASON = "zsu_fast.relevance follows a model's functions one by one and runs autograd passes of its own"


def uncompiled(function: _Function) -> _Function:
    """`function` breaks the graph of a compiled function that calls it, and runs as written, with all that it calls.

    `torch.compiler.disable` would do, but imports the compiler, which takes seconds: here only those wait who use it.
    """

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" in sys.modules:
            return torch.compiler.disable(function, reason=_REASON)(*args, **kwargs)
        return function(*args, **kwargs)

    # What the compiler says of the function where no break is allowed (fullgraph=True).
    vars(run).update(_torchdynamo_disable=True, _torchdynamo_disable_msg=_REASON)
    return run  # type: ignore[return-value]


class _Call:
    """A call that is under way: one that an interrupt has cut off is gone with its frame."""


_lock = threading.RLock()
_inside: weakref.WeakSet[_Call] = weakref.WeakSet()
_before: list[Any] = []  # the compiler's stance before the first of them


@contextmanager
def compiled_parts_as_written() -> Iterator[None]:
    """Modules and functions that torch.compile has wrapped run without it.

    The compiler's stance is one for all threads: the first call that is under way sets it, the last one sets it back.
    """
    if "torch._dynamo" not in sys.modules:
        yield
        return
    call = _Call()
    try:
        try:
            _lock.acquire()
            _inside.add(call)
            if not _before:
                _before.append(torch._dynamo.eval_frame._stance)  # noted first: an interrupt may follow at once
                torch.compiler.set_stance("force_eager")
        finally:
            _unlock()
        yield
    finally:
        try:
            _leave(call)
        finally:
            _leave(call)  # an interrupt may have come into the first


def _leave(call: _Call) -> None:
    """The call is over. Done twice, it does no more than once."""
    try:
        _lock.acquire()
        _inside.discard(call)
        if not _inside and _before:
            torch._dynamo.eval_frame._set_stance(_before[0])
            _before.clear()
    finally:
        _unlock()


def _unlock() -> None:
    """This thread has the lock no more, even if an exception cut off an earlier unlocking: others would wait for it."""
    while _lock._is_owned():  # type: ignore[attr-defined]
        _lock.release()


@contextmanager
def function_modes_as_found() -> Iterator[None]:
    """No mode of torch functions outlives the block, wherever in it an interrupt comes."""
    found = len(_get_current_function_mode_stack())
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception):
            # torch's own context managers that were cut off put a mode back when they die: now, not with the traceback.
            traceback.clear_frames(error.__traceback__)
        raise
    finally:
        try:
            _pop_above(found)
        finally:
            _pop_above(found)  # as above


def _pop_above(depth: int) -> None:
    while len(_get_current_function_mode_stack()) > depth:
        _pop_mode()


def refuse_transforms() -> None:
    """RuntimeError inside of `torch.func.vmap`, `grad` and the like."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "relevance cannot be called inside of torch.func (vmap, grad, jvp ...): it runs autograd passes of its own "
            "and its result is a constant; give it a batch [N, ...], or a list of targets"
        )


def keep_checkpointed() -> AbstractContextManager[Any] | None:
    """What is saved for the backward pass is kept, even inside of `torch.utils.checkpoint` (use_reentrant=False).

    That would drop it, and run the function again when it is needed: without the engine, so that other values came.
    None: nothing is in the way.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    if hooks is None or hooks[0].__module__ != "torch.utils.checkpoint":
        return None
    return saved_tensors_hooks(_itself, _itself)


def _itself(tensor: Tensor) -> Tensor:
    return tensor
