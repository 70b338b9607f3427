"""Rules and composites against zennit in float64: relevance of inputs and of neurons."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests import peers
from tests.lrp.nets import VGG, ResNet, Sum, randomize
from zsu_fast.lrp import (
    COMPOSITES,
    AlphaBeta,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    Rule,
    WSquare,
    ZBox,
    ZPlus,
    relevance,
)

LOW, HIGH = -3.0, 3.0
TARGET = torch.tensor([0, 3, 1])
# zennit stabilises sums and averages, and the always positive denominators of flat and w^2, where zsu_fast does not.
TINY = 1e-12


def zennit_rule(rule: Rule, x: Tensor) -> Any:
    """The rule of zennit that means the same for a layer whose input has the shape of x."""
    from zennit import rules

    match rule:
        case Epsilon():
            return rules.Epsilon(epsilon=rule.epsilon)
        case Gamma():
            return rules.Gamma(gamma=rule.gamma, stabilizer=rule.epsilon)
        case ZPlus():
            return rules.ZPlus(stabilizer=rule.epsilon)
        case AlphaBeta():
            return rules.AlphaBeta(alpha=rule.alpha, beta=rule.beta, stabilizer=rule.epsilon)
        case Flat():
            return rules.Flat(stabilizer=TINY)
        case WSquare():
            return rules.WSquare(stabilizer=TINY, zero_params=None if rule.bias else "bias")
        case ZBox():
            low, high = (torch.full_like(x[:1], value) for value in (rule.low, rule.high))
            return rules.ZBox(low, high, stabilizer=rule.epsilon)
        case Pass():
            return rules.Pass()
        case _:
            raise TypeError(f"zennit has no {rule!r}")


def named(name: str, x: Tensor, canonizers: list) -> Any:
    """zennit's own composite of this name."""
    from zennit import composites, types
    from zennit.rules import Norm

    norm = Norm(stabilizer=TINY)
    # zennit knows a Sum of its own; ours means the same.
    layer_map = [(Sum, norm), (types.AvgPool, norm)]
    bounds = [torch.full_like(x[:1], value) for value in (LOW, HIGH)] if name == "epsilon_gamma_box" else []
    return composites.COMPOSITES[name](*bounds, layer_map=layer_map, canonizers=canonizers)


def by_name(rules: dict[str, Rule], x: Tensor, canonizers: list, norm_stabilizer: float) -> Any:
    """A composite of zennit with these rules, and the fixed rules that it has for everything else."""
    from zennit import composites, types
    from zennit.rules import Norm

    norm = Norm(stabilizer=norm_stabilizer)
    names = [([name], zennit_rule(rule, x)) for name, rule in rules.items()]
    types_map = [(Sum, norm), (types.AvgPool, norm), *composites.layer_map_base()]
    return composites.MixedComposite(
        [composites.NameMapComposite(names), composites.LayerMapComposite(types_map)], canonizers=canonizers
    )


def theirs(composite: Any, model: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """(logits, relevance of x, relevance per unit at each layer's output)."""
    from zennit.attribution import Gradient

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
        start = nn.functional.one_hot(TARGET[: len(x)], logits.shape[1]) * logits.detach()
        grads = torch.autograd.grad(logits, [x, *kept.values()], start)
    for hook in hooks:
        hook.remove()
    units = {n: g.flatten(2).sum(2) if g.dim() > 2 else g for n, g in zip(kept, grads[1:], strict=True)}
    return logits.detach(), grads[0], units


def pair(kind: str) -> tuple[nn.Module, nn.Module, list]:
    """A model as users write it, its twin as zennit needs it (sums are modules), and zennit's canonizers."""
    peers.import_zennit()
    from zennit.canonizers import SequentialMergeBatchNorm

    model = randomize(VGG() if kind == "vgg" else ResNet())
    twin = model if kind == "vgg" else randomize(ResNet(sum_module=True))
    twin.load_state_dict(model.state_dict())
    for module in (*model.modules(), *twin.modules()):
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-14  # zennit's merged BatchNorm applies eps a second time
    return model, twin, [SequentialMergeBatchNorm()]


def assert_same(found: Any, expected: tuple[Tensor, Tensor, dict[str, Tensor]]) -> None:
    """Errors relative to the largest value."""
    logits, inputs, units = expected
    torch.testing.assert_close(found.logits, logits)
    assert set(found.neurons) == set(units)
    for label, ours, other in (
        ("input", found.input, inputs),
        *((n, found.neurons[n], u) for n, u in units.items()),
    ):
        scale = other.abs().max()
        torch.testing.assert_close(ours / scale, other / scale, rtol=0, atol=1e-6, msg=lambda m, x=label: x + m)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, dtype=torch.float64).clamp(LOW, HIGH)


