"""Composites: which rule each layer of a network gets, as plain values, and the named ones of the literature."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from .rules import AlphaBeta, Epsilon, Flat, Gamma, Rule, ZBox, ZPlus

Kind = Literal["linear", "convolution"]


@dataclass(frozen=True)
class Composite:
    """Rules by layer name, by position and by kind of layer; the first that applies holds, in this order.

    Args:
        names: Rules by module name or `fnmatch` pattern ("features.*"): a mapping, or a sequence of pairs.
        first: Rule of the linear or convolution layer that runs first; None: as its kind says.
        convolution: Rule of (transposed) convolutions of any rank.
        linear: Rule of linear layers, attention projections included.
        attention: "attnlrp" shares relevance between queries, keys and values (Achtibat et al. 2024, Prop. 3.1 and
            3.3); "cp_lrp" holds the attention weights constant, so that only values carry relevance (Ali et al. 2022).
    """

    linear: Rule = field(default_factory=Epsilon)
    convolution: Rule = field(default_factory=Epsilon)
    first: Rule | None = None
    names: tuple[tuple[str, Rule], ...] = ()
    attention: Literal["attnlrp", "cp_lrp"] = "attnlrp"

    def __post_init__(self) -> None:
        pairs = self.names.items() if isinstance(self.names, Mapping) else self.names
        object.__setattr__(self, "names", tuple((pattern, rule) for pattern, rule in pairs))
        for label, rule in (("linear", self.linear), ("convolution", self.convolution), *self.names):
            if not isinstance(rule, Rule):
                raise TypeError(f"Composite: the rule of {label!r} must be a Rule such as Epsilon(), got {rule!r}")
        if self.first is not None and not isinstance(self.first, Rule):
            raise TypeError(f"Composite: first must be a Rule or None, got {self.first!r}")
        if self.attention not in ("attnlrp", "cp_lrp"):
            raise ValueError(f'Composite: attention must be "attnlrp" or "cp_lrp", got {self.attention!r}')

    def rule(self, name: str, kind: Kind, first: bool) -> Rule:
        """The rule of the layer `name`; `first` if it is the first that runs."""
        for pattern, rule in self.names:
            if fnmatchcase(name, pattern):
                return rule
        if first and self.first is not None:
            return self.first
        return self.linear if kind == "linear" else self.convolution

    def rules(self) -> tuple[Rule, ...]:
        """Every rule that some layer may get."""
        return (*(rule for _, rule in self.names), *([self.first] if self.first else []), self.convolution, self.linear)


def epsilon(epsilon: float = 1e-6) -> Composite:
    """LRP-epsilon everywhere."""
    return Composite(Epsilon(epsilon), Epsilon(epsilon))


def epsilon_plus(epsilon: float = 1e-6) -> Composite:
    """z+ for convolutions, epsilon for linear layers."""
    return Composite(Epsilon(epsilon), ZPlus())


def epsilon_plus_flat(epsilon: float = 1e-6) -> Composite:
    """`epsilon_plus` with the flat rule at the first layer."""
    return Composite(Epsilon(epsilon), ZPlus(), first=Flat())


def epsilon_gamma_box(low: Any, high: Any, gamma: float = 0.25, epsilon: float = 1e-6) -> Composite:
    """gamma for convolutions, epsilon for linear layers, z-box at the first layer for inputs within [low, high]."""
    return Composite(Epsilon(epsilon), Gamma(gamma), first=ZBox(low, high))


def epsilon_alpha2_beta1(epsilon: float = 1e-6) -> Composite:
    """alpha 2, beta 1 for convolutions, epsilon for linear layers."""
    return Composite(Epsilon(epsilon), AlphaBeta(2.0, 1.0))


def attnlrp(epsilon: float = 1e-6) -> Composite:
    """AttnLRP: epsilon for linear layers and convolutions, relevance through queries, keys and values."""
    return Composite(Epsilon(epsilon), Epsilon(epsilon), attention="attnlrp")


def cp_lrp(epsilon: float = 1e-6) -> Composite:
    """CP-LRP: epsilon for linear layers and convolutions, attention weights held constant."""
    return Composite(Epsilon(epsilon), Epsilon(epsilon), attention="cp_lrp")


COMPOSITES: dict[str, Callable[..., Composite]] = {
    function.__name__: function
    for function in (epsilon, epsilon_plus, epsilon_plus_flat, epsilon_gamma_box, epsilon_alpha2_beta1, attnlrp, cp_lrp)
}
"""The named composites; each function takes its parameters and returns a `Composite`."""


def composite_of(value: "str | Composite") -> Composite:
    """A composite from its name, or the composite itself. ValueError or TypeError says what there is."""
    if isinstance(value, Composite):
        return value
    if not isinstance(value, str):
        raise TypeError(f"composite must be a Composite or one of {', '.join(COMPOSITES)}, got {type(value).__name__}")
    if value not in COMPOSITES:
        raise ValueError(f"composite must be a Composite or one of {', '.join(COMPOSITES)}, got {value!r}")
    if value == "epsilon_gamma_box":
        raise ValueError(
            "composite 'epsilon_gamma_box' needs the bounds of the (normalised) input: pass "
            "zsu_fast.lrp.epsilon_gamma_box(low=..., high=...)"
        )
    return COMPOSITES[value]()
