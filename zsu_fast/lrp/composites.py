"""Composites: which rule each layer of a network gets, as plain values, and the named ones of the literature."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal

from .patterns import PatternAttribution, PatternNet, PatternRule, Patterns
from .rules import AlphaBeta, Epsilon, Flat, Gamma, InputRule, Rule, ZBox, Zero, ZPlus

Kind = Literal["linear", "convolution"]


@dataclass(frozen=True)
class Composite:
    """Rules by layer name, by position and by kind of layer; the first that applies holds, in this order.

    Positions are those of the run: layers count in the order in which they run, each time they run.

    Args:
        names: Rules by module name or `fnmatch` pattern ("features.*"): a mapping, or a sequence of pairs.
        first: Rule of the linear or convolution layer that runs first; None: as its depth or kind says.
        last: Rule of the one that runs last; None: as its depth or kind says.
        depth: Rules of the lower layers, as pairs (fraction, rule) of ascending fractions: layer i (from 0) of n gets
            the first rule with (i + 1/2) / n < fraction, and beyond the last fraction that of its kind. For instance
            ((1/3, Gamma()), (2/3, Epsilon())) leaves the top third to `linear` and `convolution`.
        convolution: Rule of (transposed) convolutions of any rank.
        linear: Rule of linear layers, attention projections included.
        attention: "attnlrp" shares relevance between queries, keys and values (Achtibat et al. 2024, Prop. 3.1 and
            3.3); "cp_lrp" holds the attention weights constant, so that only values carry relevance (Ali et al. 2022).

        lower_third = Composite(depth=((1 / 3, Gamma()),), names={"0": Epsilon(0.1)})
        found = zsu_fast.relevance(model, images, target=3, composite=lower_third)
    """

    linear: Rule = field(default_factory=Epsilon)
    convolution: Rule = field(default_factory=Epsilon)
    first: Rule | None = None
    last: Rule | None = None
    depth: tuple[tuple[float, Rule], ...] = ()
    names: tuple[tuple[str, Rule], ...] = ()
    attention: Literal["attnlrp", "cp_lrp"] = "attnlrp"

    def __post_init__(self) -> None:
        pairs = self.names.items() if isinstance(self.names, Mapping) else self.names
        object.__setattr__(self, "names", tuple((pattern, rule) for pattern, rule in pairs))
        object.__setattr__(self, "depth", tuple((fraction, rule) for fraction, rule in self.depth))
        required = (("linear", self.linear), ("convolution", self.convolution), *self.names, *self.depth)
        for label, rule in required:
            if not isinstance(rule, Rule):
                raise TypeError(f"Composite: the rule of {label!r} must be a Rule such as Epsilon(), got {rule!r}")
        for label, optional in (("first", self.first), ("last", self.last)):
            if optional is not None and not isinstance(optional, Rule):
                raise TypeError(f"Composite: {label} must be a Rule or None, got {optional!r}")
        fractions = [fraction for fraction, _ in self.depth]
        if not all(isinstance(f, float | int) and not isinstance(f, bool) and 0 < f <= 1 for f in fractions):
            raise ValueError(f"Composite: depth must have fractions above 0 and up to 1, got {fractions}")
        if sorted(set(fractions)) != fractions:
            raise ValueError(f"Composite: depth must have ascending fractions, got {fractions}")
        if len({isinstance(rule, PatternRule) for rule in self.rules()}) > 1:
            raise ValueError("Composite: PatternNet and PatternAttribution are for all layers of a network or for none")
        if self.attention not in ("attnlrp", "cp_lrp"):
            raise ValueError(f'Composite: attention must be "attnlrp" or "cp_lrp", got {self.attention!r}')

    def rule(self, name: str, kind: Kind, position: int, count: int | None = None) -> Rule | None:
        """The rule of the layer `name`, which runs as number `position` (from 0) of `count`.

        None if that depends on the count, and the count is not known yet (None).
        """
        for pattern, rule in self.names:
            if fnmatchcase(name, pattern):
                return rule
        if position == 0 and self.first is not None:
            return self.first
        if count is None and (self.last is not None or self.depth):
            return None
        if count is not None:
            if position == count - 1 and self.last is not None:
                return self.last
            for fraction, rule in self.depth:
                if (position + 0.5) / count < fraction:
                    return rule
        return self.linear if kind == "linear" else self.convolution

    def rules(self) -> tuple[Rule, ...]:
        """Every rule that some layer may get."""
        return (*((self.first,) if self.first else ()), *self._inner_rules())

    def carries_relevance(self) -> bool:
        """Whether R itself may have to be carried between layers: an input rule may stand above the first."""
        return any(isinstance(rule, InputRule) for rule in self._inner_rules())

    def follows_patterns(self) -> bool:
        """Whether what flows is not c but the signal, or R, of PatternNet or PatternAttribution."""
        return isinstance(self.linear, PatternRule)

    def _inner_rules(self) -> tuple[Rule, ...]:
        by_position = (*((self.last,) if self.last else ()), *(rule for _, rule in self.depth))
        return (*(rule for _, rule in self.names), *by_position, self.convolution, self.linear)


@dataclass(eq=False)
class Choice:
    """The rule of one layer that has run. It is settled at the end of the run where it depends on the layer's depth."""

    name: str
    kind: Kind
    position: int
    rule: Rule | None

    def settle(self, composite: Composite, count: int) -> None:
        self.rule = composite.rule(self.name, self.kind, self.position, count)


