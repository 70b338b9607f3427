"""A forward pass of a model, and a backward pass for each target: what `relevance` and a plan of it both run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from zsu_fast.model.forward_errors import may_be_the_inputs, not_taken, raised_in
from zsu_fast.ops.prepared import Kept, keeping, open_kept
from zsu_fast.reference.layout import widen

from . import (  # noqa: F401
    activation_handlers,
    arithmetic_handlers,
    attention,
    experts,
    linear_handlers,
    norm_handlers,
    recurrent,
    tensor_parallel,
)
from .blocks import BlockEngine, Memory
from .collector import Collector
from .composites import Composite, composite_of
from .conservation import Ledger
from .eager import compiled_parts_as_written, function_modes_as_found
from .engine import Engine
from .graph import check_graph, lowest_edges
from .models import checked_model, logits_of
from .names import Names
from .result import Relevance
from .rules import InputRule
from .starts import Init, Target, Unseen, start, unfit


@dataclass(frozen=True, eq=False)
class Request:
    """What is asked of the passes, whatever the model, the inputs and the targets. See `relevance`."""

    rules: Composite
    init: Init
    layers: tuple[str, ...] | None
    at_input: bool
    strict: bool
    memory: Memory = "normal"

    @staticmethod
    def of(
        composite: str | Composite,
        init: Init,
        layers: str | Sequence[str] | None,
        at_input: bool,
        strict: bool,
        memory: Memory = "normal",
    ) -> Request:
        """From the arguments of `relevance`. TypeError, ValueError."""
        rules = composite_of(composite)
        if layers is not None and not isinstance(layers, str | Sequence):
            raise TypeError(f"layers must be names, a name or None, got {type(layers).__name__}")
        names = (layers,) if isinstance(layers, str) else None if layers is None else tuple(layers)
        if not isinstance(init, str) or init not in ("logit", "one", "probability"):
            raise ValueError(f'init must be "logit", "one" or "probability", got {init!r}')
        if not isinstance(memory, str) or memory not in ("normal", "low"):
            raise ValueError(f'memory must be "normal" or "low", got {memory!r}')
        for name in names or ():
            if not isinstance(name, str):
                raise TypeError(f"layers must be names or patterns, got {name!r}")
        return Request(rules, init, names, at_input, strict, memory)


def check_inputs(inputs: Tensor) -> None:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        instead = "; loaders: zsu_fast.evaluate.relevance_batches" * (not isinstance(inputs, Tensor))
        raise TypeError(f"inputs must be a floating-point tensor [N, ...], got {got}{instead}")
    if reason := unfit(inputs):
        raise TypeError(f"inputs must be a dense floating-point tensor [N, ...], got {reason}")
    if inputs.dim() < 2:
        raise ValueError(f"inputs must have a sample dimension and at least one more, got shape {tuple(inputs.shape)}")


def propagate(
    model: Callable[[Tensor], Any],
    inputs: Tensor,
    targets: Sequence[tuple[str, Target]],
    request: Request,
    ledger: Ledger | None = None,
    run: Callable[[Tensor], Any] | None = None,
) -> tuple[list[Relevance], list[Unseen]]:
    """Relevance for each of the named targets, and what the host still has to look at.

    The arguments are checked, but for what the passes themselves find out. `run` runs the model where that takes more
    than the inputs.
    """
    rules = request.rules
    patterned = rules.follows_patterns()  # then R itself flows, not c = R / a
    model = checked_model(model)
    names = Names(model)
    run = model if run is None else run
    low = request.memory == "low"
    if low and names.of_shards:
        raise ValueError('memory: "low" runs blocks a second time, which a model in parts cannot do; leave "normal"')
    samples = inputs.shape[0]
    # Outside of inference mode and in grad mode, whatever the caller is in: the passes need autograd's graph.
    # What the rules derive from weights is kept for this call: the next one may find other weights. Not where a process
    # holds parts of them, to have the whole of one layer at a time.
    kept = keeping(*open_kept(), *(() if names.of_shards else (Kept(),)))
    with function_modes_as_found(), kept, torch.inference_mode(False), torch.enable_grad(), ExitStack() as released:
        collector = Collector(samples, request.layers, ledger)
        leaf = (inputs.clone() if inputs.is_inference() else inputs.detach()).requires_grad_()
        carries = any(isinstance(rule, InputRule) for rule in rules.rules())
        carrier = torch.zeros_like(leaf).requires_grad_() if carries else None
        engine = Engine(rules, names, collector, leaf, carrier)
        if low:
            engine = blocks = BlockEngine(rules, names, collector, leaf, carrier, model)
            released.callback(blocks.release)
        with compiled_parts_as_written():
            try:
                with engine:
                    output = run(leaf)
            except Exception as error:
                if run is model and not names.of_shards and _fails_alone(model, leaf.detach(), error):
                    raise not_taken("inputs", model, inputs, error) from error
                raise
        logits = engine.renewals.latest(logits_of(output, samples))
        if logits.is_meta:
            raise ValueError("model: its logits are on the meta device, without values; load its weights first")
        if not logits.requires_grad:
            raise ValueError("model: its logits do not depend on the inputs (through differentiable functions)")
        check_graph(logits, engine, request.strict, lambda: run(leaf.detach()))
        if low:
            blocks.check()
        if ledger is not None:
            ledger.watch(logits, carrier, engine.refused)
        del engine, output  # what only they hold on to is free before the backward passes
        collector.check_patterns()
        if collector.ambiguous:
            collector.sequence_first = _sequence_first(model, run, inputs[:1], collector)
        _check_names(rules, collector)
        starts = [start(logits.detach(), label, value, request.init) for label, value in targets]
        scale = _half_scale(inputs, logits)
        ends: Sequence[Any] = [leaf] if carrier is None else [leaf, carrier]
        if not request.at_input:
            ends = lowest_edges(logits, collector)
        device = inputs.device.type
        found = []
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            for number, (c, _) in enumerate(starts, 1):
                more = number < len(starts)
                collector.last = low or not more  # nor then is anything kept for the next
                factors = c * logits.detach() if patterned else c
                factors = factors if scale == 1 else factors * scale
                # Of a scalar: given a gradient to start from, torch first imports modules for half a second.
                begin = (logits * factors).sum()
                sent = torch.autograd.grad(begin, ends, retain_graph=more, allow_unused=True) if ends else ()
                if request.at_input:
                    at_input = _at_input(inputs, (None, *sent) if patterned else sent, scale)
                else:
                    at_input = inputs.new_empty(samples, 0)
                plain, books = logits.detach(), None
                if ledger is not None:
                    books = ledger.take(_total(c.double() * plain), _total(at_input), inputs.dtype, scale)
                found.append(Relevance(at_input, collector.take(inputs, scale), plain, books))
    return found, [unseen for _, unseen in starts]


def _fails_alone(model: Callable[[Tensor], Any], inputs: Tensor, error: Exception) -> bool:
    """Whether torch has raised `error`, and does so where the model runs without the engine: then it is the inputs.

    What the model raises itself stays what it is.
    """
    of_torch = raised_in(error).partition(".")[0] in ("torch", "zsu_fast")  # which calls torch's functions for it
    own_kind = type(error).__module__ != "builtins"  # such as UncoveredFunctionError: it says itself what is wrong
    if own_kind or not of_torch or not may_be_the_inputs(error):
        return False
    try:
        with torch.no_grad():
            model(inputs)
    except Exception as alone:
        return type(alone) is type(error)
    return False


def _sequence_first(model: object, run: Callable[[Tensor], Any], one: Tensor, collector: Collector) -> frozenset[str]:
    """The layers whose outputs are [tokens, N, units]: with one sample, their second dimension is 1."""
    probe = Collector(1, tuple(collector.ambiguous))
    leaf = one.detach().clone().requires_grad_()
    with compiled_parts_as_written(), Engine(Composite(), Names(model), probe, leaf, None):
        run(leaf)
    return frozenset(name for name in collector.ambiguous if probe.rows_or_tokens.get(name) == 1)


def _total(relevance: Tensor) -> Tensor:
    return relevance.sum(dtype=torch.float64)


def _half_scale(inputs: Tensor, logits: Tensor) -> float:
    """The relevance passes are linear: in float16 they run this much larger, so that the shares of many inputs are not
    lost below its smallest number. A power of 2 rounds nothing; a larger one gains little and overflows sooner."""
    device = inputs.device.type
    cast = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    return 32.0 if torch.float16 in (inputs.dtype, logits.dtype, cast) else 1.0


@torch.no_grad()
def _at_input(inputs: Tensor, sent: Sequence[Tensor | None], scale: float) -> Tensor:
    """R of the inputs: c times them, and what was sent as R itself, all of it too large by `scale`."""
    c, *carried = sent
    values = inputs if scale == 1 else widen(inputs)
    result = torch.zeros_like(values) if c is None else c * values
    for extra in carried:
        result = result if extra is None else result + extra
    return result if scale == 1 else (result / scale).to(inputs.dtype)


def _check_names(composite: Composite, collector: Collector) -> None:
    for pattern, _ in composite.names:
        if not any(fnmatchcase(name, pattern) for name in collector.seen):
            raise ValueError(f"composite: {pattern!r} matches no layer that ran; there are {', '.join(collector.seen)}")
