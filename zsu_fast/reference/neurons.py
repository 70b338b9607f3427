"""Relevance per neuron: R[n, u] = sum over space or tokens of c * a."""

from torch import Tensor

from .layout import sum_per_unit, widen


def neuron_relevance(gradient: Tensor, activation: Tensor, unit_dim: int, per_sample: bool) -> Tensor:
    """[N, units], or [units] over all samples, in the dtype of the arithmetic (float32, float64 for float64)."""
    neurons = sum_per_unit(widen(gradient) * widen(activation), unit_dim)
    return neurons if per_sample else neurons.sum(0)
