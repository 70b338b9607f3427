"""The last layer of a generator, fitted anew in closed form: by weighted ridge regression on what enters it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.parametrize import is_parametrized

KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
MEMORY = 2**28
"""Bytes of features that are kept for a fit; of more latents, the first that fit."""
STEPS = 12
"""Most steps of conjugate gradients where the layer is a convolution."""


def last_layer(model: nn.Module, run: Callable[[Tensor], Tensor], sample: Tensor) -> str:
    """Name of the linear or convolution layer of `model` that runs last.

    Raises ValueError if there is none, if it runs more than once, or if its weight is computed or frozen in half.
    """
    order: list[str] = []
    handles = [
        module.register_forward_hook(lambda *_, name=name: order.append(name))
        for name, module in model.named_modules()
        if isinstance(module, KINDS)
    ]
    try:
        run(sample)
    finally:
        for handle in handles:
            handle.remove()
    if not order:
        raise ValueError("model: no linear layer or convolution of it runs as a module of its own")
    module = model.get_submodule(order[-1])
    if order.count(order[-1]) > 1:
        raise ValueError(f"model: its last layer {order[-1]!r} runs more than once")
    if is_parametrized(module) or not isinstance(module._parameters.get("weight"), Tensor):
        raise ValueError(f"model: the weight of its last layer {order[-1]!r} is computed; fold it first")
    return order[-1]


@contextmanager
def passing(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What enters the module and what leaves it, call by call."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = module.register_forward_hook(lambda _, args, out: seen.append((args[0].detach(), out.detach())))
    try:
        yield seen
    finally:
        handle.remove()


def through(module: nn.Module, run: Callable[[Tensor], Tensor], batches: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """What enters and leaves the module, [N, ...] each, when `run` runs the batches; of as many as `MEMORY` holds."""
    inputs, outputs, size = [], [], 0
    for batch in batches:
        with passing(module) as seen:
            run(batch)
        inputs.append(seen[0][0])
        outputs.append(seen[0][1])
        size += inputs[-1].nbytes + outputs[-1].nbytes
        if size > MEMORY:
            break
    return torch.cat(inputs), torch.cat(outputs)


def refitted(module: nn.Module, inputs: Tensor, wanted: Tensor, weights: Tensor, ridge: float) -> dict[str, Tensor]:
    """Parameters (weight, and bias if there is one) with which the module makes `wanted` of `inputs`, both [N, ...].

    The change D of the parameters minimises sum_n weights_n |wanted_n - module_{p+D}(inputs_n)|^2 + r |D|^2, where r is
    `ridge` times the mean curvature of the sum. Linear layers: by the normal equations in float64. Convolutions: by
    conjugate gradients on the same, which only need the layer and its gradient (Hestenes and Stiefel, 1952).
    """
    before = {name: p.detach() for name, p in module.named_parameters(recurse=False)}
    with torch.no_grad():
        missing = wanted - module(inputs)
    if isinstance(module, nn.Linear):
        change = _by_normal_equations(module, inputs, missing, weights, ridge)
    else:
        change = _by_conjugate_gradients(module, before, inputs, missing, weights, ridge)
    return {name: (value + change[name]).to(value.dtype) for name, value in before.items()}


def _by_normal_equations(
    module: nn.Linear, inputs: Tensor, missing: Tensor, weights: Tensor, ridge: float
) -> dict[str, Tensor]:
    rows = inputs.shape[1:-1].numel()
    scale = weights.repeat_interleave(rows)[:, None]
    x, y = inputs.reshape(-1, inputs.shape[-1]), missing.reshape(-1, missing.shape[-1])
    if module.bias is not None:
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    scaled = x * scale.to(x)
    normal = (x.T @ scaled).double()
    normal += ridge * normal.diagonal().mean() * torch.eye(len(normal), dtype=normal.dtype, device=normal.device)
    found = torch.linalg.solve(normal, (scaled.T @ y).double()).T
    return {"weight": found[:, : inputs.shape[-1]], "bias": found[:, -1]}


def _by_conjugate_gradients(
    module: nn.Module, before: dict[str, Tensor], inputs: Tensor, missing: Tensor, weights: Tensor, ridge: float
) -> dict[str, Tensor]:
    scale = weights.view(-1, *[1] * (missing.dim() - 1)).to(missing)

    def forward(change: Sequence[Tensor]) -> Tensor:
        given = dict(zip(before, change, strict=True))
        return functional_call(module, given, (inputs,))

    def backward(output: Tensor) -> list[Tensor]:
        with torch.enable_grad():
            free = [torch.zeros_like(value).requires_grad_() for value in before.values()]
            return list(torch.autograd.grad((forward(free) * output).sum(), free))

    def dot(one: Sequence[Tensor], two: Sequence[Tensor]) -> float:
        return float(sum((a.double() * b.double()).sum() for a, b in zip(one, two, strict=True)))

    change = [torch.zeros_like(value) for value in before.values()]
    residual = backward(missing * scale)
    direction, size = residual, dot(residual, residual)
    first, penalty = size, 0.0
    for step in range(STEPS):
        if size <= 1e-10 * first or first == 0.0:
            break
        with torch.no_grad():
            curved = backward(forward(direction) * scale)
        if step == 0:  # the curvature along the gradient stands for the mean, which it is at least
            penalty = ridge * dot(direction, curved) / size
        curved = [c + penalty * d for c, d in zip(curved, direction, strict=True)]
        length = size / dot(direction, curved)
        change = [c + length * d for c, d in zip(change, direction, strict=True)]
        residual = [r - length * c for r, c in zip(residual, curved, strict=True)]
        size, last = dot(residual, residual), size
        direction = [r + size / last * d for r, d in zip(residual, direction, strict=True)]
    return dict(zip(before, change, strict=True))
