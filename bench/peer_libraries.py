"""Relevance of the input by other LRP libraries, each as its documentation says, on the models of `bench.models`.

They are set up once per model, outside of what is timed. None of them collects the relevance of neurons.
"""

import copy
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.models import Block, Bottleneck, ViT
from tests import peers


def _copy(model: nn.Module) -> nn.Module:
    """These libraries change the modules they are given, and ask for activations that are not in place."""
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
    return model


@lru_cache(maxsize=1)
def _zennit(model: nn.Module, rules: str) -> nn.Module:
    """A copy of `model` with zennit's hooks on it: its backward is relevance from here on."""
    library = peers.import_zennit()
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import LayerMapComposite, layer_map_base
    from zennit.rules import AlphaBeta, Epsilon, Gamma, Norm, ZPlus

    class Stacked(nn.Module):
        """A residual sum in the form that zennit has a rule for."""

        def __init__(self) -> None:
            super().__init__()
            self.sum = library.layer.Sum()

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return self.sum(torch.stack([a, b], -1))

    model = _copy(model)
    for module in model.modules():
        if isinstance(module, Bottleneck):
            module.sum = Stacked()  # type: ignore[assignment]
        elif isinstance(module, nn.BatchNorm2d):  # whose eps it adds twice, when it merges and when it runs
            assert module.running_var is not None
            module.running_var += module.eps
            module.eps = 1e-14  # torch 2.11 refuses 0
    convolution = {
        "epsilon": Epsilon(), "z+": ZPlus(), "gamma": Gamma(0.25), "alpha2beta1": AlphaBeta(2, 1),
    }[rules]  # fmt: skip
    # Where sums cancel, its default stabiliser would keep relevance that ours passes on.
    exact = [(kind, Norm(stabilizer=1e-12)) for kind in (library.layer.Sum, library.types.AvgPool)]
    layer_map = [*exact, *layer_map_base(), (library.types.Convolution, convolution), (nn.Linear, Epsilon())]
    LayerMapComposite(layer_map, canonizers=[SequentialMergeBatchNorm()]).register(model)
    return model


def zennit(model: nn.Module, images: Tensor, target: Tensor, *, rules: str) -> Tensor:
    hooked = _zennit(model, rules)
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        logits = hooked(x)
        start = torch.zeros_like(logits).scatter_(1, target[:, None], logits.detach().gather(1, target[:, None]))
        return torch.autograd.grad(logits, x, start)[0]


@lru_cache(maxsize=1)
def _captum(model: nn.Module) -> Callable[..., Any]:
    library = peers.import_captum()
    from captum.attr._utils.lrp_rules import EpsilonRule

    model = _copy(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.rule = EpsilonRule(1e-6)
    return library.attr.LRP(model).attribute


def captum(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    with torch.enable_grad():
        return _captum(model)(images.detach().requires_grad_(), target=target).detach()


def lxt(model: ViT, images: Tensor, target: Tensor, *, share_weights: bool) -> Tensor:
    """LXT's functions where its patches put them; LRP-0 in linear layers, which is as good as a small epsilon."""
    peers.import_lxt()
    from lxt.efficient.patches import layer_norm_forward
    from lxt.efficient.rules import divide_gradient, identity_rule_implicit, stop_gradient

    with torch.enable_grad():
        x = images.detach().requires_grad_()
        h = model.patch(x).flatten(2).transpose(1, 2)
        h = torch.cat([model.token.expand(len(h), -1, -1), h], 1) + model.position
        for block in model.blocks:
            assert isinstance(block, Block)
            qkv = block.attn.qkv(layer_norm_forward(block.norm1, h))
            q, k, v = qkv.unflatten(-1, (3, block.attn.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
            if share_weights:
                q, k, v = divide_gradient(q, 4), divide_gradient(k, 4), divide_gradient(v, 2)
            else:
                q, k = stop_gradient(q), stop_gradient(k)
            h = h + block.attn.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
            hidden = block.fc1(layer_norm_forward(block.norm2, h))
            h = h + block.fc2(identity_rule_implicit(F.gelu, hidden))
        logits = model.head(layer_norm_forward(model.norm, h)[:, 0])
        return torch.autograd.grad(logits.gather(1, target[:, None]).sum(), x)[0] * images
