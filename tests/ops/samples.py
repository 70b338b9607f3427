"""Awkward operands for the LRP ops, one registry for all tests: every layout, dtype and optional argument.

`samples(op, dtype, device)` yields labelled argument tuples of a dispatcher op, drawn from a fixed seed.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from zsu_fast.reference import gates, lrp, neurons, norms
from zsu_fast.reference.gates import ACTIVATIONS, RELEVANCE

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

REFERENCES: dict[str, Callable[..., Any]] = {
    "lrp_epsilon_pass": lrp.lrp_epsilon_pass,
    "lrp_gamma_pass": lrp.lrp_gamma_pass,
    "lrp_alpha_beta_pass": lrp.lrp_alpha_beta_pass,
    "lrp_combine": lrp.lrp_combine,
    "activation_gate": gates.activation_gate,
    "layer_norm_gate": norms.layer_norm_gate,
    "rms_norm_gate": norms.rms_norm_gate,
    "batch_norm_gate": norms.batch_norm_gate,
    "neuron_relevance": neurons.neuron_relevance,
}
OPS = tuple(REFERENCES)
CODES = (RELEVANCE, *ACTIVATIONS.values())


class Draw:
    """Operands of one dtype on one device, the same in every run."""

    def __init__(self, dtype: torch.dtype, device: torch.device | str = "cpu", seed: int = 0):
        self.dtype, self.device = dtype, device
        self.generator = torch.Generator().manual_seed(seed)

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.device, self.dtype)

    def like(self, tensor: Tensor) -> Tensor:
        """Of the shape and strides of `tensor`."""
        return torch.empty_like(tensor).copy_(self.normal(*tensor.shape))


def layouts(draw: Draw) -> Iterator[tuple[str, Tensor, int]]:
    """(label, tensor, unit_dim): dense in every format, not dense, empty, unaligned, odd, large enough to be split."""
    yield "channels-first", draw.normal(2, 5, 7, 9), 1
    yield "channels-first, whole vectors", draw.normal(2, 3, 4, 16), 1
    yield "channels_last", draw.normal(2, 5, 7, 9).contiguous(memory_format=torch.channels_last), 1
    yield "channels_last, whole vectors", draw.normal(2, 16, 5, 3).contiguous(memory_format=torch.channels_last), 1
    yield "channels_last_3d", draw.normal(2, 3, 4, 5, 2).contiguous(memory_format=torch.channels_last_3d), 1
    yield "channels_last, unit dimension last", draw.normal(2, 5, 3, 4).contiguous(memory_format=torch.channels_last), 3
    yield "tokens", draw.normal(2, 7, 33), 2
    yield "tokens, whole vectors", draw.normal(2, 7, 64), 2
    yield "linear", draw.normal(3, 40), 1
    yield "conv1d", draw.normal(2, 4, 11), 1
    yield "units in the middle", draw.normal(2, 3, 4, 5), 2
    yield "units in the middle, runs of whole vectors", draw.normal(2, 3, 4, 5, 7), 2
    yield "one element", draw.normal(1, 1), 1
    yield "one channel", draw.normal(2, 1, 3, 3), 1
    yield "slice", draw.normal(4, 9, 7, 9)[::2, 1:6], 1
    yield "transposed", draw.normal(2, 6, 5).transpose(1, 2), 2
    yield "expanded", draw.normal(2, 4, 1, 1).expand(2, 4, 3, 5), 1
    yield "unaligned", draw.normal(2 * 8 * 16 + 1)[1:].view(2, 8, 16), 2
    yield "unaligned channels-first", draw.normal(2 * 3 * 40 + 1)[1:].view(2, 3, 40), 1
    yield "no samples", draw.normal(0, 3, 2, 2), 1
    yield "no units", draw.normal(2, 0, 2, 2), 1
    yield "no space", draw.normal(2, 3, 0, 2), 1
    yield "long runs", draw.normal(1, 2, 131, 257), 1
    yield "many short runs", draw.normal(3, 65, 9, 11), 1
    yield "long rows", draw.normal(7, 5, 300), 2
    yield "many rows", draw.normal(1, 20, 31, 37).contiguous(memory_format=torch.channels_last), 1
    yield "many units", draw.normal(3, 1300), 1


def samples(op: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> Iterator[tuple[str, tuple[Any, ...]]]:
    draw = Draw(dtype, device)
    for label, gradient, unit_dim in layouts(draw):
        units = gradient.shape[unit_dim]
        output, magnitude = draw.like(gradient) + 0.25, draw.like(gradient).abs()
        bias, scale = draw.normal(units), draw.normal(units)
        # Every optional argument absent and present; every activation in two layouts, two in the others.
        large = gradient.numel() > 4096
        for code in CODES if label in ("channels-first", "tokens") else (1, 2) if large else (RELEVANCE, 2):
            present = bool(code % 2)
            vectors = (bias if present else None, scale if present else None)
            for collect in (True, False):
                tail = (code, unit_dim, collect)
                name = f"{label}, activation {code}, {'with' if present else 'no'} vectors, collect {collect}"
                if op == "lrp_epsilon_pass":
                    denominator = magnitude + 0.5 if present else None
                    yield name, (gradient, output, denominator, vectors[1], 0.125, *tail)
                elif op == "lrp_gamma_pass":
                    yield name, (gradient, output, magnitude + output.abs(), *vectors, 0.25, 0.125, *tail)
                elif op == "lrp_alpha_beta_pass":
                    yield name, (gradient, output, magnitude + output.abs(), *vectors, 2.0, 1.0, 0.125, *tail)
            if op == "activation_gate" and code != RELEVANCE:
                yield f"{label}, activation {code}", (gradient, output, code)
        if op == "lrp_combine":
            yield label, (gradient, magnitude, output, 1.25, 0.25)
        elif op in ("layer_norm_gate", "rms_norm_gate"):
            for dims in range(1, gradient.dim() + 1):
                kept = gradient.shape[: gradient.dim() - dims]
                weight = draw.normal(*gradient.shape[gradient.dim() - dims :])
                rstd = draw.normal(*kept).abs()
                yield f"{label}, {dims} dimensions", (gradient, weight if dims % 2 else None, rstd, dims)
        elif op == "batch_norm_gate":
            yield label, (gradient, scale, unit_dim)
        elif op == "neuron_relevance":
            yield f"{label}, per sample", (gradient, output, unit_dim, True)
            yield f"{label}, summed", (gradient, output, unit_dim, False)


def tensors_of(result: Any) -> tuple[Tensor, ...]:
    return (result,) if isinstance(result, Tensor) else tuple(result)


def exact(op: str, arguments: tuple[Any, ...]) -> tuple[Tensor, ...]:
    """The reference in float64, on the CPU, from the operands as they are in their own dtype."""
    wide = (a.detach().cpu().double() if isinstance(a, Tensor) else a for a in arguments)
    # What counts as rounding noise is a matter of the operands' own dtype.
    keywords = {"noise": lrp.rounding_noise(arguments[0].dtype)} if op == "lrp_alpha_beta_pass" else {}
    return tensors_of(REFERENCES[op](*wide, **keywords))


def assert_accurate(actual: Tensor, expected: Tensor, label: str = "", terms: float | Tensor = 0.0) -> None:
    """Error, relative to the largest value, at most that of one rounding to the dtype plus that of float32 arithmetic.

    Stricter than twice the error of eager PyTorch in the same dtype, which rounds after every step. NaN and infinity
    must stand where they are expected. `terms` is the size of what is added up, where it may cancel.
    """
    assert actual.shape == expected.shape, f"{label}: shape {tuple(actual.shape)}, expected {tuple(expected.shape)}"
    arithmetic = 1e-13 if actual.dtype == torch.float64 else 4e-6
    tolerance = torch.finfo(actual.dtype).eps / 2 + arithmetic
    actual, finite = actual.detach().cpu().double(), expected.isfinite()
    assert torch.equal(actual[~finite].nan_to_num(0.0), expected[~finite].nan_to_num(0.0)), (
        f"{label}: infinities differ"
    )
    assert torch.equal(actual.isnan(), expected.isnan()), f"{label}: NaN in other places than expected"
    if finite.any():
        error, largest = float((actual[finite] - expected[finite]).abs().max()), float(expected[finite].abs().max())
        assert error <= tolerance * max(largest, float(terms)), (
            f"{label}: error {error:.3g} for values up to {largest:.3g}"
        )
