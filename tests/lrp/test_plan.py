"""A plan gives the bits of `relevance`: models, rules, targets, dtypes, layouts."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bench.flops import flops
from tests.lrp.nets import VGG, ReluNet, ResNet, ViT, randomize
from zsu_fast import relevance
from zsu_fast.lrp import (
    AlphaBeta,
    Composite,
    Epsilon,
    Flat,
    Gamma,
    Pass,
    Plan,
    Relevance,
    WSquare,
    ZBox,
    Zero,
    ZPlus,
    attnlrp_gamma,
    compile,
    constant_weights,
    estimate_patterns,
    pattern_attribution,
    pattern_net,
)
from zsu_fast.lrp.rules import Rule

MODELS = {VGG: 16, ReluNet: 9, ResNet: 16, ViT: 8}
RULES: dict[str, str | Composite] = {
    **{name: name for name in ("epsilon", "epsilon_plus", "epsilon_plus_flat", "epsilon_alpha2_beta1", "cp_lrp")},
    "gamma": attnlrp_gamma(),
    "box and depth": Composite(Zero(), Zero(), first=ZBox(-3.0, (3.0, 4.0, 5.0)), depth=((0.4, Gamma()),)),
    "an input rule inside": Composite(last=Flat()),
}
Found = Relevance | tuple[Relevance, ...]


def made(kind: type[nn.Module], dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return randomize(ReluNet(bias=True) if kind is ReluNet else kind()).to(dtype)


def images_for(kind: type[nn.Module], samples: int = 3, seed: int = 0) -> Tensor:
    size = MODELS[kind]
    return torch.randn(samples, 3, size, size, generator=torch.Generator().manual_seed(seed))


def traces(plan: Plan) -> dict[Any, Any]:
    """What the plan keeps, by its guards."""
    return plan._traces._entries


def assert_same(found: Found, expected: Found) -> None:
    pairs = [each if isinstance(each, tuple) else (each,) for each in (found, expected)]
    for a, b in zip(*pairs, strict=True):
        assert a.input.dtype == b.input.dtype and list(a.neurons) == list(b.neurons)
        values = [(each.input, each.logits, *each.neurons.values()) for each in (a, b)]
        for one, other in zip(*values, strict=True):
            assert torch.equal(one, other) and not one.requires_grad and not one.is_inference()


@pytest.mark.parametrize(
    "kind, rules",
    [  # each rule on the smallest, each model by two: to trace one takes a second
        *((ReluNet, rules) for rules in RULES),
        (VGG, "box and depth"), (VGG, "an input rule inside"),
        (ResNet, "epsilon_plus_flat"), (ResNet, "epsilon_alpha2_beta1"),
        (ViT, "epsilon_plus"), (ViT, "cp_lrp"),
    ],
)  # fmt: skip
def test_models_and_rules(kind: type[nn.Module], rules: str) -> None:
    model, composite = made(kind), RULES[rules]
    plan = compile(model, images_for(kind), composite=composite)
    images, target = images_for(kind, seed=1), torch.arange(3)
    assert_same(plan(images, target), relevance(model, images, target, composite=composite))


@pytest.mark.parametrize("init, samples", [("logit", 3), ("one", 3), ("probability", 1)])
def test_targets(init: str, samples: int) -> None:
    model, images = made(ReluNet), images_for(ReluNet, samples)
    plan = compile(model, init=init)  # type: ignore[arg-type]
    several = torch.arange(samples, dtype=torch.int32)
    for target in (2, several, None, [several, 1, None], (3,)):
        assert_same(plan(images, target), relevance(model, images, target, init=init))  # type: ignore[call-overload]


def test_batches_of_other_sizes() -> None:
    model = made(ReluNet)
    plan = compile(model, images_for(ReluNet))
    for samples in (2, 1, 3):
        images = images_for(ReluNet, samples, seed=1)
        assert_same(plan(images), relevance(model, images))


@pytest.mark.parametrize(
    "kind, dtype",
    [(ReluNet, torch.float64), (ResNet, torch.bfloat16), (ReluNet, torch.float16), (ViT, torch.float16)],
)
def test_dtypes(kind: type[nn.Module], dtype: torch.dtype) -> None:
    model, images = made(kind, dtype), images_for(kind).to(dtype)
    plan = compile(model, images, composite="epsilon_plus")
    assert_same(plan(images, 1), relevance(model, images, 1, composite="epsilon_plus"))


@pytest.mark.parametrize("kind, dtypes", [(ReluNet, (torch.bfloat16, torch.float16, None)), (ViT, (torch.bfloat16,))])
def test_autocast(kind: type[nn.Module], dtypes: tuple[torch.dtype | None, ...]) -> None:
    model, images = made(kind), images_for(kind)
    plan = compile(model, composite="epsilon_plus")
    for _ in range(2):
        for dtype in dtypes:
            with torch.autocast("cpu", dtype or torch.bfloat16, enabled=dtype is not None):
                assert_same(plan(images, 1), relevance(model, images, 1, composite="epsilon_plus"))


@pytest.mark.parametrize("of_model", [torch.contiguous_format, torch.channels_last])
def test_memory_formats(of_model: torch.memory_format) -> None:
    model = made(ReluNet).to(memory_format=of_model)
    plan = compile(model, composite="epsilon_alpha2_beta1")
    images, wide = images_for(ReluNet), torch.randn(3, 3, 13, 13)
    last = images.contiguous(memory_format=torch.channels_last)
    for laid in (images, last, wide[..., 2:11, 2:11], images[:1].expand_as(images)):
        found = plan(laid, 1)
        expected = relevance(model, laid, 1, composite="epsilon_alpha2_beta1")
        assert_same(found, expected)
        assert found.input.stride() == expected.input.stride()


@pytest.mark.parametrize("rule", [pattern_net, pattern_attribution])
def test_patterns(rule: type) -> None:
    model, images = made(VGG), images_for(VGG)
    composite = rule(estimate_patterns(model, [images_for(VGG, 8, seed) for seed in range(4)]))
    plan = compile(model, images, composite=composite)
    assert_same(plan(images, [1, None]), relevance(model, images, [1, None], composite=composite))


@pytest.mark.parametrize("layers", ["classifier.1", ("features.3", "classifier.*")])
@pytest.mark.parametrize("at_input", [True, False])
def test_only_what_is_wanted_is_computed(layers: str | Sequence[str], at_input: bool) -> None:
    model, images = made(VGG), images_for(VGG)
    wanted = {"layers": layers, "at_input": at_input, "composite": "epsilon_plus"}
    plan = compile(model, images, **wanted)  # type: ignore[arg-type]
    assert_same(plan(images, 1), relevance(model, images, 1, **wanted))  # type: ignore[call-overload]
    cost, engine, whole = (
        flops(lambda call=call: call(images, 1))  # type: ignore[misc]
        for call in (plan, lambda *a: relevance(model, *a, **wanted), compile(model, images, composite="epsilon_plus"))
    )
    assert cost == whole if at_input else cost < 0.9 * whole and cost < engine  # the lowest layer's own product falls


@pytest.mark.parametrize("grad_mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_grad_modes(grad_mode: type) -> None:
    model = made(VGG)
    plan = compile(model)
    with grad_mode():
        images = images_for(VGG).requires_grad_(grad_mode is torch.enable_grad)
        assert_same(plan(images, 1), relevance(model, images, 1))
    assert_same(plan(images_for(VGG, seed=1), 1), relevance(model, images_for(VGG, seed=1), 1))


def test_memory_that_nobody_reads_may_hold_anything(poisoned_memory: None) -> None:
    model, images = made(ResNet), images_for(ResNet)
    plan = compile(model, images, composite="epsilon_alpha2_beta1")
    assert_same(plan(images, 1), relevance(model, images, 1, composite="epsilon_alpha2_beta1"))


def test_what_comes_of_weights_alone_is_made_once_while_they_are_constant() -> None:
    model, images, rules = made(ResNet), images_for(ResNet), "epsilon_alpha2_beta1"
    plan = compile(model, images, composite=rules)
    trace = next(iter(traces(plan).values())).trace
    calls: list[int] = []

    def counted(*weights: Tensor) -> tuple[Tensor, ...]:
        calls.append(1)
        return prepare(*weights)

    prepare = trace.prepare
    object.__setattr__(trace, "prepare", counted)
    expected = relevance(model, images, 1, composite=rules)
    for _ in range(2):
        assert_same(plan(images, 1), expected)
    assert len(calls) == 2
    with constant_weights(model):
        for _ in range(3):
            assert_same(plan(images, 1), expected)
        assert len(calls) == 3
        with torch.no_grad():
            model.get_submodule("blocks.0.conv2").weight[2] = 0  # type: ignore[index,operator]
            model.get_submodule("bn").running_var.mul_(2)  # type: ignore[operator,union-attr]
        changed = plan(images, 1)
        assert len(calls) == 4
    assert_same(changed, relevance(model, images, 1, composite=rules))
    assert not torch.equal(changed.input, expected.input)


def drawn_model(draw: random.Random) -> nn.Sequential:
    """A few convolutions or none, and linear layers, with whatever stands between them in such nets."""
    layers: list[nn.Module] = []
    channels = 2
    for _ in range(draw.randrange(3)):
        groups = draw.choice([1, 2])
        outputs = 2 * draw.randint(1, 4)
        layers.append(
            nn.Conv2d(
                channels, outputs, draw.choice([1, 3]), draw.choice([1, 2]), 1, groups=groups, bias=draw.random() < 0.7
            )
        )
        layers += [nn.BatchNorm2d(outputs)] if draw.random() < 0.5 else []
        layers.append(draw.choice([nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.SiLU(), nn.LeakyReLU(), nn.Tanh()]))
        layers += [draw.choice([nn.MaxPool2d(2, 1), nn.AvgPool2d(2, 1)])] if draw.random() < 0.4 else []
        channels = outputs
    layers += [nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    width = 4 * channels
    for _ in range(draw.randrange(3)):
        layers += [nn.Linear(width, 8), *([nn.LayerNorm(8)] if draw.random() < 0.3 else []), nn.ReLU(), nn.Dropout()]
        width = 8
    return nn.Sequential(*layers, nn.Linear(width, 4))


def drawn_composite(draw: random.Random) -> Composite:
    inner: list[Rule] = [Epsilon(), Epsilon(0.1), Zero(), ZPlus(), Gamma(0.3), AlphaBeta(2.0, 1.0), AlphaBeta(1.0, 0.0)]
    first: list[Rule | None] = [None, None, Flat(), WSquare(), ZBox(-4.0, 4.0), *inner]
    depth = tuple((f, draw.choice(inner)) for f in (0.3, 0.7)) if draw.random() < 0.3 else ()
    last = draw.choice([None, None, Flat(), *inner])
    return Composite(draw.choice(inner), draw.choice(inner), draw.choice(first), last, depth)


@pytest.mark.parametrize("seed", range(8))
def test_drawn_models_and_rules(seed: int) -> None:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    model = randomize(drawn_model(draw), seed).to(draw.choice([torch.float32, torch.float64]))
    composite = drawn_composite(draw)
    images = torch.randn(draw.randint(1, 3), 2, 7, 7).to(next(model.parameters()).dtype)
    target = draw.choice([None, 1, [0, None]])
    plan = compile(model, images, composite=composite)
    assert_same(plan(images, target), relevance(model, images, target, composite=composite))  # type: ignore[call-overload]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter[0] = 0
    assert_same(plan(images, target), relevance(model, images, target, composite=composite))  # type: ignore[call-overload]


def test_pass_is_a_rule_too() -> None:
    model = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 3)).eval()
    images, composite = torch.randn(4, 6), Composite(first=Pass())
    assert_same(compile(model, composite=composite)(images, 1), relevance(model, images, 1, composite=composite))
