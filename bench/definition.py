"""Relevance of the models in `bench.models` as the papers define it: what the engine must find, by none of its means.

Every layer gets R, propagates it by `zsu_fast.reference.lrp.propagate` in float64, positive and negative parts written
out, and hands R / x on; residual sums, pooling and ReLU are autograd's.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models import Attention, ConvNorm
from zsu_fast.lrp import Composite
from zsu_fast.lrp.composites import Kind, composite_of
from zsu_fast.lrp.rules import LayerRule
from zsu_fast.reference.layout import sum_per_unit
from zsu_fast.reference.lrp import propagate

Neurons = dict[str, Tensor]


@torch.enable_grad()
def relevance_by_definition(
    model: nn.Module, images: Tensor, target: Tensor, composite: str | Composite
) -> dict[str, Any]:
    """{"input": like `images`, "neurons": {layer: [N, units]}, "logits": [N, classes]}, in float64."""
    neurons: Neurons = {}
    model = copy.deepcopy(model).double()
    _define(model, composite_of(composite), neurons)
    images = images.detach().double().requires_grad_()
    logits = model(images)
    (c,) = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), images)
    return {"input": c * images.detach(), "neurons": dict(sorted(neurons.items())), "logits": logits.detach()}


def _define(model: nn.Module, composite: Composite, neurons: Neurons) -> None:
    """Replace what needs a rule; every other module stays as it is."""

    def by_rule(module: nn.Conv2d | nn.Linear, name: str, weight: Tensor, bias: Tensor | None) -> None:
        kind: Kind = "linear" if isinstance(module, nn.Linear) else "convolution"
        rule = composite.rule(name, kind, 1)
        assert isinstance(rule, LayerRule), f"no definition of {rule} here"
        parameters = {name: value for name, value in rule.parameters().items() if name != "rule"}

        def map(x: Tensor, w: Tensor) -> Tensor:
            if isinstance(module, nn.Linear):
                return F.linear(x, w)
            return F.conv2d(x, w, None, module.stride, module.padding)

        def back(relevance: Tensor, x: Tensor) -> Tensor:
            unit_dim = relevance.dim() - 1 if kind == "linear" else 1
            neurons[name] = sum_per_unit(relevance, unit_dim)
            return propagate(rule.name, relevance, x, weight, bias, map, unit_dim=unit_dim, **parameters)

        def forward(x: Tensor) -> Tensor:
            y = map(x, weight)
            shape = [1] * y.dim()
            shape[-1 if kind == "linear" else 1] = -1
            return ByRule.apply(x, y if bias is None else y + bias.view(shape), back)

        _run_instead(module, forward)

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            by_rule(module, name, module.weight, module.bias)
        elif isinstance(module, ConvNorm):
            conv, norm = module
            assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
            assert norm.running_var is not None and norm.running_mean is not None
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            by_rule(conv, f"{name}.0", conv.weight * scale.view(-1, 1, 1, 1), norm.bias - norm.running_mean * scale)
            module[1] = nn.Identity()
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            by_rule(module, name, module.weight, module.bias)
        elif isinstance(module, nn.LayerNorm):
            _run_instead(module, _norm(module))
        elif isinstance(module, nn.GELU):
            _run_instead(module, lambda x: x * (F.gelu(x) / x).detach())
        elif isinstance(module, Attention):
            _run_instead(module, _attention(module, name, composite.attention, neurons))


def _run_instead(module: nn.Module, forward: Callable[[Tensor], Tensor]) -> None:
    module.forward = forward


class ByRule(torch.autograd.Function):
    """y from x; back comes c = R / x, with R of x by `back` from R of y. Where x = 0, R is 0 and nothing is divided."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, back: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(x, y)
        ctx.back = back
        return y.clone()

    @staticmethod
    def backward(ctx: Any, c: Tensor) -> tuple[Tensor | None, ...]:
        x, y = ctx.saved_tensors
        relevance = ctx.back(c * y, x)
        return torch.where(x == 0, 0.0, relevance / x), None, None


def _norm(norm: nn.LayerNorm) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        sigma = (x.var(-1, correction=0, keepdim=True) + norm.eps).sqrt().detach()
        return (x - x.mean(-1, keepdim=True)) / sigma * norm.weight + norm.bias

    return forward


def _attention(module: Attention, name: str, kind: str, neurons: Neurons) -> Callable[[Tensor], Tensor]:
    def half(x: Tensor) -> Tensor:
        return (x + x.detach()) / 2

    def note(relevance: Tensor, heads: Tensor) -> Tensor:
        neurons[f"{name}.heads"] = relevance.sum((2, 3))
        return relevance

    def forward(x: Tensor) -> Tensor:
        q, k, v = module.qkv(x).unflatten(-1, (3, module.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (half(q) @ half(k).transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
        attended = weights.detach() @ v if kind == "cp_lrp" else half(weights) @ half(v)
        attended = ByRule.apply(attended, attended, note)
        return module.proj(attended.transpose(1, 2).flatten(2))

    return forward
