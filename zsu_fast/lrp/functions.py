"""The autograd functions whose backward is an LRP rule. What flows backwards is c = R / a, not a gradient.

Each takes its result ready-made: the forward pass is the model's own kernel, so that the logits are the model's logits.
None is ever differentiated twice: only `relevance` runs their backward, and it keeps no graph of that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from zsu_fast.ops.lrp import ForwardTerms, LinearMap, forward_terms, rule_backward
from zsu_fast.ops.prepared import keeping
from zsu_fast.reference.gates import ACTIVATIONS, RELEVANCE
from zsu_fast.reference.layout import per_unit
from zsu_fast.reference.lrp import ratio

from .collector import Collector, Unit
from .composites import Choice
from .distributed import is_freed
from .input_rules import input_relevance
from .patterns import PatternRule, pattern_backward
from .rules import InputRule, LayerRule, Rule

_ops = torch.ops.zsu_fast
_SAVES_ACTIVATED = (ACTIVATIONS["identity"], ACTIVATIONS["relu"])
_PLAIN_INPUT = ("zero", "epsilon")


class LayerCall(NamedTuple):
    """One execution of a linear or convolution layer: y = scale * map(x, weight) + bias, a = activation(y).

    `carries`: R itself may arrive beside c, from an input rule above. `rows`: of which sample each row of x is,
    [rows], if they are no runs of equal length of one sample each.
    """

    map: LinearMap
    choice: Choice
    weight: Tensor
    bias: Tensor | None
    unit: Unit
    collector: Collector
    nonnegative_input: bool = False
    scale: Tensor | None = None
    activation: int = 0
    carries: bool = False
    rows: Tensor | None = None

    @property
    def rule(self) -> Rule | None:
        """None as long as it depends on the number of layers that are still to run."""
        return self.choice.rule

    @property
    def arriving(self) -> int:
        """What the relevance pass is given, as a code for `rule_backward`: c at a = activation(y), or R."""
        return RELEVANCE if self.carries else self.activation

    def saves(self, input: Tensor, output: Tensor, activated: Tensor) -> tuple[Tensor | None, Tensor]:
        """What the backward needs: the input (None if its shape will do) and the output.

        Behind a ReLU the activation is kept, which the next layer keeps anyway: where it differs from the output, no
        relevance arrives, unless it is carried.
        """
        plain = isinstance(self.rule, PatternRule) or getattr(self.rule, "name", None) in _PLAIN_INPUT
        behind = self.activation in _SAVES_ACTIVATED and not self.carries
        return None if plain else input, activated if behind else output

    def unit_dim(self, output: Tensor) -> int:
        return 1 if self.map.kind == "conv" else output.dim() - 1

    def terms(self, input: Tensor | None) -> ForwardTerms:
        """The extra forward pass of the rule, for the `input` that `saves` kept."""
        if input is None:
            return ForwardTerms()
        assert isinstance(self.rule, LayerRule)
        parameters = self.rule.parameters()
        return forward_terms(
            self.map,
            parameters["rule"],
            input,
            self.weight,
            self.bias,
            scale=self.scale,
            activation=self.arriving,
            nonnegative_input=self.nonnegative_input,
            **{name: parameters[name] for name in ("gamma", "beta") if name in parameters},
        )


class Layer(torch.autograd.Function):
    """A linear or convolution layer with the BatchNorm and the activation that directly follow it, as one node.

    Beside its output it has a carrier of R for it, if its `LayerCall` says so. An input rule sends R to `carrier`, the
    carrier of `input`.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, carrier: Tensor | None, call: LayerCall, results: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor | None]:
        output, activated = results
        kept_input, kept_output = call.saves(input, output, activated)
        ctx.save_for_backward(kept_input, kept_output)
        ctx.set_materialize_grads(False)
        ctx.call, ctx.shape, ctx.terms = call, input.shape, None
        return activated, _empty_carrier(activated) if call.carries else None

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, carried: Tensor | None) -> tuple[Tensor | None, ...]:
        with keeping(*ctx.call.collector.kept):
            return Layer._backward(ctx, gradient, carried)

    @staticmethod
    def _backward(ctx: Any, gradient: Tensor | None, carried: Tensor | None) -> tuple[Tensor | None, ...]:
        call: LayerCall = ctx.call
        if is_freed(call.weight):
            raise RuntimeError(
                f"model: fully_shard has freed the weight of {call.unit.name!r} before its relevance pass"
            )
        input, output = ctx.saved_tensors
        unit_dim = call.unit_dim(output)
        wanted = call.collector.wants(call.unit)
        if gradient is None and carried is None:
            return None, None, None, None
        if isinstance(call.rule, PatternRule):
            assert gradient is not None
            signal = gradient if call.activation == 0 else torch.where(output > 0, gradient, 0.0)
            if wanted:
                call.collector.add_relevance(call.unit, signal, unit_dim, call.rows)
            s = pattern_backward(call.rule, call.map, call.unit, signal, call.weight, call.scale, ctx.shape)
            return s, None, None, None
        if (
            call.carries
            or isinstance(call.rule, InputRule)
            or (wanted and call.rows is None and not call.collector.samples_in_rows(call.unit, output))
        ):
            relevance = _relevance(call, gradient, carried, output)
            if wanted:
                call.collector.add_relevance(call.unit, relevance, unit_dim, call.rows)
            wanted = False
            if isinstance(call.rule, InputRule):
                r = input_relevance(call.rule, call.map, relevance, input, call.weight, call.bias, output, call.scale)
                return None, r, None, None
            if call.carries:
                gradient = relevance
        assert isinstance(call.rule, LayerRule)
        assert gradient is not None
        ledger, terms = call.collector.ledger, ctx.terms
        if terms is None and (ledger is not None or not call.collector.last):
            terms = call.terms(input)
        ctx.terms = None if call.collector.last else terms  # they depend on the input alone: other targets share them
        if ledger is not None:
            wide = gradient.double()
            relevance = wide if call.carries else _relevance(call, wide, None, output.double())
            factors = (call.bias, call.scale)
            bias, scale = (None if factor is None else per_unit(factor, unit_dim, wide) for factor in factors)
            ledger.add_shares(call.unit.name, call.rule, relevance, output, terms, bias, scale)
        c, neurons = rule_backward(
            call.map,
            gradient=gradient,
            input=ctx.shape if input is None else input,
            weight=call.weight,
            bias=call.bias,
            output=output,
            scale=call.scale,
            activation=call.arriving,
            unit_dim=unit_dim,
            nonnegative_input=call.nonnegative_input,
            collect=wanted,
            **call.rule.parameters(),
            **({} if terms is None else terms._asdict()),
        )
        if wanted:
            call.collector.add(call.unit, neurons, call.rows)
        return c, None, None, None