def epsilon(epsilon: float = 1e-6) -> Composite:
    """LRP-epsilon everywhere."""
    return Composite(Epsilon(epsilon), Epsilon(epsilon))


def epsilon_plus(epsilon: float = 1e-6) -> Composite:
    """z+ for convolutions, epsilon for linear layers (Kohlbrenner et al. 2020, as LRP-CMP with alpha 1)."""
    return Composite(Epsilon(epsilon), ZPlus())


def epsilon_plus_flat(epsilon: float = 1e-6) -> Composite:
    """`epsilon_plus` with the flat rule at the first layer."""
    return Composite(Epsilon(epsilon), ZPlus(), first=Flat())


def epsilon_gamma_box(low: Any, high: Any, gamma: float = 0.25, epsilon: float = 1e-6) -> Composite:
    """gamma for convolutions, epsilon for linear layers, z-box at the first layer for inputs within [low, high]."""
    return Composite(Epsilon(epsilon), Gamma(gamma), first=ZBox(low, high))


def epsilon_alpha2_beta1(epsilon: float = 1e-6) -> Composite:
    """alpha 2, beta 1 for convolutions, epsilon for linear layers (Kohlbrenner et al. 2020, LRP-CMP)."""
    return Composite(Epsilon(epsilon), AlphaBeta(2.0, 1.0))


def epsilon_alpha2_beta1_flat(epsilon: float = 1e-6) -> Composite:
    """`epsilon_alpha2_beta1` with the flat rule at the first layer."""
    return Composite(Epsilon(epsilon), AlphaBeta(2.0, 1.0), first=Flat())


def excitation_backprop() -> Composite:
    """z+ everywhere (Zhang et al. 2018)."""
    return Composite(ZPlus(), ZPlus())


def gamma_epsilon(gamma: float = 0.1, epsilon: float = 0.1) -> Composite:
    """gamma with a large stabiliser everywhere, which absorbs weak contributions too."""
    return Composite(Gamma(gamma, epsilon), Gamma(gamma, epsilon))


def zero_epsilon_gamma_box(low: Any, high: Any, gamma: float = 0.25, epsilon: float = 0.25) -> Composite:
    """Zero on top, epsilon in the middle, gamma below, z-box at the first layer (Montavon et al. 2019).

    Thirds by depth. `epsilon` is absolute, in units of the layer's outputs.
    """
    by_depth = ((1 / 3, Gamma(gamma)), (2 / 3, Epsilon(epsilon)))
    return Composite(Zero(), Zero(), first=ZBox(low, high), depth=by_depth)


def attnlrp(epsilon: float = 1e-6) -> Composite:
    """AttnLRP: epsilon for linear layers and convolutions, relevance through queries, keys and values."""
    return Composite(Epsilon(epsilon), Epsilon(epsilon), attention="attnlrp")


def attnlrp_gamma(convolution: float = 0.25, linear: float = 0.05, epsilon: float = 1e-6) -> Composite:
    """As the authors of AttnLRP recommend for vision transformers (Achtibat et al. 2024, and their library LXT): gamma
    for linear layers and for convolutions (patch embeddings), attention weights held constant as in CP-LRP."""
    return Composite(Gamma(linear, epsilon), Gamma(convolution, epsilon), attention="cp_lrp")


def cp_lrp(epsilon: float = 1e-6) -> Composite:
    """CP-LRP: epsilon for linear layers and convolutions, attention weights held constant."""
    return Composite(Epsilon(epsilon), Epsilon(epsilon), attention="cp_lrp")


def pattern_net(patterns: Patterns) -> Composite:
    """PatternNet: the signal in the input that the logit comes from, in units of the input (Kindermans et al. 2017)."""
    return Composite(PatternNet(patterns), PatternNet(patterns))


def pattern_attribution(patterns: Patterns) -> Composite:
    """PatternAttribution: relevance by the signal in each layer's input (Kindermans et al. 2017)."""
    return Composite(PatternAttribution(patterns), PatternAttribution(patterns))


COMPOSITES: dict[str, Callable[..., Composite]] = {
    function.__name__: function
    for function in (
        epsilon,
        epsilon_plus,
        epsilon_plus_flat,
        epsilon_gamma_box,
        epsilon_alpha2_beta1,
        epsilon_alpha2_beta1_flat,
        excitation_backprop,
        gamma_epsilon,
        zero_epsilon_gamma_box,
        attnlrp,
        attnlrp_gamma,
        cp_lrp,
    )
}
"""The named composites; each function takes its parameters and returns a `Composite`. (Those that need patterns,
`pattern_net` and `pattern_attribution`, have to be called.)"""


def composite_of(value: "str | Composite") -> Composite:
    """A composite from its name, or the composite itself. ValueError or TypeError says what there is."""
    if isinstance(value, Composite):
        return value
    if not isinstance(value, str):
        raise TypeError(f"composite must be a Composite or one of {', '.join(COMPOSITES)}, got {type(value).__name__}")
    if value not in COMPOSITES:
        raise ValueError(f"composite must be a Composite or one of {', '.join(COMPOSITES)}, got {value!r}")
    if value.endswith("_box"):
        raise ValueError(
            f"composite {value!r} needs the bounds of the (normalised) input: pass "
            f"zsu_fast.lrp.{value}(low=..., high=...)"
        )
    return COMPOSITES[value]()
