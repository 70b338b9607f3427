"""`compile`: the passes of a model, traced once and then run without the engine, give the same bits sooner."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from contextlib import nullcontext
from itertools import chain
from typing import Any, NamedTuple, overload

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx import GraphModule

from zsu_fast.model.wrapped import bare_model

from .backends import Backend, Runner, backend_for, check_backend, runner
from .composites import Composite
from .eager import refuse_transforms, uncompiled
from .models import check_reachable, modules_of
from .passes import Request, check_inputs
from .result import Relevance
from .starts import Init, Target, check_class, check_target, labelled
from .trace import Trace, trace


def compile(
    model: nn.Module,
    example: Tensor | None = None,
    *,
    targets: int = 1,
    composite: str | Composite = "epsilon",
    init: Init = "logit",
    layers: str | Sequence[str] | None = None,
    at_input: bool = True,
    strict: bool = True,
    backend: Backend = "auto",
    keep: int = 4,
) -> Plan:
    """A plan for many calls of `relevance` with one model.

        plan = zsu_fast.lrp.compile(model, images, composite="epsilon_plus")
        found = plan(images, target)  # relevance(model, images, target, composite="epsilon_plus"), bit for bit

    The first call with inputs of a shape traces the passes into a graph of torch's operators, which takes seconds, and
    checks on two inputs that it gives the bits of `relevance`; later calls run the graph alone. It reads the live
    weights: edits in place (masks, optimizers, `load_state_dict`) need no new trace.

    A call is traced anew for another shape, layout, dtype or device of the inputs, another number of targets or None
    among them, other settings of autocast, a replaced parameter, buffer, module or hook, or another mode (train, eval).
    Whatever else the model's forward reads - numbers, flags, tensors that are neither parameters nor buffers - is taken
    as it was when the call was traced.

    Args:
        model: A module. (Of a function, nobody can tell which weights it uses.)
        example: Inputs [N, ...] like those that will come, to trace at once; None: the first call does.
        targets: How many targets a call will have, for the trace of `example`.
        composite, init, layers, at_input, strict: As in `relevance`. What only unwanted results need is not computed.
        backend: What runs the graph. "eager": Python, with torch's and our own kernels; the bits of `relevance`.
            "cudagraph": one launch for all of them; inputs and results are copied. "inductor": compiled by torch, in
            minutes; the same but for rounding, faster for small models. "auto": "cudagraph" on CUDA, else "eager".
        keep: How many traces are kept, those used last. Each holds the weights that it was made for.

    Raises:
        ValueError, TypeError: As `relevance`; and for a model that no graph stands for, because it draws random
            numbers or depends on values other than by torch's operators (branches). The message tells the reason.
    """
    if isinstance(targets, bool) or not isinstance(targets, int) or targets < 1:
        raise ValueError(f"targets must be an int >= 1, got {targets!r}")
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(f"keep must be an int >= 1, got {keep!r}")
    plan = Plan(model, Request.of(composite, init, layers, at_input, strict), backend, keep)
    if example is not None:
        check_inputs(example)
        classes = torch.zeros(example.shape[0], dtype=torch.int64, device=example.device)
        plan._prepare(example, classes if targets == 1 else [classes] * targets)
    return plan


class Plan:
    """What `compile` makes: called as plan(inputs, target), it gives what `relevance` gives."""

    def __init__(self, model: nn.Module, request: Request, backend: Backend, keep: int) -> None:
        check_backend(backend)
        self.model = _checked(model)
        check_reachable(self.model)
        self._request, self._backend, self._keep = request, backend, keep
        self._traces = Traces(backend, keep)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies come without traces: those are of this model's own weights."""
        return Plan, (self.model, self._request, self._backend, self._keep)

    @overload
    def __call__(self, inputs: Tensor, target: Target = None) -> Relevance: ...

    @overload
    def __call__(self, inputs: Tensor, target: Sequence[Target]) -> tuple[Relevance, ...]: ...

    @uncompiled
    def __call__(self, inputs: Tensor, target: Target | Sequence[Target] = None) -> Relevance | tuple[Relevance, ...]:
        """Relevance of `inputs` [N, ...] for `target`: an int, integers [N], None, or a list of those.

        Raises as `relevance` does, and ValueError if the model cannot be planned.
        """
        return self._traces.call(self.model, inputs, target, self._request)

    def graph(self, inputs: Tensor, target: Target | Sequence[Target] = None) -> GraphModule:
        """The graph behind such a call, for `torch.export`: (inputs, *targets) -> (logits, then for each target: input,
        one [N, units] for each layer, and, unless `init` is "logit", the logit that was divided by).

        Targets are int64 [N] on the device of the inputs, those that are None left out. It holds the model's weights
        and checks nothing: relevance is NaN for a target that there is not.
        """
        return self._prepare(inputs, target).graph

    def _prepare(self, inputs: Tensor, target: Target | Sequence[Target]) -> Trace:
        _, values = _targets(inputs, target)
        return self._traces.find(self.model, inputs, _as_tensors(inputs, values), self._request).trace


class _Entry(NamedTuple):
    parts: tuple[object, ...]  # held, so that no other object can come to bear an identity in the key
    trace: Trace
    run: Runner


