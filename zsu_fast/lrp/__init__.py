"""Layer-wise relevance propagation: rules, composites, and the engine that runs them on any model.

Linear layers and convolutions, in whatever way they are written, get the rules of the composite, together with the
BatchNorm (folded) and the activation that follow them. Everything else has one fixed rule:

| function                                            | rule                                                         |
| --------------------------------------------------- | ------------------------------------------------------------ |
| activations, clamping, powers                       | relevance passes unchanged, with the limit at x = 0          |
| sums, residual connections, means, average pooling  | in proportion to the summands ("norm", LRP-0 of the sum)     |
| max pooling, maxima                                 | the winner takes all                                         |
| LayerNorm, RMSNorm, GroupNorm, division by a norm   | 1/sigma is a constant (AttnLRP, Prop. 3.4)                   |
| softmax, sigmoid, softplus                          | first-order Taylor (AttnLRP, Prop. 3.1)                      |
| products of matrices or of values                   | half to each factor (AttnLRP, Prop. 3.3)                     |
| a value times a gate (sigmoid, softmax, tanh, erf)  | the value takes all, the gate is a constant (Arras 2019)     |
| attention weights times values, with "cp_lrp"       | the values take all (Ali et al. 2022)                        |
| LSTM, GRU                                           | step by step; the gates are constants (Arras 2017)           |
| shapes, slices, padding, interpolation, dropout     | values carry their relevance along                           |
| `detach`, `no_grad`                                 | relevance ends there, as the gradient does                   |
| anything else                                       | `UncoveredFunctionError`                                     |

Rules by their names in the literature: LRP-0 `Zero`; LRP-epsilon `Epsilon`; LRP-gamma, generalised gamma and
gamma + epsilon `Gamma`; z+ and alpha 1, beta 0 `ZPlus`; alpha-beta `AlphaBeta`; z-box (z-B, DTD box) `ZBox`; w^2
`WSquare`; flat `Flat`; pass `Pass`; norm is what sums and average pooling always get. In all of them the bias takes
its share (where a rule splits by sign, the part of that sign) and keeps it; the stabiliser has the sign of what it is
added to, + at 0. PatternNet and PatternAttribution: `pattern_net`, `pattern_attribution`, `estimate_patterns`.
"""

from .composites import (
    COMPOSITES,
    Composite,
    attnlrp,
    attnlrp_gamma,
    cp_lrp,
    epsilon,
    epsilon_alpha2_beta1,
    epsilon_alpha2_beta1_flat,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
    excitation_backprop,
    gamma_epsilon,
    pattern_attribution,
    pattern_net,
    zero_epsilon_gamma_box,
)
from .conservation import Conservation
from .constant_weights import constant_weights
from .engine import UncoveredFunctionError
from .pattern_estimation import estimate_patterns
from .patterns import PatternAttribution, PatternNet, Patterns
from .plan import Plan, compile
from .relevance import relevance
from .result import Relevance
from .rules import AlphaBeta, Epsilon, Flat, Gamma, InputRule, LayerRule, Pass, Rule, WSquare, ZBox, Zero, ZPlus

__all__ = [
    "COMPOSITES",
    "AlphaBeta",
    "Composite",
    "Conservation",
    "Epsilon",
    "Flat",
    "Gamma",
    "InputRule",
    "LayerRule",
    "Pass",
    "PatternAttribution",
    "PatternNet",
    "Patterns",
    "Plan",
    "Relevance",
    "Rule",
    "UncoveredFunctionError",
    "WSquare",
    "ZBox",
    "ZPlus",
    "Zero",
    "attnlrp",
    "attnlrp_gamma",
    "compile",
    "constant_weights",
    "cp_lrp",
    "epsilon",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "estimate_patterns",
    "excitation_backprop",
    "gamma_epsilon",
    "pattern_attribution",
    "pattern_net",
    "relevance",
    "zero_epsilon_gamma_box",
]
