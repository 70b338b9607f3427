"""The models that are measured, the definition that they are held against, and the meter of their memory."""

import dataclasses
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from bench import machine, plans
from bench.cases import models as cases
from bench.check import error
from bench.memory import peak_memory
from bench.models import VGG, ResNet, ViT, natural, settle
from bench.registry import Case, all_cases
from bench.runner import GEMM, ONE_TARGET, OURS, run_case
from zsu_fast.lrp import constant_weights

CPU = torch.device("cpu")
PARAMETERS = {VGG: 138_357_544, ResNet: 25_557_032, ViT: 86_567_656}  # as torchvision and timm count them


@pytest.mark.parametrize("kind", [VGG, ResNet, ViT])
def test_models_are_the_published_ones(kind: type[nn.Module]) -> None:
    with torch.device("meta"):
        model = kind()
    assert sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[kind]
    assert model(torch.empty(2, 3, 224, 224, device="meta")).shape == (2, 1000)


@pytest.mark.parametrize(
    "build", [partial(VGG, size=64, divisor=8), partial(ResNet, width=8),
              partial(ViT, width=96, heads=3, size=64)], ids=["VGG", "ResNet", "ViT"],
)  # fmt: skip
def test_activations_neither_vanish_nor_explode(build: partial) -> None:
    model = settle(build(), natural(4, 64, CPU))
    spreads: dict[str, float] = {}

    def note(module: nn.Module, inputs: object, output: Tensor, name: str) -> None:
        spreads[name] = output.std().item()

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm):
            module.register_forward_hook(partial(note, name=name))
    model(natural(4, 64, CPU))
    assert len(spreads) >= 16
    assert all(0.03 < spread < 30 for spread in spreads.values()), spreads
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_every_peer_is_held_to_our_result() -> None:
    models = [case for case in all_cases() if case.is_model]
    assert {case.name.partition("/")[0] for case in models} == {"relevance"}
    for case in models:
        assert case.peers_agree
        assert case.peers or ONE_TARGET in case.floors
        assert next(iter(case.floors)) == "plain gradient"


@pytest.mark.parametrize(
    "case", [c for c in all_cases() if c.is_model and c.peers and "cpu" in c.devices], ids=lambda c: c.name
)
def test_peers_find_the_same(case: Case) -> None:
    """In float64, on the small models. They stabilise a little differently; LXT has no epsilon."""
    arguments = case.gate_arguments(CPU, torch.float64)
    found = case.part(case.run(*arguments))
    for name, peer in case.peers.items():
        assert error(peer(*arguments), found) < 5e-3, name


@pytest.mark.parametrize(
    "name",
    ["relevance/VGG-16 x 1, epsilon", "relevance/ResNet-50 x 2, z+, two targets", "relevance/ViT-B/16 x 1, CP-LRP"],
)
def test_a_row_of_each_kind(name: str) -> None:
    (case,) = (case for case in all_cases() if case.name == name)
    assert case.small is not None
    row = run_case(dataclasses.replace(case, make=case.small), CPU, torch.float32, seconds=0)
    assert row["absent"] == {}
    assert set(row["seconds"]) == {OURS, GEMM, *case.floors, *case.peers}
    assert row["flops"][OURS] >= row["flops"]["plain gradient"] > 0
    assert set(row["flops"]) == set(row["peak_bytes"]) == set(row["kernels"]) == {OURS, *case.floors}
    for name, kernels in row["kernels"].items():
        assert kernels["GEMMs"] > 0 and kernels["other kernels"] > 0
        assert (kernels["passes"] > 0) == (name != "plain gradient")
    assert ("further_target" in row) == (ONE_TARGET in case.floors)


def test_peak_memory_counts_what_lives_at_once() -> None:
    x = torch.ones(2**18)

    def call() -> Tensor:
        y = x + 1
        y = y + 1  # two at once
        return y.sum()

    assert 2 * x.nbytes <= peak_memory(call, CPU) <= 2 * x.nbytes + 4096


@pytest.mark.parametrize("kind", [VGG, ResNet, ViT])
def test_a_pass_needs_little_more_memory_than_the_gradient(kind: type[nn.Module]) -> None:
    """At most 1.25 times, for every rule; kept weights, which the second pass finds, not counted."""
    size = 64
    build = {
        VGG: partial(VGG, size=size, divisor=4),
        ResNet: partial(ResNet, width=16),
        ViT: partial(ViT, width=96, depth=4, heads=3, size=size, patch=8),
    }[kind]
    arguments = cases.make(CPU, torch.float32, build=build, size=size, batch=16)
    plain = peak_memory(lambda: cases.plain_gradient(*arguments), CPU)
    for label, composite in (cases.VIT_RULES if kind is ViT else cases.CNN_RULES).items():
        call = partial(cases.ours, *arguments, composite=composite)
        with constant_weights(arguments[0]):
            call()
            assert peak_memory(call, CPU) <= 1.25 * plain, label


def test_a_row_of_plans() -> None:
    """The smallest model, and what the table shows of it."""
    row = plans.measure(plans.MODELS[0], "epsilon", inductor=False, seconds=0)
    assert set(row["seconds"]) == {plans.PLAIN, plans.ENGINE, plans.PLAN} and set(row["preparing"]) == {plans.PLAN}
    text = plans.table({"machine": machine.describe(CPU), "rows": [row]})
    assert text.splitlines()[-1].startswith("| LeNet-5 x 16 | epsilon | ")
