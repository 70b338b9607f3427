"""The books of a backward pass: where relevance goes between the logits and the input.

Every node of autograd's graph is asked what relevance it was given and what it passed on. Layers account for theirs
(bias, stabiliser); what is lost elsewhere goes by the function that lost it: constants that were added (positions,
class tokens, the biases of norms) or functions that are no multiple of their input (softmax, by first-order Taylor).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor

from zsu_fast.ops.lrp import ForwardTerms
from zsu_fast.reference.lrp import ratio, rounding_noise

from . import tables
from .rules import LayerRule

Reason = Literal["constant", "linearised", "unplaced", "uncovered"]
_LINEARISED = tables.TAYLOR | frozenset(tables.functions_named("scaled_dot_product_attention"))
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3}
_HALF_TOLERANCE = 0.05


@dataclass(frozen=True)
class LayerBalance:
    """Relevance of a layer, summed over samples and units (and over its runs, if there are several).

    Attributes:
        output: What arrived at its output, behind the BatchNorm and the activation that belong to it.
        input: What it passed on to its input.
        bias: What its bias kept as its share.
        stabiliser: What the epsilon of its rule kept.
        unplaced: What found nothing to go to: an output without positive (negative) contributions under alpha-beta.
        amount: Sum of |R| at output and input: what rounding errors are to be compared with.
    """

    output: float
    input: float
    bias: float
    stabiliser: float
    unplaced: float
    amount: float

    @property
    def rest(self) -> float:
        """What arrived and is in none of the accounts: rounding, or a rule that does not conserve."""
        return self.output - self.input - self.bias - self.stabiliser - self.unplaced

    @property
    def error(self) -> float:
        """|rest| as a share of the amount."""
        return abs(self.rest) / self.amount if self.amount else abs(self.rest)


class Loss(NamedTuple):
    """Relevance that a function outside of layers kept (negative: added); parameters that it adds are named with it."""

    function: str
    module: str
    reason: Reason
    absorbed: float


@dataclass(frozen=True)
class Conservation:
    """The books of one target. `print` shows them; start = input + the sum of all other `totals`.

    Attributes:
        start: Relevance of the logits, summed over samples.
        input: Relevance of the model's input.
        layers: Balance of each layer that relevance reached, in execution order.
        elsewhere: What functions outside of layers kept, in execution order.
        tolerance: Largest share of its amount that a layer may leave unexplained if all is to be `ok`.
    """

    start: float
    input: float
    layers: Mapping[str, LayerBalance]
    elsewhere: tuple[Loss, ...]
    tolerance: float

    @property
    def totals(self) -> dict[str, float]:
        """What kept relevance, by account, and what is `unaccounted` for."""
        accounts = {
            name: math.fsum(getattr(layer, name) for layer in self.layers.values())
            for name in ("bias", "stabiliser", "unplaced", "rest")
        }
        for reason in get_args(Reason):
            lost = math.fsum(loss.absorbed for loss in self.elsewhere if loss.reason == reason)
            accounts[reason] = accounts.get(reason, 0.0) + lost
        accounts["unaccounted"] = self.start - self.input - math.fsum(accounts.values())
        return accounts

    @property
    def ok(self) -> bool:
        """Whether every layer, and the whole, is explained within the tolerance. Not if a number is NaN."""
        totals = self.totals
        amount = max((layer.amount for layer in self.layers.values()), default=0.0) or 1.0
        outside = abs(totals["unaccounted"]) + abs(totals["uncovered"])
        return outside <= self.tolerance * amount and all(
            layer.error <= self.tolerance for layer in self.layers.values()
        )

    @property
    def worst(self) -> str | None:
        """Name of the layer that leaves the largest share unexplained; None if there is no layer."""
        errors = {name: layer.error for name, layer in self.layers.items()}
        return max(errors, key=lambda name: math.inf if math.isnan(errors[name]) else errors[name], default=None)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, lists and dicts, as JSON has them."""
        layers = {name: {**vars(layer), "rest": layer.rest} for name, layer in self.layers.items()}
        return {
            "start": self.start,
            "input": self.input,
            "totals": self.totals,
            "layers": layers,
            "elsewhere": [loss._asdict() for loss in self.elsewhere],
            "tolerance": self.tolerance,
            "ok": self.ok,
            "worst": self.worst,
        }

    def __str__(self) -> str:
        columns = ("output", "input", "bias", "stabiliser", "unplaced", "rest")
        rows = [["layer", *columns]]
        rows += [[name, *(f"{getattr(b, column):.4g}" for column in columns)] for name, b in self.layers.items()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
            for row in rows
        ]
        lines += [
            f"{loss.function} in {loss.module or 'the model'} kept {loss.absorbed:.4g} ({loss.reason})"
            for loss in self.elsewhere
        ]
        kept = ", ".join(f"{name} {value:.4g}" for name, value in self.totals.items() if value)
        verdict = "accounts balance" if self.ok else f"accounts do not balance; worst layer: {self.worst}"
        lines.append(f"start {self.start:.6g} -> input {self.input:.6g}; kept by: {kept or 'nothing'}")
        lines.append(f"{verdict} (tolerance {self.tolerance:g})")
        return "\n".join(lines)


