"""LRP rules as plain values: frozen, comparable, picklable, printable.

A rule says how a linear or convolution layer distributes the relevance of its outputs over its inputs. The formulas
stand in `zsu_fast.reference.lrp` (Zero, Epsilon, Gamma, ZPlus, AlphaBeta) and in `input_rules` (Flat, WSquare, ZBox,
Pass).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch


def _number(rule: object, name: str, minimum: float) -> None:
    value = getattr(rule, name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < minimum:
        raise ValueError(f"{type(rule).__name__}: {name} must be a finite number >= {minimum:g}, got {value!r}")
    object.__setattr__(rule, name, float(value))


@dataclass(frozen=True)
class Rule:
    """Base of all rules. Numbers are checked and stored as float."""

    def __post_init__(self) -> None:
        for field in fields(self):
            _number(self, field.name, 0.0)


class LayerRule(Rule):
    """A rule that carries c = R / a through the layer: inputs that are zero get no relevance."""

    name = ""

    def parameters(self) -> dict[str, Any]:
        """The keywords of `zsu_fast.ops.lrp.rule_backward` for this rule, its name included."""
        return {"rule": self.name, **{field.name: getattr(self, field.name) for field in fields(self)}}


class InputRule(Rule):
    """A rule that gives relevance to inputs that are zero, so that R itself has to be carried from there on.

    Made for the layer that is fed by the model's input (as `Composite.first`), but it may stand anywhere. R then goes
    unchanged through activations (of units that do not fire too), shapes, padding, interpolation and elementwise affine
    functions, and to the winner of a maximum; everywhere else it goes on in proportion to the values, which drops it
    where they are zero.
    """


@dataclass(frozen=True)
class Zero(LayerRule):
    """LRP-0: R_in = x * W^T (R / y) (Bach et al. 2015, eq. 56). Outputs that are exactly 0 pass nothing on."""

    name = "zero"


@dataclass(frozen=True)
class Epsilon(LayerRule):
    """LRP-epsilon: R_in = x * W^T (R / (y + epsilon sign(y))) (Bach et al. 2015, eq. 58). The bias takes its share."""

    epsilon: float = 1e-6
    name = "epsilon"


@dataclass(frozen=True)
class Gamma(LayerRule):
    """LRP-gamma: contributions with the sign of the output are favoured by 1 + gamma (Montavon et al. 2019).

    Signed inputs are served by the generalised rule (Andeol et al. 2021), which is the same where inputs are >= 0. The
    bias is favoured as a contribution is. With a large epsilon it is the "gamma + epsilon" rule.
    """

    gamma: float = 0.25
    epsilon: float = 1e-6
    name = "gamma"


@dataclass(frozen=True)
class ZPlus(LayerRule):
    """z+ (alpha 1, beta 0): only positive contributions x_i w_ij > 0 receive relevance (Montavon et al. 2017)."""

    epsilon: float = 1e-6
    name = "zplus"


@dataclass(frozen=True)
class AlphaBeta(LayerRule):
    """alpha-beta: positive contributions weighted by alpha, negative ones by -beta (Bach et al. 2015, eq. 60)."""

    alpha: float = 2.0
    beta: float = 1.0
    epsilon: float = 1e-6
    name = "alpha_beta"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isclose(self.alpha - self.beta, 1.0):
            raise ValueError(
                f"AlphaBeta: alpha - beta must be 1 (relevance is conserved), got {self.alpha}, {self.beta}"
            )


@dataclass(frozen=True)
class Flat(InputRule):
    """Flat: every input that an output is connected to gets the same share (Lapuschkin et al. 2019)."""


@dataclass(frozen=True)
class WSquare(InputRule):
    """w^2: R_in = (W^2)^T (R / (W^2 1)), for inputs of unknown bounds (Montavon et al. 2017).

    Args:
        bias: Whether b^2 joins the denominator and keeps its share. The paper's layer has none, and with False (as in
            iNNvestigate and RelevancePropagation.jl) relevance is conserved; zennit is True.
    """

    bias: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.bias, bool):
            raise TypeError(f"WSquare: bias must be True or False, got {self.bias!r}")


@dataclass(frozen=True)
class Pass(InputRule):
    """R_in = R_out, for a layer whose output has the shape of its input."""


@dataclass(frozen=True)
class ZBox(InputRule):
    """z-box, for inputs within [low, high]: z = W x - W+ low - W- high (Montavon et al. 2017).

    Args:
        low, high: Bounds of the layer's input, after any normalisation: a number, or one per channel (a sequence, or a
            tensor such as the normalised black and white image [1, C, 1, 1] or [1, C, H, W] with constant channels).
        epsilon: Stabiliser of the denominator.
    """

    low: float | tuple[float, ...]
    high: float | tuple[float, ...]
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        low, high = _bound("low", self.low), _bound("high", self.high)
        count = {len(bound) for bound in (low, high)} - {1}
        if len(count) > 1:
            raise ValueError(f"ZBox: low and high must have as many channels, got {len(low)} and {len(high)}")
        width = max(count, default=1)
        if any(a > b for a, b in zip(low * (width // len(low)), high * (width // len(high)), strict=True)):
            raise ValueError(f"ZBox: low must be <= high, got low {low} and high {high}")
        object.__setattr__(self, "low", low[0] if len(low) == 1 else low)
        object.__setattr__(self, "high", high[0] if len(high) == 1 else high)
        _number(self, "epsilon", 0.0)

    def bounds(self, input: torch.Tensor, channel_dim: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(low, high) as tensors of the dimensions of `input`: 1 or C long in `channel_dim`, 1 elsewhere."""

        def spread(bound: float | tuple[float, ...]) -> torch.Tensor:
            # Each filled in on the device: a copy from the host would make it wait, and no CUDA graph could hold it.
            each = bound if isinstance(bound, tuple) else (bound,)
            values = torch.cat([input.new_full((1,), value) for value in each])
            shape = [1] * input.dim()
            shape[channel_dim] = values.numel()
            if values.numel() not in (1, input.shape[channel_dim]):
                raise ValueError(f"ZBox: bounds have {values.numel()} channels, the layer's input {tuple(input.shape)}")
            return values.view(shape)

        return spread(self.low), spread(self.high)


def _bound(name: str, value: float | Sequence[float] | torch.Tensor) -> tuple[float, ...]:
    if isinstance(value, torch.Tensor):
        channels = value.detach().double().cpu()
        if channels.dim() > 1:
            channels = channels.transpose(0, 1).flatten(1) if channels.shape[0] == 1 else channels.flatten(1)
            if not torch.equal(channels, channels[:, :1].expand_as(channels)):
                raise ValueError(
                    f"ZBox: {name} must be constant within each channel, got a tensor {tuple(value.shape)}"
                )
            channels = channels[:, 0]
        value = channels.reshape(-1).tolist()
    values = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else (value,)
    if not values or any(isinstance(v, bool) or not isinstance(v, int | float) or not math.isfinite(v) for v in values):
        raise ValueError(f"ZBox: {name} must be a finite number or one per channel, got {value!r}")
    return tuple(float(v) for v in values)
