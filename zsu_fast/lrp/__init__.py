"""Layer-wise relevance propagation: rules, composites, and the engine that runs them on any model."""

from .composites import (
    COMPOSITES,
    Composite,
    attnlrp,
    cp_lrp,
    epsilon,
    epsilon_alpha2_beta1,
    epsilon_gamma_box,
    epsilon_plus,
    epsilon_plus_flat,
)
from .engine import UncoveredFunctionError
from .relevance import Relevance, relevance
from .rules import AlphaBeta, Epsilon, Flat, Gamma, InputRule, LayerRule, Pass, Rule, ZBox, Zero, ZPlus

__all__ = [
    "COMPOSITES",
    "AlphaBeta",
    "Composite",
    "Epsilon",
    "Flat",
    "Gamma",
    "InputRule",
    "LayerRule",
    "Pass",
    "Relevance",
    "Rule",
    "UncoveredFunctionError",
    "ZBox",
    "ZPlus",
    "Zero",
    "attnlrp",
    "cp_lrp",
    "epsilon",
    "epsilon_alpha2_beta1",
    "epsilon_gamma_box",
    "epsilon_plus",
    "epsilon_plus_flat",
    "relevance",
]
