"""memory="low": blocks of a model run a second time, so that what they save for the backward pass need not be kept.

That is gradient checkpointing (Chen et al. 2016, arXiv 1604.06174) under the engine: of a block only its arguments are
kept, and a node that asks for what it had saved has the block run once more, under the same rules from the same marks.
"""

from __future__ import annotations

import inspect
import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from types import CodeType, FrameType
from typing import Any, Literal, NoReturn

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from zsu_fast.ops.prepared import keeping

from .collector import Collector
from .composites import Choice, Composite, Kind
from .eager import compiled_parts_as_written, keep_checkpointed
from .engine import Engine
from .inplace import Renewals
from .names import Names

Memory = Literal["normal", "low"]
_LISTS = (nn.Sequential, nn.ModuleList)
_MODULE_CALL: CodeType = nn.Module._wrapped_call_impl.__code__
_CHECKPOINT: CodeType = inspect.unwrap(checkpoint).__code__


def blocks_of(model: object) -> list[nn.Module]:
    """Modules of which an nn.Sequential or nn.ModuleList has several of one class, and that are made of others.

    The outermost are taken; of plain lists of blocks, the blocks.
    """
    return list(_blocks_below(model, set())) if isinstance(model, nn.Module) else []


def _blocks_below(module: nn.Module, seen: set[nn.Module]) -> Iterator[nn.Module]:
    children = [child for child in module._modules.values() if child is not None]
    kinds = Counter(map(type, children)) if isinstance(module, _LISTS) else Counter()
    for child in children:
        if child in seen:
            continue
        seen.add(child)
        is_block = kinds[type(child)] > 1 and bool(child._modules)
        if is_block and type(child) not in _LISTS:
            yield child
            continue
        inner = list(_blocks_below(child, seen))
        yield from inner or ([child] if is_block else [])


class BlockEngine(Engine):
    """An engine under which blocks keep nothing but their arguments; what `torch.utils.checkpoint` wraps is one too.

    Nothing is hung on the model: which block is running, and with what, is read in the call stack. `release` must be
    called when the backward passes are over.
    """

    def __init__(
        self,
        composite: Composite,
        names: Names,
        collector: Collector,
        input: Tensor,
        carrier: Tensor | None,
        model: object,
    ) -> None:
        super().__init__(composite, names, collector, input, carrier)
        self._held: _Call | None = None
        self._blocks = {id(block) for block in blocks_of(model)}
        self._running: tuple[FrameType, _Call] | None = None
        self._calls: list[_Call] = []

    def __exit__(self, *exception: Any) -> None:
        self._running = None
        super().__exit__(*exception)

    def saving(self) -> AbstractContextManager[Any] | None:
        found = self._outermost()
        if found is None:
            self._running = None
            return keep_checkpointed()
        frame, function, args, kwargs = found
        if self._running is None or self._running[0] is not frame:
            self._newest = None  # nothing may be computed in the memory of what the block was given
            self._running = frame, _Call(self, function, args, kwargs)
            self.hold(self._running[1])
            self._calls.append(self._running[1])
        call = self._running[1]
        return saved_tensors_hooks(call.save, call.take)

    def hold(self, call: _Call) -> None:
        """Of one call alone what was saved is at hand: of the last in the forward pass, then of those run again."""
        if self._held is not None:
            self._held.drop()
        self._held = call

    def check(self) -> None:
        """ValueError if no block has run."""
        if not self._calls:
            raise ValueError(
                'memory: "low" runs blocks a second time: modules of which an nn.Sequential or nn.ModuleList has '
                "several of one class, made of other modules and called with tensors, or what the model wraps in "
                'torch.utils.checkpoint(..., use_reentrant=False); it has run none of these: leave memory="normal"'
            )

    def release(self) -> None:
        """Let go of what the blocks kept: autograd's nodes, which hold them, are nothing that Python could collect."""
        for call in self._calls:
            call.release()
        self._calls.clear()
        self.refused.clear()
        self._held = None

    def _outermost(self) -> tuple[FrameType, Callable[..., Any], tuple, dict[str, Any]] | None:
        """The outermost block under way: its frame, what was called, and with what."""
        found = None
        frame: FrameType | None = sys._getframe(2)
        while frame is not None:
            if frame.f_code is _MODULE_CALL:
                local = frame.f_locals
                if id(local["self"]) in self._blocks and _are_values(local["args"], *local["kwargs"].values()):
                    found = frame, local["self"], local["args"], local["kwargs"]
            elif frame.f_code is _CHECKPOINT:
                local = frame.f_locals
                if local["use_reentrant"] is False:
                    found = frame, local["function"], local["args"], local["kwargs"]
            frame = frame.f_back
        return found


