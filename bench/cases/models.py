"""Whole models: the relevance of the input and of every neuron, against the plain gradient and other LRP libraries."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from bench import peer_libraries as peers
from bench.definition import relevance_by_definition
from bench.models import VGG, ResNet, ViT, natural, settle
from bench.registry import Case, register
from bench.runner import ONE_TARGET
from zsu_fast.lrp import Composite, Epsilon, Gamma, relevance

GAMMA = Composite(Epsilon(), Gamma(0.25))

# The same nets with fewer channels and blocks, for the gate: the definition takes minutes on the large ones.
SMALL: dict[type[nn.Module], tuple[Callable[[], nn.Module], int]] = {
    VGG: (partial(VGG, size=32, divisor=8, classes=10), 32),
    ResNet: (partial(ResNet, blocks=(1, 2, 1, 1), width=8, classes=10), 64),
    ViT: (partial(ViT, width=48, depth=3, heads=3, size=32, patch=8, classes=10), 32),
}


def make(
    device: torch.device, dtype: torch.dtype, *, build: Callable[[], nn.Module], size: int, batch: int
) -> tuple[nn.Module, Tensor, Tensor]:
    """A model in eval mode with frozen weights, images, and a class per image."""
    with torch.device(device):
        model = build()
    settle(model, natural(2, size, device))
    images = natural(batch, size, device)
    target = torch.arange(batch, device=device)
    return model.to(dtype), images.to(dtype), target


def collected(found: Any) -> dict[str, Any]:
    """A `Relevance` as the definition gives it."""
    return {"input": found.input, "neurons": dict(sorted(found.neurons.items())), "logits": found.logits}


def ours(model: nn.Module, images: Tensor, target: Tensor, *, composite: str | Composite) -> dict[str, Any]:
    return collected(relevance(model, images, target, composite=composite))


def plain_gradient(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Forward and input gradient, the weights frozen: what every ratio is taken to."""
    with torch.enable_grad():
        x = images.detach().requires_grad_()
        return torch.autograd.grad(model(x).gather(1, target[:, None]).sum(), x)[0]


def two_targets(model: nn.Module, images: Tensor, target: Tensor, *, composite: str | Composite) -> list[Any]:
    return [collected(found) for found in relevance(model, images, [target, target + 1], composite=composite)]


def two_by_definition(model: nn.Module, images: Tensor, target: Tensor, composite: str | Composite) -> list[Any]:
    return [relevance_by_definition(model, images, t, composite) for t in (target, target + 1)]


Rules = dict[str, str | Composite]
CNN_RULES: Rules = {
    "epsilon": "epsilon",
    "z+": "epsilon_plus",
    "gamma": GAMMA,
    "alpha2beta1": "epsilon_alpha2_beta1",
}
VIT_RULES: Rules = {"AttnLRP": "attnlrp", "CP-LRP": "cp_lrp"}


class Model(NamedTuple):
    name: str
    build: Callable[[], nn.Module]
    kind: type[nn.Module]
    rules: Rules
    batch: dict[str, int]  # by device; on others it is not measured


MODELS = (
    Model("VGG-16", VGG, VGG, CNN_RULES, {"cpu": 1, "cuda": 32}),
    Model("ResNet-50", ResNet, ResNet, CNN_RULES, {"cpu": 2, "cuda": 64}),
    Model("ViT-B/16", ViT, ViT, VIT_RULES, {"cpu": 1, "cuda": 64}),
    Model("ViT-L/16", partial(ViT, width=1024, depth=24, heads=16), ViT, VIT_RULES, {"cuda": 32}),
)


def others(kind: type[nn.Module], label: str) -> dict[str, Callable[..., Tensor]]:
    if kind is ViT:
        return {"LXT": partial(peers.lxt, share_weights=label == "AttnLRP")}
    found: dict[str, Callable[..., Tensor]] = {"zennit": partial(peers.zennit, rules=label)}
    return found | ({"captum": peers.captum} if kind is VGG and label == "epsilon" else {})


def cases() -> Iterator[Case]:
    for name, build, kind, rules, batches in MODELS:
        small, small_size = SMALL[kind]
        for label, composite in rules.items():
            stable = kind is ViT or label == "z+"  # enough for bfloat16: epsilon divides by sums that cancel
            tolerance = {
                torch.float32: 2**17 if label == "epsilon" else 2**11,
                torch.bfloat16: 2**3 if kind is ViT else 2**5,
            }
            for device, batch in batches.items():
                common: dict[str, Any] = {
                    "make": partial(make, build=build, size=224, batch=batch),
                    "small": partial(make, build=small, size=small_size, batch=3),
                    "bytes": None,
                    "tolerance": tolerance,
                    "devices": (device,),
                    "dtypes": (torch.float32, torch.bfloat16) if stable and device == "cuda" else (torch.float32,),
                }
                yield Case(
                    name=f"relevance/{name} x {batch}, {label}",
                    run=partial(ours, composite=composite),
                    reference=partial(relevance_by_definition, composite=composite),
                    floors={"plain gradient": plain_gradient},
                    peers=others(kind, label),
                    part=lambda result: result["input"],
                    # They sum and stabilise in other orders.
                    peers_tolerance={torch.float32: 2**17, torch.bfloat16: tolerance[torch.bfloat16]},
                    **common,
                )
                if label not in ("epsilon", "z+", "AttnLRP"):
                    continue
                yield Case(
                    name=f"relevance/{name} x {batch}, {label}, two targets",
                    run=partial(two_targets, composite=composite),
                    reference=partial(two_by_definition, composite=composite),
                    floors={"plain gradient": plain_gradient, ONE_TARGET: partial(ours, composite=composite)},
                    **common,
                )


for _case in cases():
    register(_case)