class Traces:
    """The traces of one model that were used last, by all that they depend on. It does not hold the model."""

    def __init__(self, backend: Backend, keep: int) -> None:
        self._backend, self._keep = backend, keep
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._parts = _Parts()
        self._lock = threading.RLock()

    def call(
        self,
        model: nn.Module,
        inputs: Tensor,
        target: Target | Sequence[Target],
        request: Request,
        name: Hashable = None,
    ) -> Relevance | tuple[Relevance, ...]:
        """As `relevance`. Equal requests must have equal names."""
        labels, values = _targets(inputs, target)
        tensors = _as_tensors(inputs, values)
        _, plan, run = self.find(model, inputs, tensors, request, name)
        for label, value in zip(labels, values, strict=True):
            if value is not None and not isinstance(value, Tensor):
                check_class(label, value, plan.classes)
        device = inputs.device.type
        plain = torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext()
        with torch.inference_mode(False), torch.no_grad(), plain:
            outputs = run(inputs, [tensor for tensor in tensors if tensor is not None])
            unseen = [t if isinstance(v, Tensor) else None for v, t in zip(values, tensors, strict=True)]
            found = plan.found(outputs, labels, unseen)
        return tuple(found) if isinstance(target, list | tuple) else found[0]

    def find(
        self,
        model: nn.Module,
        inputs: Tensor,
        targets: Sequence[Tensor | None],
        request: Request,
        name: Hashable = None,
    ) -> _Entry:
        """The trace of such a call; it is made if there is none."""
        with self._lock:
            kinds = tuple(target is None for target in targets)
            state = self._parts.state(model)
            key = (name, inputs.shape, inputs.stride(), inputs.dtype, _settings(inputs.device), kinds, state)
            entry = self._entries.get(key)
            if entry is None:
                backend = backend_for(self._backend, inputs)
                found = trace(model, inputs, targets, request)
                entry = self._entries[key] = _Entry(self._parts.held, found, runner(backend, found))
                while len(self._entries) > self._keep:
                    self._entries.popitem(last=False)
            self._entries.move_to_end(key)
            return entry


class _Parts:
    """What a model is made of: modules, parameters, buffers, hooks."""

    def __init__(self) -> None:
        self.held: tuple[object, ...] = ()
        self._ids: tuple[int, ...] = ()
        self._below: list[nn.Module] = []
        self._dicts: list[dict[str, Any]] = []
        self._hooks: list[dict[int, Any]] = []

    def state(self, model: nn.Module) -> Hashable:
        """Equal while no part is replaced and no module changes from training to evaluation or back."""
        ids = tuple(map(id, chain.from_iterable(map(dict.values, self._dicts))))
        if ids != self._ids or not ids:
            modules = [module for _, module in modules_of(model)]
            self._below = modules[1:]
            self._dicts = [d for m in modules for d in (m._parameters, m._buffers, m._modules)]
            self._hooks = [d for m in modules for d in (m._forward_hooks, m._forward_pre_hooks)]
            self.held = tuple(chain.from_iterable(map(dict.values, self._dicts)))
            self._ids = ids = tuple(map(id, self.held))
        training = bytes([model.training, *(module.training for module in self._below)])
        return ids, training, tuple(chain.from_iterable(self._hooks))


def _checked(model: nn.Module) -> nn.Module:
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module to be planned, got {type(model).__name__}")
    return bare_model(model)


def _targets(inputs: Tensor, target: Target | Sequence[Target]) -> tuple[list[str], list[Target]]:
    """The labels and values of the targets, which are checked, as the inputs are."""
    refuse_transforms()
    check_inputs(inputs)
    if isinstance(inputs, FakeTensor) or torch.compiler.is_exporting():
        raise RuntimeError("a plan cannot be called while it is exported; export its graph: plan.graph(inputs, target)")
    named = labelled(target)
    for label, value in named:
        check_target(label, value, inputs.shape[0])
    return [label for label, _ in named], [value for _, value in named]


def _as_tensors(inputs: Tensor, values: Sequence[Target]) -> list[Tensor | None]:
    """One class for all as one for each, so that one trace serves both."""
    return [
        value.to(inputs.device, torch.int64)
        if isinstance(value, Tensor)
        else None
        if value is None
        else torch.full((inputs.shape[0],), int(value), device=inputs.device)
        for value in values
    ]


def _settings(device: torch.device) -> Hashable:
    """What decides which operators run, beside the model and its inputs."""
    kind = device.type
    cuda = torch.backends.cuda
    attention = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
    casts = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    return device, casts, attention, torch.get_default_dtype()


_kept: weakref.WeakKeyDictionary[nn.Module, Traces] = weakref.WeakKeyDictionary()
_KEPT = 8


def planned(
    model: Any, inputs: Tensor, target: Target | Sequence[Target], request: Request, name: Hashable
) -> Relevance | tuple[Relevance, ...]:
    """As `relevance`, by a plan that lives as long as the model. Equal requests must have equal names."""
    model = _checked(model)
    traces = _kept.get(model)
    if traces is None:
        check_reachable(model)
        traces = _kept.setdefault(model, Traces("auto", _KEPT))
    return traces.call(model, inputs, target, request, name)
