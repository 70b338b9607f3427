"""A matrix product times a factor per element: the last step of a linear layer's relevance, R_in = (s @ W) * x."""

from torch import Tensor

from .layout import widen


def matmul_multiply(input: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
    return (widen(input) @ widen(weight) * widen(factor)).to(input.dtype).contiguous()
