"""Whole models: the relevance of the input and of every neuron, against the plain gradient and other LRP libraries."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

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


# name, model, batch (CPU, CUDA), devices, rules by label, other libraries by label
Rules = dict[str, str | Composite]
CNN_RULES: Rules = {
    "epsilon": "epsilon",
    "z+": "epsilon_plus",
    "gamma": GAMMA,
    "alpha2beta1": "epsilon_alpha2_beta1",
}
VIT_RULES: Rules = {"AttnLRP": "attnlrp", "CP-LRP": "cp_lrp"}
MODELS: tuple[tuple[str, type[nn.Module], Callable[[], nn.Module], tuple[int, int], tuple[str, ...], Rules], ...] = (
    ("VGG-16", VGG, VGG, (1, 32), ("cpu", "cuda"), CNN_RULES),
    ("ResNet-50", ResNet, ResNet, (2, 64), ("cpu", "cuda"), CNN_RULES),
    ("ViT-B/16", ViT, ViT, (1, 64), ("cpu", "cuda"), VIT_RULES),
    ("ViT-L/16", ViT, partial(ViT, width=1024, depth=24, heads=16), (1, 32), ("cuda",), VIT_RULES),
)


def others(kind: type[nn.Module], label: str) -> dict[str, Callable[..., Tensor]]:
    if kind is ViT:
        return {"LXT": partial(peers.lxt, share_weights=label == "AttnLRP")}
    found: dict[str, Callable[..., Tensor]] = {"zennit": partial(peers.zennit, rules=label)}
    return found | ({"captum": peers.captum} if kind is VGG and label == "epsilon" else {})


def cases() -> Iterator[Case]:
    for name, kind, build, (on_cpu, on_cuda), devices, rules in MODELS:
        small, small_size = SMALL[kind]
        for label, composite in rules.items():
            stable = kind is ViT or label == "z+"  # enough for bfloat16: epsilon divides by sums that cancel
            tolerance = {
                torch.float32: 2**17 if label == "epsilon" else 2**11,
                torch.bfloat16: 2**3 if kind is ViT else 2**5,
            }
            for device in devices:
                batch = on_cpu if device == "cpu" else on_cuda
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