class _Label(NamedTuple):
    """What a node of the graph belongs to: a layer (then `reason` is None), or a function in a module."""

    name: str
    module: str = ""
    reason: Reason | None = None


@dataclass
class _Flow:
    """Sums on the device, float64: what arrived, what was passed on, and their magnitudes; for layers their shares."""

    output: Tensor | float = 0.0
    input: Tensor | float = 0.0
    amount: Tensor | float = 0.0
    shares: list[Tensor | float] = field(default_factory=lambda: [0.0, 0.0, 0.0])


class Ledger:
    """Keeps the books: the engine notes tensors in the forward pass, hooks add up in the backward pass.

    Every noted tensor is kept until the graph is gone.
    """

    def __init__(self) -> None:
        self._values: dict[Any, dict[int, Tensor | None]] = {}
        self._labels: dict[Any, _Label] = {}
        self._order: list[_Label] = []
        self._flows: dict[_Label, _Flow] = {}

    # --- forward

    def note(
        self,
        func: Callable,
        module: str | None,
        constants: Iterable[str | None],
        result: Any,
        carrier_of: Callable[[Tensor], Tensor | None],
    ) -> None:
        """Every tensor in `result` came from `func`, called in `module` with `constants` among its arguments.

        `carrier_of` gives what takes R for a tensor, if anything does.
        """
        name = getattr(func, "__name__", str(func)).strip("_")
        named = () if "norm" in name else [constant for constant in constants if constant]
        name = " ".join([name, *(["of", ", ".join(named)] if named else [])])
        label = _Label(name, module or "", "linearised" if func in _LINEARISED else "constant")
        for value in _tensors(result):
            self._note(value, label, value.detach())
            self._note(carrier_of(value), label, None)

    def note_layer(self, name: str, result: Tensor, carrier: Tensor | None) -> None:
        """`result` is the output of a layer, `carrier` takes R for it."""
        self._note(result, _Label(name), result.detach())
        self._note(carrier, _Label(name), None)

    def note_carrier(self, module: str | None, carrier: Tensor) -> None:
        """`carrier` turns R into c again, and drops it where values are zero."""
        self._note(carrier, _Label("input rule", module or "", "unplaced"), None)

    def _note(self, tensor: Tensor | None, label: _Label, value: Tensor | None) -> None:
        node = None if tensor is None else tensor.grad_fn
        if tensor is not None and node is not None:
            self._values.setdefault(node, {}).setdefault(tensor.output_nr, value)
            self._labels.setdefault(node, label)

    def watch(self, logits: Tensor, carrier: Tensor | None, uncovered: Mapping[Any, object]) -> None:
        """Hang a hook on every node between the logits and the two leaves. Nodes without a label are part of the
        function that uses what they make."""
        self._order = list(dict.fromkeys(self._labels.values()))
        waiting = [(logits.grad_fn, _Label("logits", "", "constant"))]
        seen = set()
        while waiting:
            node, user = waiting.pop()
            if node is None or node in seen or hasattr(node, "variable"):
                continue
            seen.add(node)
            label = self._labels.get(node, user)
            if node in uncovered:
                label = label._replace(reason="uncovered")
                self._order.append(label)
            inputs: dict[int, Tensor | None] = {}
            for position, (parent, number) in enumerate(node.next_functions):
                leaf = getattr(parent, "variable", None)
                if leaf is not None:
                    inputs[position] = None if leaf is carrier else leaf.detach()
                elif number in self._values.get(parent, ()):
                    inputs[position] = self._values[parent][number]
                waiting.append((parent, label))
            node.register_hook(self._hook(label, self._values.get(node, {}), inputs))
        self._values, self._labels = {}, {}

    # --- backward

    def _hook(
        self, label: _Label, outputs: Mapping[int, Tensor | None], inputs: Mapping[int, Tensor | None]
    ) -> Callable[[tuple[Tensor | None, ...], tuple[Tensor | None, ...]], None]:
        def add(passed_on: tuple[Tensor | None, ...], arrived: tuple[Tensor | None, ...]) -> None:
            flow = self._flows.setdefault(label, _Flow())
            with torch.no_grad():
                for number, value in outputs.items():
                    total, amount = _relevance(arrived[number], value)
                    flow.output, flow.amount = flow.output + total, flow.amount + amount
                for number, value in inputs.items():
                    total, amount = _relevance(passed_on[number], value)
                    flow.input, flow.amount = flow.input + total, flow.amount + amount

        return add

    @torch.no_grad()
    def add_shares(
        self,
        name: str,
        rule: LayerRule,
        relevance: Tensor,
        output: Tensor,
        terms: ForwardTerms,
        bias: Tensor | None,
        scale: Tensor | None,
    ) -> None:
        """What the bias and the stabiliser of the layer `name` keep, and what goes nowhere.

        relevance: of the layer's activated output, float64; output: as its node kept it; bias and scale: of the folded
        layer, float64, of a shape that broadcasts to the output's.
        """
        flow = self._flows.setdefault(_Label(name), _Flow())
        epsilon = rule.parameters().get("epsilon", 0.0)
        for sign, z, b, empty in _splits(rule, output, terms, bias, scale):
            s = torch.where(empty, 0.0, ratio(relevance, z, epsilon))
            kept = torch.where(s == 0, 0.0, relevance - z * s)
            nowhere = torch.where(s == 0, relevance, 0.0)
            for number, share in enumerate((b * s, kept, nowhere)):
                flow.shares[number] = flow.shares[number] + sign * share.sum()

    def take(self, start: Tensor, input: Tensor, dtype: torch.dtype, scale: float) -> Conservation:
        """The books of one backward pass that ran `scale` times as large; the next begins with empty ones."""
        flows, self._flows = self._flows, {}
        order = [label for label in self._order if label in flows]
        numbers: list[Tensor | float] = [start, input]
        for label in order:
            flow = flows[label]
            numbers += [flow.output, flow.input, flow.amount, *flow.shares]
        plain = torch.stack([torch.as_tensor(n, dtype=torch.float64, device=start.device) for n in numbers]).tolist()
        layers, elsewhere = {}, []
        for place, label in enumerate(order):
            sums = (number / scale for number in plain[2 + 6 * place : 8 + 6 * place])
            output, passed_on, amount, bias, stabiliser, unplaced = sums
            if label.reason is None:
                layers[label.name] = LayerBalance(output, passed_on, bias, stabiliser, unplaced, amount)
            elif abs(output - passed_on) > 1e-9 * amount:
                elsewhere.append(Loss(label.name, label.module, label.reason, output - passed_on))
        tolerance = _TOLERANCES.get(dtype, _HALF_TOLERANCE)
        return Conservation(plain[0], plain[1], layers, tuple(elsewhere), tolerance)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _tensors(item)


