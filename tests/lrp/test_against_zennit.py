"""Composites against zennit in float64, on nets where its rules mean the same: relevance of inputs and of neurons."""

import pytest
import torch
from torch import Tensor, nn

from tests import peers
from tests.lrp.nets import VGG, ResNet, Sum, randomize
from zsu_fast.lrp import COMPOSITES, Composite, relevance

LOW, HIGH = -3.0, 3.0


def ours(name: str) -> Composite:
    return COMPOSITES[name](LOW, HIGH) if name == "epsilon_gamma_box" else COMPOSITES[name]()


def theirs(name: str, model: nn.Module, x: Tensor, start: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(logits, relevance of x, relevance per unit at each layer's output) by zennit, BatchNorm merged."""
    peers.import_zennit()
    from zennit import composites, types
    from zennit.attribution import Gradient
    from zennit.canonizers import SequentialMergeBatchNorm
    from zennit.composites import LayerMapComposite
    from zennit.rules import Epsilon, Norm, ZPlus

    # zennit knows a Sum of its own; ours means the same. The stabiliser is too small to matter in sums that cancel.
    norm = Norm(stabilizer=1e-12)
    layer_map = [(Sum, norm), (types.AvgPool, norm)]
    canonizers = [SequentialMergeBatchNorm()]
    epsilon = [*layer_map, *composites.layer_map_base(), (types.Linear, Epsilon())]
    plus = [*layer_map, *composites.layer_map_base(), (types.Convolution, ZPlus()), (nn.Linear, Epsilon())]
    match name:
        case "epsilon":
            composite = LayerMapComposite(epsilon, canonizers=canonizers)
        case "epsilon_plus":
            composite = LayerMapComposite(plus, canonizers=canonizers)
        case "epsilon_plus_flat":
            composite = composites.EpsilonPlusFlat(layer_map=layer_map, canonizers=canonizers)
        case "epsilon_gamma_box":
            low, high = (torch.full_like(x[:1], value) for value in (LOW, HIGH))
            composite = composites.EpsilonGammaBox(low, high, layer_map=layer_map, canonizers=canonizers)
        case "epsilon_alpha2_beta1":
            composite = composites.EpsilonAlpha2Beta1(layer_map=layer_map, canonizers=canonizers)

    outputs: dict[str, Tensor] = {}
    hooks = []
    with Gradient(model, composite) as attributor:
        for layer_name, module in model.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d):

                def keep(module: nn.Module, inputs: object, output: Tensor, name: str = layer_name) -> None:
                    outputs[name] = output
                    output.retain_grad()

                hooks.append(module.register_forward_hook(keep))
        x = x.clone().requires_grad_()
        logits = attributor.model(x)
        kept = dict(outputs)
        grads = torch.autograd.grad(logits, [x, *kept.values()], start * logits.detach())
    for hook in hooks:
        hook.remove()
    units = {n: g.flatten(2).sum(2) if g.dim() > 2 else g for n, g in zip(kept, grads[1:], strict=True)}
    return logits.detach(), grads[0], units


@pytest.mark.parametrize(
    "name", ["epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1"]
)
@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_same_relevance(kind: str, name: str) -> None:
    torch.manual_seed(1)
    model = randomize(VGG() if kind == "vgg" else ResNet())
    modules = model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-14  # zennit's merged BatchNorm applies eps a second time
    if kind == "resnet":
        modules = randomize(ResNet(sum_module=True))
        modules.load_state_dict(model.state_dict())
        for module in modules.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eps = 1e-14
    x = torch.randn(3, 3, 16, 16, dtype=torch.float64).clamp(LOW, HIGH)
    target = torch.tensor([0, 3, 1])
    start = torch.nn.functional.one_hot(target, 5).double()

    logits, expected, units = theirs(name, modules, x, start)
    found = relevance(model, x, target, composite=ours(name))

    torch.testing.assert_close(found.logits, logits)
    scale = expected.abs().max()
    torch.testing.assert_close(found.input / scale, expected / scale, rtol=0, atol=2e-5)
    assert set(found.neurons) == set(units)
    for layer, unit in units.items():
        scale = unit.abs().max()
        torch.testing.assert_close(found.neurons[layer] / scale, unit / scale, rtol=0, atol=2e-5, msg=layer)