@pytest.mark.parametrize(
    "name",
    ["epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1", "epsilon_alpha2_beta1_flat",
     "excitation_backprop"],
)  # fmt: skip
@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_named_composites(kind: str, name: str, images: Tensor) -> None:
    model, twin, canonizers = pair(kind)
    ours = COMPOSITES[name](LOW, HIGH) if name == "epsilon_gamma_box" else name
    if name == "excitation_backprop":
        ours = Composite(ZPlus(), ZPlus())
        assert ours == COMPOSITES[name]()
    assert_same(relevance(model, images, TARGET, composite=ours), theirs(named(name, images, canonizers), twin, images))


RULES: list[Rule] = [
    Epsilon(1e-6), Epsilon(0.25), Gamma(0.25), Gamma(0.1, epsilon=0.1), ZPlus(), AlphaBeta(2, 1), AlphaBeta(1, 0),
]  # fmt: skip


@pytest.mark.parametrize("rule", RULES, ids=repr)
@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_rules_everywhere(kind: str, rule: Rule, images: Tensor) -> None:
    model, twin, canonizers = pair(kind)
    found = relevance(model, images, TARGET, composite=Composite(rule, rule))
    composite = by_name(dict.fromkeys(found.neurons, rule), images, canonizers, TINY)
    assert_same(found, theirs(composite, twin, images))


@pytest.mark.parametrize("rule", [Flat(), WSquare(), WSquare(bias=True), ZBox(LOW, HIGH)], ids=repr)
@pytest.mark.parametrize("kind", ["vgg", "resnet"])
def test_input_rules(kind: str, rule: Rule, images: Tensor) -> None:
    model, twin, canonizers = pair(kind)
    found = relevance(model, images, TARGET, composite=Composite(Epsilon(), ZPlus(), first=rule))
    rules = {
        name: rule if i == 0 else Epsilon() if name.startswith(("fc", "classifier")) else ZPlus()
        for i, name in enumerate(found.neurons)
    }
    assert_same(found, theirs(by_name(rules, images, canonizers, TINY), twin, images))


@pytest.mark.parametrize("rule", [Flat(), WSquare(), WSquare(bias=True)], ids=repr)
@pytest.mark.parametrize("layer", ["features.3", "features.6", "classifier.1", "classifier.4"])
def test_input_rules_in_the_middle(layer: str, rule: Rule, images: Tensor) -> None:
    """Relevance goes to units that do not fire, and on below them."""
    model, twin, canonizers = pair("vgg")
    found = relevance(model, images, TARGET, composite=Composite(Epsilon(0.01), ZPlus(), names={layer: rule}))
    rules = {n: ZPlus() if n.startswith("features") else Epsilon(0.01) for n in found.neurons} | {layer: rule}
    # Average pooling gets R from the layer above it, and c from all others, which needs no division.
    stabilizer = 1e-6 if layer == "classifier.1" else TINY
    assert_same(found, theirs(by_name(rules, images, canonizers, stabilizer), twin, images))


@pytest.mark.parametrize("rule", [Flat(), WSquare()], ids=repr)
def test_input_rules_everywhere(rule: Rule, images: Tensor) -> None:
    model, twin, canonizers = pair("vgg")
    found = relevance(model, images, TARGET, composite=Composite(rule, rule))
    composite = by_name(dict.fromkeys(found.neurons, rule), images, canonizers, 1e-6)
    assert_same(found, theirs(composite, twin, images))


def test_w_square_differs_on_purpose(images: Tensor) -> None:
    """zennit keeps b^2 in the denominator of w^2, and loses its share; the paper has no bias, and conserves."""
    model, _, _ = pair("vgg")
    conserving, like_zennit = (
        relevance(model, images, TARGET, composite=Composite(first=WSquare(bias=bias))) for bias in (False, True)
    )
    arrived = conserving.neurons["features.0"].sum(1)
    torch.testing.assert_close(conserving.input.sum((1, 2, 3)), arrived)
    assert ((like_zennit.input.sum((1, 2, 3)) / arrived).abs() < 1).all()


@pytest.mark.models
@pytest.mark.parametrize("name", ["epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1"])
def test_torchvisions_resnet_with_zennits_canonizer(name: str) -> None:
    """It folds BatchNorm and puts modules in the place of residual sums; here the model stays as it is."""
    torchvision = peers.import_torchvision()
    peers.import_zennit()
    from zennit import composites, layer, types
    from zennit import torchvision as canonizers
    from zennit.rules import Norm

    model = randomize(torchvision.models.resnet18(num_classes=7))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 1e-14
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64).clamp(LOW, HIGH)
    bounds = (LOW, HIGH) if name == "epsilon_gamma_box" else ()
    ours = relevance(model, x, TARGET[:1], composite=COMPOSITES[name](*bounds))

    norm = Norm(stabilizer=TINY)
    composite = composites.COMPOSITES[name](
        *(torch.full_like(x[:1], value) for value in bounds),
        layer_map=[(layer.Sum, norm), (types.AvgPool, norm)],
        canonizers=[canonizers.ResNetCanonizer()],
    )
    _, expected, _ = theirs(composite, model, x)
    scale = expected.abs().max()
    torch.testing.assert_close(ours.input / scale, expected / scale, rtol=0, atol=1e-6)