def _are_values(*arguments: object) -> bool:
    """Whether a block that was given these could not change them for a second run: caches and lists it could."""
    return all(
        _are_values(*a) if type(a) is tuple else a is None or isinstance(a, Tensor | bool | int | float | str)
        for a in arguments
    )


class _Saved:
    """What a node has saved, number so-and-so of its block; `tensor` where it is at hand. It dies with its node."""

    __slots__ = ("__weakref__", "number", "tensor")

    def __init__(self, number: int, tensor: Tensor) -> None:
        self.number = number
        self.tensor: Tensor | None = tensor


class _Call:
    """One call of a block: how to make it again, and what the nodes in it have saved."""

    def __init__(self, engine: BlockEngine, function: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> None:
        self.engine, self.function, self.args, self.kwargs = engine, function, args, dict(kwargs)
        self.renewals = engine.renewals.copy()
        self.first_choice = len(engine.choices)
        self._saved: list[tuple[weakref.ref[_Saved], torch.Size]] = []
        device = engine.input.device
        self._generators = {device: torch.cuda.get_rng_state(device)} if device.type == "cuda" else {}
        self._generator = torch.get_rng_state()
        self._cast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None

    def save(self, tensor: Tensor) -> _Saved:
        saved = _Saved(len(self._saved), tensor.detach())
        self._saved.append((weakref.ref(saved), tensor.shape))
        return saved

    def take(self, saved: _Saved) -> Tensor:
        """What was saved: handed out once, so that it is free as soon as it is used."""
        if saved.tensor is None:
            self.engine.hold(self)
            self._run_again()
        tensor, saved.tensor = saved.tensor, None
        assert tensor is not None
        return tensor

    def drop(self) -> None:
        """Nothing is at hand any more."""
        for reference, _ in self._saved:
            if (saved := reference()) is not None:
                saved.tensor = None

    def made_again(self, number: int, tensor: Tensor) -> None:
        if number >= len(self._saved) or self._saved[number][1] != tensor.shape:
            self.differs()
        if (saved := self._saved[number][0]()) is not None:
            saved.tensor = tensor.detach()

    def _run_again(self) -> None:
        engine, again = self.engine, _SecondRun(self)
        device = engine.input.device
        with ExitStack() as stack:
            # On a GPU this runs in a thread of autograd's own.
            stack.enter_context(keeping(*engine.collector.kept))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(torch.random.fork_rng(list(self._generators)))
            torch.set_rng_state(self._generator)
            for gpu, state in self._generators.items():
                torch.cuda.set_rng_state(state, gpu)
            if self._cast is not None:
                stack.enter_context(torch.autocast(device.type, self._cast))
            stack.enter_context(compiled_parts_as_written())
            stack.callback(again.release)
            stack.enter_context(again)
            self.function(*self.args, **self.kwargs)
        if again.made != len(self._saved):
            self.differs()

    def differs(self) -> NoReturn:
        what = type(self.function).__name__ if isinstance(self.function, nn.Module) else "checkpointed function"
        raise RuntimeError(
            f'memory: "low" runs blocks a second time, and a {what} of the model then did something else; leave '
            'memory="normal"'
        )

    def release(self) -> None:
        self.drop()
        self.args, self.kwargs, self.renewals = (), {}, Renewals()
        del self.engine


class _SecondRun(Engine):
    """Runs a block as `BlockEngine` did, and tells what its nodes save. None of these nodes ever runs."""

    def __init__(self, call: _Call) -> None:
        first = call.engine
        scratch = Collector(first.collector.samples, None)
        super().__init__(first.composite, first.names, scratch, first.input, first.carrier)
        self.marks, self.renewals = first.marks, call.renewals.copy()
        self.made = 0
        self._call = call
        self._chosen = iter(first.choices[call.first_choice :])

    def saving(self) -> AbstractContextManager[Any]:
        return saved_tensors_hooks(self._save, _never)

    def _save(self, tensor: Tensor) -> None:
        self._call.made_again(self.made, tensor)
        self.made += 1

    def choose(self, name: str, kind: Kind) -> Choice:
        """The choice of the first run, as it was then: open, where the number of layers was to settle it."""
        first = next(self._chosen, None)
        if first is None or first.kind != kind:
            self._call.differs()
        rule = self.composite.rule(first.name, first.kind, first.position)
        return Choice(first.name, first.kind, first.position, rule)

    def release(self) -> None:
        """Let go of what the nodes may be held by, which hold this: Python could not collect that."""
        self.renewals = Renewals()
        self.refused.clear()


def _never(_: None) -> NoReturn:
    raise AssertionError("a node of a second run was run")
