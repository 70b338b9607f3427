"""Layers whose weight is no parameter of its own but computed from others before each run."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn.utils import parametrize


def computed_weights(model: nn.Module) -> dict[str, str]:
    """Module name -> what computes its weight, and how to make it a plain parameter."""
    found = {}
    for name, module in model.named_modules():
        if type(module).__module__.startswith("peft.tuners") and "base_layer" in module._modules:
            found[name] = f"an adapter of peft ({type(module).__name__}): merge it first, with merge_and_unload()"
        elif parametrize.is_parametrized(module, "weight"):
            parts: Any = module.parametrizations
            what = ", ".join(type(part).__name__.lstrip("_") for part in parts["weight"])
            found[name] = (
                f"a parametrization ({what}): fold it first with "
                "torch.nn.utils.parametrize.remove_parametrizations(module, 'weight')"
            )
        elif "weight_orig" in module._parameters:
            found[name] = (
                "torch.nn.utils (prune or spectral_norm): fold it first with prune.remove or remove_spectral_norm"
            )
        elif "weight_g" in module._parameters:
            found[name] = "torch.nn.utils.weight_norm: fold it first with remove_weight_norm"
    return found
