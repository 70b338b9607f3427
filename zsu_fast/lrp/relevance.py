"""`relevance`: a forward pass, and a backward pass per target, give the relevance of the input and of every neuron."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from numbers import Integral
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor, nn

from zsu_fast.ops.prepared import Kept, keeping, open_kept
from zsu_fast.reference.layout import widen

from . import activation_handlers, arithmetic_handlers, attention, linear_handlers, norm_handlers, recurrent  # noqa: F401
from .collector import Collector
from .composites import Composite, composite_of
from .conservation import Conservation, Ledger
from .eager import compiled_parts_as_written, function_modes_as_found, refuse_transforms, uncompiled
from .engine import Engine, UncoveredFunctionError
from .graph import check_graph
from .models import checked_model, logits_of
from .names import Names
from .rules import InputRule

Init = Literal["logit", "one", "probability"]
Target = int | Tensor | None

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.uint16, torch.uint32, torch.uint64)


@dataclass(frozen=True, eq=False)
class Relevance:
    """What `relevance` found out.

    Attributes:
        input: Relevance of every input value; shape, dtype and device of the inputs.
        neurons: Relevance per sample and unit, [N, units], by layer in execution order; float32 (float64 for float64).
            Linear layers and convolutions go by the name of the module that owns the weight (or of the parameter, if it
            is not called "weight"), attention heads by the name of their module followed by ".heads". A layer's output
            is read as [N, ...], as runs of rows of one sample each (windows), or as [tokens, N, units]: where the shape
            does not tell, a run with one sample does. A layer that runs several times adds up.
        logits: The model's output, [N, classes].
        conservation: Where relevance went on its way, if that was asked for; `check` shows it.
    """

    input: Tensor
    neurons: dict[str, Tensor]
    logits: Tensor
    conservation: Conservation | None = None

    def check(self, tolerance: float | None = None) -> Conservation:
        """Whether relevance was conserved: what every layer was given, passed on and kept, and why. Print it.

        Args:
            tolerance: The largest share of the relevance that flows through a layer (sum of |R|) which may be missing
                without explanation if all is to be `ok`; None: by dtype, 1e-6, 1e-3 (float32) or 0.05 (half precision).

        Raises:
            ValueError: `relevance` was called without `conservation=True`, or a tolerance below 0.
        """
        if self.conservation is None:
            raise ValueError("nothing was noted that could be checked: call relevance(..., conservation=True)")
        if tolerance is None:
            return self.conservation
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be a number >= 0, got {tolerance!r}")
        return replace(self.conservation, tolerance=float(tolerance))


@overload
def relevance(
    model: Callable[[Tensor], Any],
    inputs: Tensor,
    target: Target = None,
    *,
    composite: str | Composite = "epsilon",
    init: Init = "logit",
    layers: str | Sequence[str] | None = None,
    strict: bool = True,
    conservation: bool = False,
) -> Relevance: ...


@overload
def relevance(
    model: Callable[[Tensor], Any],
    inputs: Tensor,
    target: Sequence[Target],
    *,
    composite: str | Composite = "epsilon",
    init: Init = "logit",
    layers: str | Sequence[str] | None = None,
    strict: bool = True,
    conservation: bool = False,
) -> tuple[Relevance, ...]: ...


@uncompiled
def relevance(
    model: Callable[[Tensor], Any],
    inputs: Tensor,
    target: Target | Sequence[Target] = None,
    *,
    composite: str | Composite = "epsilon",
    init: Init = "logit",
    layers: str | Sequence[str] | None = None,
    strict: bool = True,
    conservation: bool = False,
) -> Relevance | tuple[Relevance, ...]:
    """Layer-wise relevance propagation (Bach et al. 2015; transformers: Achtibat et al. 2024) of one logit per sample.

    Works on any model made of torch functions: no hooks, no changed modules, nothing to prepare. The model is left
    exactly as it was. It must be in eval mode if it has dropout or BatchNorm. Where it is compiled or checkpointed
    (`use_reentrant=False`), it runs as if it were not.

    The host never waits for the device, but for one look at the values of a target given as a tensor, and at the logits
    unless `init` is "logit", when all passes are under way. A CUDA graph leaves that out: what it would have refused
    becomes NaN.

    Typical errors, relative to float64: 1e-6 in float32; in float16 0.5 % (alpha-beta 1 %), in bfloat16 3 % (alpha-beta
    10 %). Epsilon and LRP-0 are as exact as the plain gradient times the input, which loses more the deeper the net.

    Args:
        model: A module or function from inputs to logits [N, classes], or to an object with `.logits`.
        inputs: [N, ...], floating point, on the model's device.
        target: The class whose logit is explained: one for all, or integers [N]; None: each sample's largest logit. A
            list or tuple of such targets shares the forward pass: each costs one backward pass.
        composite: The rules: a `Composite`, or the name of one (`zsu_fast.lrp.COMPOSITES`): "epsilon", "epsilon_plus",
            "epsilon_plus_flat", "epsilon_alpha2_beta1", "attnlrp", "cp_lrp" ...
        init: Relevance to start from: the "logit" itself, "one", or its softmax "probability".
        layers: Names of the layers whose units are collected, `fnmatch` patterns included; None: all.
        strict: Whether a function that no rule covers is an error. If not, its ordinary gradient is taken, with one
            warning.
        conservation: Whether to keep the books of where relevance goes, layer by layer, for `Relevance.check`. It costs
            memory (every intermediate value is kept) and time.

    Returns:
        A `Relevance`; for a list or tuple of targets, one for each of them.

    Raises:
        UncoveredFunctionError: Some function on the way has no rule; the message names it and the module.
        ValueError, TypeError: An argument is not as described, or the model is in training mode.
        RuntimeError: It is called inside of a transform of `torch.func`.

    Inside of a function under `torch.compile` it breaks the graph and runs as written (with fullgraph=True the compiler
    refuses it).
    """
    refuse_transforms()
    rules = composite_of(composite)
    if layers is not None and not isinstance(layers, str | Sequence):
        raise TypeError(f"layers must be names, a name or None, got {type(layers).__name__}")
    patterns = (layers,) if isinstance(layers, str) else None if layers is None else tuple(layers)
    _check_arguments(inputs, init, patterns)
    targets = _labelled(target)
    for label, value in targets:
        _check_target(label, value, len(inputs))
    patterned = rules.follows_patterns()  # then R itself flows, not c = R / a
    if patterned and conservation:
        raise ValueError("conservation: no books are kept of PatternNet and PatternAttribution")
    model = checked_model(model)
    names = Names(model)
    ledger = Ledger() if conservation else None
    # Outside of inference mode and in grad mode, whatever the caller is in: the passes need autograd's graph.
    # What the rules derive from weights is kept for this call: the next one may find other weights.
    kept = keeping(*open_kept(), Kept())
    with function_modes_as_found(), kept, torch.inference_mode(False), torch.enable_grad():
        collector = Collector(len(inputs), patterns, ledger)
        leaf = (inputs.clone() if inputs.is_inference() else inputs.detach()).requires_grad_()
        carries = any(isinstance(rule, InputRule) for rule in rules.rules())
        carrier = torch.zeros_like(leaf).requires_grad_() if carries else None
        engine = Engine(rules, names, collector, leaf, carrier)
        with compiled_parts_as_written(), engine:
            output = _run(model, leaf)
        logits = engine.renewals.latest(logits_of(output, len(inputs)))
        if logits.is_meta:
            raise ValueError("model: its logits are on the meta device, without values; load its weights first")
        if not logits.requires_grad:
            raise ValueError("model: its logits do not depend on the inputs (through differentiable functions)")
        check_graph(logits, engine, strict, lambda: model(leaf.detach()))
        if ledger is not None:
            ledger.watch(logits, carrier, engine.refused)
        del engine, output  # what only they hold on to is free before the backward passes
        collector.check_patterns()
        if collector.ambiguous:
            collector.sequence_first = _sequence_first(model, inputs[:1], collector)
        _check_names(rules, collector)
        starts = [_Start.at(logits.detach(), label, value, init) for label, value in targets]
        scale = _half_scale(inputs, logits)
        factor = scale * logits.detach() if patterned else scale
        leaves = [leaf] if carrier is None else [leaf, carrier]
        device = inputs.device.type
        found = []
        with torch.autocast(device, enabled=False) if torch.is_autocast_enabled(device) else nullcontext():
            for number, start in enumerate(starts, 1):
                collector.last = number == len(starts)
                # Of a scalar: given a gradient to start from, torch first imports modules for half a second.
                begin = (logits * (start.c * factor)).sum()
                sent = torch.autograd.grad(begin, leaves, retain_graph=not collector.last, allow_unused=True)
                at_input = _at_input(inputs, (None, *sent) if patterned else sent, scale)
                plain, books = logits.detach(), None
                if ledger is not None:
                    books = ledger.take(_total(start.c.double() * plain), _total(at_input), inputs.dtype, scale)
                found.append(Relevance(at_input, collector.take(inputs, scale), plain, books))
    for start in starts:
        start.check()
    return tuple(found) if isinstance(target, list | tuple) else found[0]


def _run(model: Callable[[Tensor], Any], inputs: Tensor) -> Any:
    """What the model returns. Where it fails on inputs unlike its parameters, that is what the error says.

    Only there: a model may cast its inputs, or move them, itself.
    """
    try:
        return model(inputs)
    except UncoveredFunctionError:
        raise
    except RuntimeError as error:
        parameters = model.parameters() if isinstance(model, nn.Module) else ()
        first = next((p for p in parameters if p.is_floating_point()), inputs)
        if first.device != inputs.device:
            expected = f"on the model's device, {first.device}, got {inputs.device}"
            raise ValueError(f"inputs must be {expected}: {error}") from error
        if first.dtype != inputs.dtype:
            expected = f"of the model's dtype, {first.dtype}, got {inputs.dtype}"
            raise TypeError(f"inputs must be {expected}: {error}") from error
        raise


def _sequence_first(model: Callable[[Tensor], Any], one: Tensor, collector: Collector) -> frozenset[str]:
    """The layers whose outputs are [tokens, N, units]: with one sample, their second dimension is 1."""
    probe = Collector(1, tuple(collector.ambiguous))
    leaf = one.detach().clone().requires_grad_()
    with compiled_parts_as_written(), Engine(Composite(), Names(model), probe, leaf, None):
        model(leaf)
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


def _check_arguments(inputs: Tensor, init: str, layers: Sequence[str] | None) -> None:
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise TypeError(f"inputs must be a floating-point tensor [N, ...], got {got}")
    if unfit := _unfit(inputs):
        raise TypeError(f"inputs must be a dense floating-point tensor [N, ...], got {unfit}")
    if inputs.dim() < 2:
        raise ValueError(f"inputs must have a sample dimension and at least one more, got shape {tuple(inputs.shape)}")
    if not isinstance(init, str) or init not in ("logit", "one", "probability"):
        raise ValueError(f'init must be "logit", "one" or "probability", got {init!r}')
    for name in layers or ():
        if not isinstance(name, str):
            raise TypeError(f"layers must be names or patterns, got {name!r}")


def _unfit(tensor: Tensor) -> str | None:
    """What makes it a tensor without values that can be indexed, if anything does."""
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.layout != torch.strided:
        return f"one of layout {tensor.layout}"
    return "one on the meta device, without values" if tensor.is_meta else None


def _check_names(composite: Composite, collector: Collector) -> None:
    for pattern, _ in composite.names:
        if not any(fnmatchcase(name, pattern) for name in collector.seen):
            raise ValueError(f"composite: {pattern!r} matches no layer that ran; there are {', '.join(collector.seen)}")


def _labelled(target: Target | Sequence[Target]) -> list[tuple[str, Target]]:
    """Each target with its name in messages."""
    if not isinstance(target, list | tuple):
        return [("target", cast(Target, target))]
    if not target:
        raise ValueError("target is empty: give one target, or a list of at least one")
    return [(f"target[{i}]", value) for i, value in enumerate(target)]


def _check_target(label: str, target: object, samples: int) -> None:
    if isinstance(target, Tensor):
        if unfit := _unfit(target):
            raise TypeError(f"{label} must be an int or a dense tensor of integers [{samples}], got {unfit}")
        if target.shape != (samples,) or target.dtype not in _INTEGERS:
            raise ValueError(
                f"{label} must be an int or integers [{samples}], got {target.dtype} {tuple(target.shape)}"
            )
    elif target is not None and (isinstance(target, bool) or not isinstance(target, Integral)):
        raise TypeError(f"{label} must be an int, a tensor [N] or None, got {type(target).__name__}")


@dataclass(frozen=True, eq=False)
class _Start:
    """Where the relevance of one target starts: c = R / logit at the target of each sample, 0 elsewhere.

    It is NaN where the target or its logit is not as it must be, which the host learns from `check`.

    Attributes:
        target: The target, if it is a tensor of values yet unseen.
        divisor: The logits that `init` divides by, [N, 1].
    """

    c: Tensor
    label: str
    target: Tensor | None
    divisor: Tensor | None
    init: Init

    @staticmethod
    def at(logits: Tensor, label: str, target: Target, init: Init) -> _Start:
        samples, classes = logits.shape
        value, divisor = torch.ones_like(logits[:, :1]), None
        if target is None:
            index = logits.argmax(1)
        elif isinstance(target, Tensor):
            target = target.to(logits.device, torch.int64)
            index = target.clamp(0, classes - 1)
            value = torch.where((index == target)[:, None], value, torch.nan)
        elif 0 <= target < classes:
            index = torch.full((samples,), int(target), device=logits.device)
        else:
            raise ValueError(f"{label} must be in 0..{classes - 1}, got {target}")
        if init != "logit":
            wide = logits if logits.dtype == torch.float64 else logits.float()
            divisor = wide.gather(1, index[:, None])
            wanted = value if init == "one" else value * wide.softmax(1).gather(1, index[:, None])
            value = torch.where(divisor == 0, torch.nan, wanted / divisor).to(logits.dtype)
        c = torch.zeros_like(logits).scatter_(1, index[:, None], value)
        return _Start(c, label, target if isinstance(target, Tensor) else None, divisor, init)

    def check(self) -> None:
        """The one look that the host takes at the device. ValueError."""
        if self.c.is_cuda and torch.cuda.is_current_stream_capturing():
            return
        classes = self.c.shape[1]
        if self.target is not None and bool(((self.target < 0) | (self.target >= classes)).any()):
            raise ValueError(f"{self.label} must be in 0..{classes - 1}, got {self.target.tolist()}")
        if self.divisor is not None and bool((self.divisor == 0).any()):
            raise ValueError(
                f"init {self.init!r} divides by the logit of {self.label}, which is exactly 0 for some sample; take "
                'init="logit"'
            )