def _relevance(c: Tensor | None, value: Tensor | None) -> tuple[Tensor | float, Tensor | float]:
    """Sums of R and of |R|, where R is c times `value`, or c itself."""
    if c is None:
        return 0.0, 0.0
    relevance = c.double() if value is None else c.double() * value.double()
    return relevance.sum(), relevance.abs().sum()


def _splits(
    rule: LayerRule, output: Tensor, terms: ForwardTerms, bias: Tensor | None, scale: Tensor | None
) -> Iterator[tuple[float, Tensor, Tensor, Tensor]]:
    """(sign, z, b, empty) of each part of a rule: sign R is distributed in proportion to the contributions to z, of
    which b is the bias's; where they are all 0, `empty`, it goes nowhere."""
    parameters: dict[str, Any] = {"gamma": 0.0, "alpha": 1.0, "beta": 0.0, **rule.parameters()}
    gamma = parameters["gamma"]
    y = output.double()
    b = torch.zeros_like(y[:1]) if bias is None else bias
    never = torch.zeros_like(b, dtype=torch.bool)
    match parameters["rule"]:
        case "epsilon" | "zero":
            yield 1.0, y, b, never
        case "gamma" if terms.denominator is not None:
            yield 1.0, terms.denominator.double(), b + gamma * b.clamp(min=0), never
        case "zplus" | "alpha_beta" if terms.denominator is not None:
            yield 1.0, terms.denominator.double(), b.clamp(min=0), terms.denominator == 0
        case name if terms.magnitude is not None:
            linear, absolute = y - b, terms.magnitude.double()
            absolute = absolute if scale is None else absolute * scale.abs()
            if name == "gamma":
                side = y.sign()
                favoured = b + gamma * torch.where(side > 0, b.clamp(min=0), b.clamp(max=0))
                yield 1.0, (1 + gamma / 2) * linear + side * (gamma / 2) * absolute + favoured, favoured, never
            else:
                noise = rounding_noise(output.dtype) * (absolute + y.abs())
                for sign, half in ((parameters["alpha"], 1), (-parameters["beta"], -1)):
                    share = half * (half * b).clamp(min=0)
                    z = (linear + half * absolute) / 2 + share
                    if sign:
                        yield sign, z, share, z.abs() <= noise
