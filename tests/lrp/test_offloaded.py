"""Parameters that have values only while their module runs, as under accelerate's `cpu_offload`, `disk_offload`."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import zsu_fast


def offload(model: nn.Module) -> None:
    """By hooks and assignments like accelerate's (which the tests do not need): meta, values, meta."""
    for module in model.modules():
        stored = dict(module._parameters)

        def move(module: nn.Module, name: str, value: Tensor, device: str) -> None:
            old = module._parameters[name]
            new = value.to(device)
            module._parameters[name] = type(old)(new, requires_grad=old.requires_grad).to(device)

        def load(module: nn.Module, args: object, stored: dict[str, Tensor] = stored) -> None:
            for name, value in stored.items():
                move(module, name, value.detach(), "cpu")

        def free(module: nn.Module, args: object, output: object, stored: dict[str, Tensor] = stored) -> None:
            for name in stored:
                move(module, name, module._parameters[name], "meta")

        free(module, None, None)
        module.register_forward_pre_hook(load)
        module.register_forward_hook(free)


def by_accelerate(model: nn.Module) -> None:
    pytest.importorskip("accelerate").cpu_offload(model, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("offload", [offload, by_accelerate])
def test_relevance_of_an_offloaded_model_and_forget_says_load_it_first(offload: Callable[[nn.Module], None]) -> None:
    plain = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 6), nn.GELU(), nn.Linear(6, 3)
    ).eval()
    model = copy.deepcopy(plain)
    offload(model)
    assert all(parameter.is_meta for parameter in model.parameters())
    images = torch.rand(5, 1, 4, 4)
    for composite in ("epsilon", "epsilon_alpha2_beta1"):
        ours = zsu_fast.relevance(model, images, 1, composite=composite)
        theirs = zsu_fast.relevance(plain, images, 1, composite=composite)
        assert torch.equal(ours.input, theirs.input) and list(ours.neurons) == list(theirs.neurons) == ["0", "4", "6"]
        assert all(torch.equal(relevance, theirs.neurons[name]) for name, relevance in ours.neurons.items())
    with pytest.raises(TypeError, match="on the meta device, it has no values .* load it first"):
        zsu_fast.forget(model, 1, images)
    assert all(isinstance(parameter, nn.Parameter) and parameter.is_meta for parameter in model.parameters())
