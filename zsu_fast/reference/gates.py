"""Activations and their gates act(x) / x: the identity rule R_in = R_out in modified-gradient form.

With c = R / a carried instead of the relevance R, "the activation passes relevance on unchanged" reads
c_in = c_out * act(x) / x (Ali et al. 2022; Achtibat et al. 2024, AttnLRP, section 3.3). Each gate is written without
the division, so that it is finite everywhere and takes its limit at x = 0.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import narrow, widen

RELEVANCE = -1  # only in the passes: the incoming gradient already is relevance

ACTIVATIONS = {"identity": 0, "relu": 1, "gelu": 2, "gelu_tanh": 3, "silu": 4, "relu6": 5, "hardswish": 6, "tanh": 7}
NAMES = {code: name for name, code in ACTIVATIONS.items()}


def activate(x: Tensor, activation: int) -> Tensor:
    """act(x) in the dtype of x; `activation` is a value of ACTIVATIONS."""
    match NAMES[activation]:
        case "identity":
            return x
        case "relu":
            return F.relu(x)
        case "gelu":
            return x * gate(x, activation)
        case "gelu_tanh":
            return F.gelu(x, approximate="tanh")
        case "silu":
            return F.silu(x)
        case "relu6":
            return F.relu6(x)
        case "hardswish":
            return F.hardswish(x)
        case _:
            return torch.tanh(x)


def gate(x: Tensor, activation: int) -> Tensor:
    """act(x) / x with its limit at x = 0 (ReLU's is taken from the left, 0, as autograd takes its gradient)."""
    match NAMES[activation]:
        case "identity":
            return torch.ones_like(x)
        case "relu":
            return torch.where(x.isnan(), x, (x > 0).to(x.dtype))
        case "gelu":
            return 0.5 * torch.erfc(x * -math.sqrt(0.5))  # Phi(x); 1 + erf would cancel for x << 0
        case "gelu_tanh":
            # (1 + tanh(u)) / 2 = sigmoid(2 u), which does not cancel for u << 0.
            return torch.sigmoid(2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x))
        case "silu":
            return torch.sigmoid(x)
        case "relu6":
            return torch.where(x.isnan(), x, torch.where(x > 0, 6 / x.clamp(min=6), 0.0))
        case "hardswish":
            return F.hardsigmoid(x)
        case _:
            return torch.where(x == 0, 1.0, torch.tanh(x) / x)


def activation_gate(gradient: Tensor, input: Tensor, activation: int) -> Tensor:
    """gradient * act(input) / input, elementwise; `activation` is a value of ACTIVATIONS. Like `gradient`."""
    return narrow(widen(gradient) * gate(widen(input), activation), gradient)
