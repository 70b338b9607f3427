"""What must hold of every model of the zoo: laws that need no second implementation of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.lrp import Composite, Flat, Gamma, Relevance, Zero, relevance

TARGET = 2

RULES: dict[str, str | Composite] = {
    "epsilon, AttnLRP": "epsilon",
    "CP-LRP": "cp_lrp",
    "z+": "epsilon_plus",
    "gamma": Composite(Gamma(), Gamma()),
    "alpha2 beta1": "epsilon_alpha2_beta1",
    "z+, flat first": "epsilon_plus_flat",
}
"""One composite for each family of rules, in the order of the table's columns."""

CONSERVING = {
    "0": Composite(Zero(), Zero(), attention="cp_lrp"),
    "gamma": Composite(Gamma(epsilon=0), Gamma(epsilon=0), attention="cp_lrp"),
    "flat": Composite(Zero(), Zero(), first=Flat(), attention="cp_lrp"),
}
"""With these, only what is added to values (biases, positions, class tokens) takes relevance away."""

_LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d)


def logits_of(output: Any) -> Tensor:
    return getattr(output, "logits", output)


@contextmanager
def left_untouched(model: nn.Module) -> Iterator[None]:
    """AssertionError if anything about the model, or the state of random numbers, is not as it was."""
    before = _state(model)
    yield
    after = _state(model)
    changed = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    assert not changed, f"the model was changed: {changed[:5]}"


def _state(model: nn.Module) -> dict[str, Any]:
    """Identity, version, flags and values of tensors; hooks, flags and attributes of modules; the random state."""
    state: dict[str, Any] = {"random": torch.get_rng_state().tolist()}
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        total = tensor.detach().sum().item()
        state[name] = (id(tensor), tensor._version, tensor.data_ptr(), tensor.requires_grad, tensor.grad, total)
    for name, module in model.named_modules():
        hooks = {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks")}
        state[f"module {name}"] = (id(module), module.training, hooks, sorted(vars(module)))
    return state


def run(model: nn.Module, images: Tensor) -> tuple[Tensor, list[str]]:
    """Logits, and the names of the linear layers and convolutions that run on what comes from the images, in order."""
    order: dict[str, None] = {}

    def note(name: str, input: Tensor) -> None:
        if input.requires_grad:
            order.setdefault(name)

    handles = [
        module.register_forward_pre_hook(lambda _, inputs, name=name: note(name, inputs[0]))
        for name, module in model.named_modules()
        if isinstance(module, _LAYERS)
    ]
    model.requires_grad_(False)
    logits = logits_of(model(images.clone().requires_grad_())).detach()
    model.requires_grad_(True)
    for handle in handles:
        handle.remove()
    return logits, list(order)


def told_class(logits: Tensor) -> int:
    """The class to explain; another where its logit is 0 for some sample (a ReLU may be a model's last function)."""
    return TARGET if bool((logits[:, TARGET] != 0).all()) else int(logits.abs().amin(0).argmax())


def check_result(found: Relevance, logits: Tensor) -> None:
    """The logits are the model's own; every number is finite; relevance arrives, and at most layers too.

    It does not at those that make gates and attention weights, where these are held constant.
    """
    torch.testing.assert_close(found.logits, logits)
    assert torch.isfinite(found.input).all()
    assert found.input.abs().sum() > 0
    reached = 0
    for name, units in found.neurons.items():
        assert units.dim() == 2 and len(units) == len(logits), f"{name}: {tuple(units.shape)}"
        assert torch.isfinite(units).all(), name
        reached += bool(units.abs().sum() > 0)
    assert reached >= 0.4 * len(found.neurons), f"relevance reached {reached} of {len(found.neurons)} layers"


def check_names(found: Relevance, order: list[str], model: nn.Module) -> None:
    """Layers go by the names of the modules that own their weights, in execution order."""
    names = set(dict(model.named_modules())) | set(dict(model.named_parameters())) | set(dict(model.named_buffers()))
    for name, units in found.neurons.items():
        owner = name.removesuffix(".heads")
        assert owner in names or owner.rpartition(".")[0] in names, f"{name!r} is nowhere in the model"
        layer = dict(model.named_modules()).get(name)
        if isinstance(layer, _LAYERS):
            assert units.shape[1] == (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels), name
    assert [name for name in found.neurons if name in set(order)] == order


def check_samples_apart(both: Relevance, alone: Relevance) -> None:
    """What a sample gets does not depend on the others of its batch."""
    torch.testing.assert_close(both.input[:1], alone.input, rtol=1e-5, atol=1e-7 * both.input.abs().max().item())
    for name, units in alone.neurons.items():
        atol = 1e-7 * max(units.abs().max().item(), 1e-6)
        torch.testing.assert_close(
            both.neurons[name][:1], units, rtol=1e-5, atol=atol, msg=lambda m, n=name: f"{n}: {m}"
        )


def check_nothing_is_lost(model: nn.Module, images: Tensor) -> None:
    """Nothing is added to values in `model`: the relevance of the input is the logit, whatever lies between."""
    with torch.no_grad():
        target = told_class(logits_of(model(images)))
    for name, composite in CONSERVING.items():
        found = relevance(model, images, target, composite=composite)
        logit, amount = found.logits[:, target], found.input.abs().flatten(1).sum(1)
        lost = (found.input.flatten(1).sum(1) - logit).abs() / torch.maximum(amount, logit.abs())
        assert logit.abs().min() > 0
        assert lost.max() < 1e-6, f"{name}: {lost.max().item():.2g} of the relevance is lost"