def _empty_carrier(values: Tensor) -> Tensor:
    """A zero of the shape of `values`, which takes no memory."""
    return values.new_zeros(()).expand(values.shape)


class Carrier(torch.autograd.Function):
    """A carrier for values that have none: what arrives as R goes on as c = R / st(x), and is dropped where x = 0."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values)
        return _empty_carrier(values)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        (values,) = ctx.saved_tensors
        return (torch.where(values == 0, 0.0, ratio(relevance, values, 1e-6)),)


class WinnerCarrier(torch.autograd.Function):
    """The carrier behind a maximum: R goes to the winner, as c does."""

    @staticmethod
    def forward(
        ctx: Any, carrier: Tensor, values: Tensor, output: Tensor, function: Callable[[Tensor], Tensor]
    ) -> Tensor:
        ctx.save_for_backward(values)
        ctx.function = function
        return _empty_carrier(output)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:
        with torch.enable_grad():
            values = ctx.saved_tensors[0].detach().requires_grad_()
            return *torch.autograd.grad((ctx.function(values) * relevance).sum(), values), None, None, None


def _relevance(call: LayerCall, gradient: Tensor | None, carried: Tensor | None, output: Tensor) -> Tensor:
    """R of the activated output: c a, and what was carried."""
    if gradient is None:
        assert carried is not None
        return carried
    activated = output
    if call.activation not in _SAVES_ACTIVATED or call.carries:
        activated = output * _ops.activation_gate(torch.ones_like(output), output, call.activation)
    return gradient * activated if carried is None else gradient * activated + carried


class Activation(torch.autograd.Function):
    """An activation with the identity rule R_in = R_out: c_in = c act(x) / x, with the limit at x = 0."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, result: tuple[Tensor], activation: int) -> Tensor:
        ctx.save_for_backward(input)
        ctx.activation = activation
        return result[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _ops.activation_gate(gradient, ctx.saved_tensors[0], ctx.activation), None, None


class Identity(torch.autograd.Function):
    """An elementwise function f with the identity rule and no kernel of ours: c_in = c factor, factor = f(x) / x."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, result: tuple[Tensor], factor: tuple[Tensor]) -> Tensor:
        ctx.save_for_backward(factor[0])
        return result[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * ctx.saved_tensors[0].to(gradient.dtype), None, None


class Norm(torch.autograd.Function):
    """LayerNorm, GroupNorm, InstanceNorm or RMSNorm with 1/sigma held constant (Ali et al. 2022; AttnLRP, Prop. 3.4).

    `shape` is that of the rows that are normalised: [rows, *normalized].
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        results: tuple[Tensor, Tensor],
        weight: Tensor | None,
        shape: tuple[int, ...],
        centred: bool,
    ) -> Tensor:
        output, rstd = results
        ctx.save_for_backward(rstd)
        ctx.weight, ctx.shape, ctx.centred = weight, shape, centred
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (rstd,) = ctx.saved_tensors
        gate = _ops.layer_norm_gate if ctx.centred else _ops.rms_norm_gate
        rows = gradient.reshape(ctx.shape)
        c = gate(rows, ctx.weight, rstd.reshape(rows.shape[0]), rows.dim() - 1)
        return c.view(gradient.shape), None, None, None, None


class Scale(torch.autograd.Function):
    """Eval-mode BatchNorm that follows no linear layer: an affine function, c_in = c scale per unit."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, result: tuple[Tensor], scale: Tensor) -> Tensor:
        ctx.scale = scale
        return result[0]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return _ops.batch_norm_gate(gradient, ctx.scale, 1), None, None


class Share(torch.autograd.Function):
    """x itself; a fixed share of the relevance comes back (the uniform rule of products, AttnLRP, Prop. 3.3)."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, share: float) -> Tensor:
        ctx.share = share
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return gradient * ctx.share, None


class Heads(torch.autograd.Function):
    """x itself, the output of attention heads [N, heads, tokens, head_dim]; notes the relevance of each head."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, unit: Unit, collector: Collector) -> Tensor:
        ctx.save_for_backward(input)
        ctx.unit, ctx.collector = unit, collector
        return input.view_as(input)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        (output,) = ctx.saved_tensors
        ctx.collector.add_relevance(ctx.unit, gradient * output, output.dim() - 3)
        return gradient, None, None
