"""The engine: a `TorchFunctionMode` under which a model's forward pass records LRP rules instead of gradients.

Every torch function that touches a tensor which depends on the input comes by here. It either has a handler (its rule),
or stands in `tables` (its ordinary backward is the rule), or is refused. The model itself is not touched: parameters
are used detached, functions that work in place are run out of place.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from zsu_fast.model.aten import as_written
from zsu_fast.model.shards import is_sharded

from . import tables
from .collector import Collector
from .composites import Choice, Composite, Kind
from .distributed import layer_behind, move_hooks, passed_on
from .eager import keep_checkpointed
from .embedded import Lookup
from .functions import Carrier, Layer, LayerCall, WinnerCarrier
from .inplace import ASSIGNS, INPLACE_ARGUMENT, TWINS, Renewals, StaleViewError, asks_in_place
from .marks import ATTENTION, GATE, NO_GATE, Mark, Marks
from .names import Names
from .rows import note_rows
from .rules import InputRule

Handler = Callable[..., Any]
HANDLERS: dict[Callable, Handler] = {}
"""Rules by function, called as handler(engine, function, *args, **kwargs); NotImplemented leaves it to the tables.

By `is_sharded`, what takes all functions of DTensors, called as handler(engine, function, args, kwargs).
"""


def handles(*names: str) -> Callable[[Handler], Handler]:
    """Register a handler for every function of torch with one of these names."""

    def register(handler: Handler) -> Handler:
        for function in tables.functions_named(*names):
            HANDLERS[function] = handler
        return handler

    return register


class UncoveredFunctionError(RuntimeError):
    """A function that no rule covers has touched a value that depends on the input."""


_NATIVE = frozenset(
    tables.functions_named(
        "requires_grad_", "detach_", "retain_grad", "register_hook", "detach", "dim", "size", "numel"
    )
)


@lru_cache(maxsize=1024)
def _is_native(func: Callable) -> bool:
    """Whether `func` runs as it is: it changes no values, or reads an attribute that has none."""
    return func in _NATIVE or (getattr(func, "__name__", "") == "__get__" and func not in tables.MOVES)


_DIFFERENTIATE = (torch.autograd.grad, torch.autograd.backward, torch.Tensor.backward)
_POSITIVE_MODES = ("nearest", "nearest-exact", "area", "linear", "bilinear", "trilinear")
_PENDING_MAY_PASS = tables.MOVES | tables.AVERAGES


class Engine(TorchFunctionMode):
    """Records one forward pass.

    Args:
        composite: The rules.
        names: Names of the model's layers.
        collector: Takes the relevance of units in the backward pass.
        input: The tensor that relevance is sent back to: a leaf that requires grad.
        carrier: Leaf of the same shape that takes R where a layer's rule gives R, not c; None if no rule does.
    """

    def __init__(
        self, composite: Composite, names: Names, collector: Collector, input: Tensor, carrier: Tensor | None
    ) -> None:
        super().__init__()
        self.composite, self.names, self.collector = composite, names, collector
        self.input, self.carrier = input, carrier
        self.marks = Marks()
        self.marks[input] = Mark(carrier=carrier)
        self.refused: dict[Any, UncoveredFunctionError] = {}
        self.carries = composite.carries_relevance()
        self.follows_patterns = composite.follows_patterns()
        self.choices: list[Choice] = []
        self.renewals = Renewals()
        self.lookup: Lookup | None = None
        self.overwrites = False  # whether a handler may compute in the memory of its first argument
        self._newest: weakref.ref[Any] | None = None

    def __exit__(self, *exception: Any) -> None:
        try:
            for choice in self.choices:
                choice.settle(self.composite, len(self.choices))
        finally:
            if self in _get_current_function_mode_stack():  # an interrupt may have come while torch had set it aside
                super().__exit__(*exception)

    def choose(self, name: str, kind: Kind) -> Choice:
        """The rule of the layer that runs next."""
        position = len(self.choices)
        choice = Choice(name, kind, position, self.composite.rule(name, kind, position))
        self.choices.append(choice)
        return choice

    def saving(self) -> AbstractContextManager[Any] | None:
        """Where what the next function saves for its backward pass goes; None: where it always does."""
        return keep_checkpointed()

    def __torch_function__(
        self, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        call = as_written(func, args, dict(kwargs or {}))
        if (saving := self.saving()) is None:
            return self._run(*call)
        with saving:
            return self._run(*call)

    def _run(self, func: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if self.names.of_shards:
            self._recognise(func, tensors_in(*args, *kwargs.values()))
        if self.renewals:
            args, kwargs = self._resolved(func, args, kwargs)
        if _is_native(func):
            return func(*args, **kwargs)
        if func is F.embedding and self.lookup and (given := self.lookup.of(*args, **kwargs)) is not None:
            return given
        args = _operands_first(func, args, kwargs)
        if func in INPLACE_ARGUMENT:
            asked, args = asks_in_place(func, args, kwargs)
            if asked:
                return self._renew(func, args, kwargs)
        if func in TWINS or func in ASSIGNS:
            target = args[0]
            elsewhere = any(self.depends(t) for t in tensors_in(*args[1:], *kwargs.values()))
            if self.depends(target) or (elsewhere and func not in ASSIGNS and target._base is None):
                return self._renew(func, args, kwargs)
            return func(*self.frozen(args), **self.frozen(kwargs))
        return self.call(func, *args, **kwargs)

    def call(self, func: Callable, *args: Any, **kwargs: Any) -> Any:
        """Run `func` under the rules. Handlers build on this what they are made of."""
        involved = tensors_in(*args, *kwargs.values())
        tracked = [t for t in involved if self.depends(t)]
        if not tracked:
            given = self.frozen(args)
            result = func(*given, **self.frozen(kwargs))
            # A parameter that comes back as it is (`weight.to(device)`) stays one.
            return next((arg for arg, same in zip(args, given, strict=True) if result is same), result)
        if torch._C._are_functorch_transforms_active():
            raise UncoveredFunctionError(
                f"{_describe(func)}: the model runs inside of torch.func (vmap, grad ...) in its forward pass, where "
                "no layer can be told from another; call it without, on a batch"
            )
        if self.names.of_shards and any(is_sharded(t) for t in involved):
            return HANDLERS[is_sharded](self, func, args, kwargs)
        if func in _DIFFERENTIATE:  # whatever `strict` says: the rules would give other values, and so other logits
            raise UncoveredFunctionError(
                f"{_describe(func)}: the model takes gradients in its forward pass, which runs under LRP rules here"
            )
        if self.follows_patterns and func not in tables.SIGNALS:
            result = func(*self.frozen(args), **self.frozen(kwargs))
            self.refuse(result, func, "PatternNet and PatternAttribution are not defined for it")
            return result
        handler = HANDLERS.get(func)
        result = NotImplemented if handler is None else handler(self, func, *args, **kwargs)
        if result is NotImplemented:
            result = self._leave_to_autograd(func, args, kwargs, involved, tracked)
        note_rows(self.marks, self.collector.samples, func, args, kwargs, result)
        self._newest = weakref.ref(result) if isinstance(result, Tensor) else None
        if self.collector.ledger is not None:
            constants = (self.names.of(t) for t in involved if not self.depends(t))
            module = self.names.running_module()
            self.collector.ledger.note(func, module, constants, result, lambda t: self.marks[t].carrier)
        return result

    def depends(self, value: object) -> bool:
        """Whether `value` is a tensor that relevance can flow through, back to the input."""
        return isinstance(value, Tensor) and value.requires_grad and (not value.is_leaf or self._is_ours(value))

    def _is_ours(self, leaf: Tensor) -> bool:
        return leaf is self.input or leaf is self.carrier

    def frozen(self, value: Any) -> Any:
        """`value` with parameters detached, so that no gradient of theirs is ever computed."""
        if isinstance(value, Tensor):
            return value.detach() if value.requires_grad and value.is_leaf and not self._is_ours(value) else value
        if type(value) in (tuple, list):
            return type(value)(self.frozen(v) for v in value)
        if type(value) is dict:
            return {k: self.frozen(v) for k, v in value.items()}
        return value

    def node(
        self, input: Tensor, call: LayerCall, output: Tensor, activated: Tensor, instead_of: Tensor | None = None
    ) -> Tensor:
        """The autograd node of a layer, whose results are at hand; `activated` is `output` if nothing follows yet.

        `instead_of`: the layer's output so far, which the graph then leaves aside.
        """
        # A rule that is not settled yet may turn out to be one that sends R.
        sends = isinstance(call.rule, InputRule) or (call.rule is None and self.carries)
        carrier = self.carrier_of(input) if sends else None
        result, carried = Layer.apply(input, carrier, call, (output, activated))
        if instead_of is not None:
            move_hooks(instead_of, result)
        self.marks[result] = Mark(
            nonnegative=call.activation in (1, 5),
            gate=self.marks[input].gate if call.activation == 0 else NO_GATE,  # talking heads: gates, mixed
            layer=call.unit.name,
            carrier=carried,
            call=call,
            source=input,
        )
        if self.collector.ledger is not None:
            self.collector.ledger.note_layer(call.unit.name, result, carried)
        return result

    def _recognise(self, func: Callable, tensors: list[Tensor]) -> None:
        """torch.distributed gives a module other objects than it was called with; the same is known of them."""
        if func is torch.Tensor.view_as and tensors[0] is tensors[1] is not self.renewals.latest(tensors[0]):
            raise UncoveredFunctionError(
                f"torch.distributed: what module {self.names.running_module()!r} is given was written to in place, "
                "which runs out of place here; write the model without the in-place operation"
            )
        for tensor in tensors:
            mark = self.marks[tensor]
            if mark.itself is not None and passed_on(tensor):
                self.marks[tensor] = self.marks[mark.itself]
                move_hooks(mark.itself, tensor)
            elif mark.layer is None and passed_on(tensor) and (layer := layer_behind(tensor)) is not None:
                self.marks[tensor] = mark._replace(layer=layer)

    def carrier_of(self, values: Tensor) -> Tensor:
        """What takes R for `values`."""
        carrier = self.marks[values].carrier
        if carrier is None:
            carrier = Carrier.apply(values)
            if self.collector.ledger is not None:
                self.collector.ledger.note_carrier(self.names.running_module(), carrier)
        return carrier

    def carrier_through(self, values: Tensor) -> Tensor | None:
        """What takes R for an elementwise function of `values` that passes it unchanged; None if none will come."""
        return self.carrier_of(values) if self.carries else self.marks[values].carrier

    def refuse(self, result: Any, func: Callable, reason: str) -> None:
        """Note that `result` came about in a way that no rule covers; it matters if the logits depend on it."""
        function = _describe(func)
        module = self.names.running_module()
        where = (
            "outside of any module" if module is None else f"in module {module!r}" if module else "in the model itself"
        )
        error = UncoveredFunctionError(f"{function}, called {where}: {reason}")
        for output in tensors_in(result):
            if output.grad_fn is not None:
                self.refused[output.grad_fn] = error

    def _leave_to_autograd(
        self, func: Callable, args: tuple, kwargs: dict, involved: list[Tensor], tracked: list[Tensor]
    ) -> Any:
        result = func(*self.frozen(args), **self.frozen(kwargs))
        outputs = [t for t in tensors_in(result) if t.requires_grad]
        if not outputs:
            return result
        pending = next((m.pending for t in tracked if (m := self.marks[t]).pending), None)
        if func not in tables.UNTOUCHED:
            hint = tables.HINTS.get(getattr(func, "__name__", ""))
            self.refuse(result, func, "no LRP rule covers it" + (f"; {hint}" if hint else ""))
        elif pending and func not in _PENDING_MAY_PASS:
            self.refuse(result, func, f"its argument comes from {pending}, which only a division or a gate may use")
        else:
            self._mark(func, args, kwargs, involved, tracked, outputs)
        return result

    def _mark(
        self,
        func: Callable,
        args: tuple,
        kwargs: dict,
        involved: list[Tensor],
        tracked: list[Tensor],
        outputs: list[Tensor],
    ) -> None:
        """Carry over what stays true of the values."""
        if func in tables.TAYLOR:
            gate = ATTENTION if func in tables.SOFTMAX else GATE if func in tables.GATES else NO_GATE
            for output in outputs:
                self.marks[output] = Mark(nonnegative=True, gate=gate)
            return
        marks = [self.marks[t] for t in tracked]
        nonnegative = (
            func not in tables.PIECEWISE_LINEAR
            and all(self.marks[t].nonnegative for t in involved if t.is_floating_point())
            and not _may_undershoot(func, args, kwargs)
        )
        common = Mark(nonnegative=nonnegative)
        if func in tables.MOVES or func in tables.AVERAGES or func in tables.RESAMPLING or func in tables.HOMOGENEOUS:
            common = common._replace(gate=min(m.gate for m in marks), pending=marks[0].pending)
        carriers: list[Tensor] | None = None
        if func in tables.HOMOGENEOUS and len(marks) == 1 and marks[0].carrier is not None and len(outputs) == 1:
            carriers = [self._winner_carrier(func, args, kwargs, tracked[0], outputs[0])]
        if func in tables.MOVES or func in tables.RESAMPLING:
            common = common._replace(layer=marks[0].layer if len(marks) == 1 else None)
            if all(m.carrier is not None for m in marks):
                carried = func(*self._carriers(self.frozen(args)), **self._carriers(self.frozen(kwargs)))
                carriers = [t for t in tensors_in(carried) if t.requires_grad]
        if func is F.pad:
            common = common._replace(padded=_zero_padding(*args, **kwargs), source=tracked[0])
        for i, output in enumerate(outputs):
            if not any(output is t for t in involved):
                self.marks[output] = common._replace(carrier=carriers[i]) if carriers else common

    def _winner_carrier(self, func: Callable, args: tuple, kwargs: dict, values: Tensor, output: Tensor) -> Tensor:
        def again(x: Tensor) -> Tensor:
            there = [x if a is values else a for a in args], {k: x if v is values else v for k, v in kwargs.items()}
            return next(t for t in tensors_in(func(*there[0], **there[1])) if t.is_floating_point())

        return WinnerCarrier.apply(self.marks[values].carrier, values.detach(), output.detach(), again)

    def _carriers(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            carrier = self.marks[value].carrier
            return value if carrier is None else carrier
        if type(value) in (tuple, list):
            return type(value)(self._carriers(v) for v in value)
        if type(value) is dict:
            return {k: self._carriers(v) for k, v in value.items()}
        return value

    def _renew(self, func: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Run a function that writes into its first argument out of place; the old object stands for the result."""
        target = args[0]
        if func is torch.Tensor.copy_:
            result = self.call(torch.Tensor.expand_as, self.call(torch.Tensor.to, args[1], target), target)
        elif func in ASSIGNS:
            result = target.clone()
            func(result, *self.frozen(args[1:]))
        else:
            # What was made by the function before this one has been used by none: its values are free to go.
            unused = target._base is None and self._newest is not None and self._newest() is target
            self.overwrites = unused and not self.carries and self.collector.ledger is None
            try:
                result = self.call(TWINS.get(func, func), *args, **kwargs)
            finally:
                self.overwrites = False
        self.renewals.note(func, target, result)
        return result

    def _resolved(self, func: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        """The arguments as they would be by now, had the functions that write in place done so."""
        if func is torch.Tensor.__setitem__:
            self.renewals.settle(args[0], args[1])
        try:
            return self.renewals.resolve(tuple(args)), {k: self.renewals.resolve(v) for k, v in kwargs.items()}
        except StaleViewError:
            raise UncoveredFunctionError(
                f"{_describe(func)}: its argument shares memory with a tensor that was written to in place, which runs "
                "out of place here; write the model without the in-place operation"
            ) from None


_OPERANDS = ("input", "self", "mat1", "batch1", "tensor1", "other", "mat2", "batch2", "vec", "tensor2")


def _operands_first(func: Callable, args: Sequence[Any], kwargs: dict[str, Any]) -> Sequence[Any]:
    """Operands given by name, as in torch.mul(x, other=y), by position: their names differ between functions."""
    if not kwargs or not (func in HANDLERS or func in INPLACE_ARGUMENT):
        return args
    return (*args, *(kwargs.pop(name) for name in _OPERANDS if name in kwargs))


_SEQUENCES = (tuple, list)


def tensors_in(*values: Any) -> list[Tensor]:
    """Every tensor among arguments or results, in sequences too."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, _SEQUENCES):
            found += tensors_in(*value)
    return found


def _zero_padding(
    input: Tensor, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> tuple[int, ...] | None:
    """How many zeros F.pad puts before and after each dimension, the last first; None if it does anything else."""
    return tuple(pad) if mode == "constant" and not value and min(pad, default=0) >= 0 else None


def _may_undershoot(func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether values below zero can come out though none go in: padding with a number, cubic interpolation."""
    if func is F.pad:
        value = kwargs.get("value", args[3] if len(args) > 3 else None)
        return value is not None and value < 0
    mode = kwargs.get("mode", args[3] if len(args) > 3 else "nearest")
    return func in tables.RESAMPLING and mode not in _POSITIVE_MODES


def _describe(func: Callable) -> str:
    if getattr(func, "__module__", None) == F.__name__:  # which wraps some functions, and has others in private twins
        return func.__name__.removeprefix("_")
    name: str = getattr(func, "__qualname__", None) or getattr(func, "__name__", None) or repr(func)
    return name.replace("TensorBase", "Tensor").replace("_VariableFunctionsClass", "torch")
