"""Patterns (Kindermans et al. 2017, arXiv 1705.05598): the direction of the signal that a unit's output comes from.

A unit's weights w say how to cancel what disturbs it, not where its signal lies. Its pattern a, estimated from data,
does: the signal in its input x is s = a w^T x, scaled such that w^T a = 1. PatternNet sends the signal back (A in the
place of W in the ordinary backward), PatternAttribution the relevance (W * A, the deep Taylor decomposition at the root
point x - s). `estimate_patterns` estimates them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from zsu_fast.ops.lrp import LinearMap, derived
from zsu_fast.reference.layout import per_unit
from zsu_fast.safetensors_file import save_atomically

from .collector import Unit
from .rules import Rule

Estimator = Literal["linear", "two-component"]
FORMAT, FORMAT_VERSION = "zsu_fast.patterns", "1"


@dataclass(frozen=True, eq=False, repr=False)
class Patterns:
    """The patterns of a model's layers: values, equal if their tensors are.

    Attributes:
        tensors: By name of layer, each of the shape of the layer's weight.
        estimator: How they were estimated, see `estimate_patterns`.
    """

    tensors: Mapping[str, Tensor]
    estimator: Estimator = "two-component"

    def __post_init__(self) -> None:
        if self.estimator not in ("linear", "two-component"):
            raise ValueError(f'Patterns: estimator must be "linear" or "two-component", got {self.estimator!r}')
        for name, tensor in self.tensors.items():
            if not isinstance(tensor, Tensor) or not tensor.is_floating_point() or tensor.dim() < 2:
                raise TypeError(f"Patterns: the pattern of {name!r} must be a floating-point tensor like its weight")
            if not bool(tensor.isfinite().all()):
                raise ValueError(f"Patterns: the pattern of {name!r} has values that are not finite")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Patterns) or self.estimator != other.estimator or [*self.tensors] != [*other.tensors]:
            return False
        return all(torch.equal(a, b) for a, b in zip(self.tensors.values(), other.tensors.values(), strict=True))

    def __hash__(self) -> int:
        return hash((self.estimator, *((name, tuple(t.shape)) for name, t in self.tensors.items())))

    def __repr__(self) -> str:
        return f"<patterns of {len(self.tensors)} layers, {self.estimator}>"

    def of(self, unit: Unit, weight: Tensor) -> Tensor:
        """The pattern of a layer; ValueError if there is none, or if it does not fit the layer's weight."""
        pattern = self.tensors.get(unit.name)
        if pattern is None:
            raise ValueError(f"patterns: none for layer {unit.name!r}; there are {', '.join(self.tensors) or 'none'}")
        if unit.count != unit.total:
            pattern = pattern[unit.start : unit.start + unit.count]
        if pattern.shape != weight.shape:
            raise ValueError(
                f"patterns: that of layer {unit.name!r} has shape {tuple(pattern.shape)}, its weight "
                f"{tuple(weight.shape)}; they are of another model"
            )
        return pattern

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file, atomically: a reader sees the whole file or none."""
        tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in self.tensors.items()}
        metadata = {"format": FORMAT, "version": FORMAT_VERSION, "estimator": self.estimator}
        save_atomically(tensors, path, metadata | {"layers": "\n".join(tensors)})

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Patterns:
        """Read what `save` wrote. Whether names and shapes are those of a model is checked where they meet it.

        Raises FileNotFoundError, or ValueError for anything that is no whole file of patterns.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"path: no file of patterns at {path}")
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("format") != FORMAT:
                    raise ValueError(f"path: {path} holds no patterns (format {metadata.get('format')!r})")
                if metadata.get("version") != FORMAT_VERSION:
                    raise ValueError(
                        f"path: {path} has version {metadata.get('version')} of the format, expected {FORMAT_VERSION}"
                    )
                names = metadata["layers"].split("\n")
                if sorted(names) != sorted(file.keys()):
                    raise ValueError(f"path: {path} lists layers other than it holds")
                tensors = {name: file.get_tensor(name) for name in names}
                return Patterns(tensors, metadata["estimator"])
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(f"path: {path} is no whole file of patterns ({error})") from error


@dataclass(frozen=True)
class PatternRule(Rule):
    """A rule that takes part in one plain backward pass with other weights. All layers of a composite have it, or none.

    It is made for nets of linear layers, convolutions, ReLU, BatchNorm, pooling and residual sums (each
    summand gets half); other functions are refused, so that images are normalised before the model. The gate of a ReLU
    holds: units that do not fire send nothing on.
    """

    patterns: Patterns

    def __post_init__(self) -> None:
        if not isinstance(self.patterns, Patterns):
            raise TypeError(f"{type(self).__name__}: patterns must be Patterns, got {type(self.patterns).__name__}")


@dataclass(frozen=True)
class PatternNet(PatternRule):
    """s_in = A^T s: the estimated signal, in units of the input (Kindermans et al. 2017).

    Its size is a product of patterns, which nothing bounds: with dozens of layers it may need float64.
    """


@dataclass(frozen=True)
class PatternAttribution(PatternRule):
    """R_in = (W * A)^T R (Kindermans et al. 2017).

    The shares of each unit add up to 1; what falls to units that do not fire is lost at their gates.
    """


def pattern_backward(
    rule: PatternRule,
    map: LinearMap,
    unit: Unit,
    signal: Tensor,
    weight: Tensor,
    scale: Tensor | None,
    input_shape: torch.Size,
) -> Tensor:
    """Signal or relevance of a layer's input from that of its output y = scale * map(x, weight) + bias."""
    pattern = rule.patterns.of(unit, weight)
    if isinstance(rule, PatternAttribution):  # a factor of W is one of 1 / A: the scale has no say
        through = derived("weight times pattern", (weight, pattern), lambda w, a: w * a.to(w))
        return map.transpose(signal, through, input_shape)
    if scale is not None:
        factor = per_unit(pattern_scale(rule, scale), signal.dim() - 1 if map.kind == "linear" else 1, signal)
        signal = (signal * factor).to(signal.dtype)
    return map.transpose(signal, pattern.to(weight), input_shape)


def pattern_scale(rule: PatternRule, scale: Tensor) -> Tensor:
    """What a signal, or relevance, is multiplied with on its way back through y = scale x + shift: a, or w a = 1."""
    if isinstance(rule, PatternAttribution):
        return torch.ones_like(scale)
    return torch.where(scale == 0, 0.0, 1 / scale)
