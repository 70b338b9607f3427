"""When a plan is traced anew, what it holds on to, and the models and calls that it refuses."""

from __future__ import annotations

import copy
import gc
import pickle
import random
import threading
import weakref
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.lrp.test_changed_weights import CHANGES, network
from tests.lrp.test_plan import assert_same, traces
from zsu_fast import relevance
from zsu_fast.lrp import Composite, Epsilon, Plan, UncoveredFunctionError, ZPlus, compile

IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("change", CHANGES)
def test_changed_weights_are_seen(change: str) -> None:
    """Changes in place, as masks are, by the same trace; replaced parts by another one."""
    model = network()
    plan = compile(model, IMAGES, composite="epsilon_plus")
    before = plan(IMAGES, 1).input
    parts = [*model.parameters(), *model.buffers()]
    CHANGES[change](model)
    model.eval()
    found = plan(IMAGES, 1)
    assert_same(found, relevance(model, IMAGES, 1, composite="epsilon_plus"))
    assert not torch.equal(found.input, before)
    replaced = any(a is not b for a, b in zip(parts, [*model.parameters(), *model.buffers()], strict=True))
    assert len(traces(plan)) == 1 + replaced


REPLACEMENTS: dict[str, Callable[[nn.Sequential], object]] = {
    "a parameter": lambda model: setattr(model[0], "weight", nn.Parameter(torch.randn_like(model[0].weight))),
    "a buffer": lambda model: setattr(model[1], "running_mean", torch.randn_like(model[1].running_mean)),
    "a module": lambda model: model.__setitem__(2, nn.Tanh()),
    "a hook": lambda model: model[2].register_forward_hook(lambda module, inputs, output: output * 2),
    "an early hook": lambda model: model[3].register_forward_pre_hook(lambda module, inputs: inputs[0] * 2),
    "a module more": lambda model: model.append(nn.Linear(5, 3)),
    "a bias less": lambda model: setattr(model[0], "bias", None),
}


@pytest.mark.parametrize("change", REPLACEMENTS)
def test_replaced_parts_are_seen(change: str) -> None:
    model = network()
    plan = compile(model, IMAGES)
    before = plan(IMAGES, 1)
    REPLACEMENTS[change](model)
    for _ in range(2):
        assert_same(plan(IMAGES, 1), relevance(model, IMAGES, 1))
    assert not torch.equal(plan(IMAGES, 1).logits[:, :3], before.logits[:, :3])
    assert len(traces(plan)) == 2


def test_the_mode_is_that_of_the_model_now() -> None:
    model = network()
    plan = compile(model, IMAGES)
    model[1].train()
    with pytest.raises(ValueError, match=r"module '1' \(BatchNorm2d\) is in training mode"):
        plan(IMAGES, 1)
    model.eval()
    assert_same(plan(IMAGES, 1), relevance(model, IMAGES, 1))
    assert len(traces(plan)) == 1


def test_the_traces_used_last_are_kept() -> None:
    plan = compile(network(), keep=2)
    for samples in (1, 2, 1, 3):
        plan(IMAGES[:samples], 1)
    assert [key[1][0] for key in traces(plan)] == [1, 3]  # type: ignore[index]


def test_kinds_of_targets_have_traces_of_their_own() -> None:
    plan = compile(network(), IMAGES, targets=2)
    plan(IMAGES, [1, torch.arange(4)])
    assert len(traces(plan)) == 1
    plan(IMAGES, [1, None])
    assert len(traces(plan)) == 2


@pytest.mark.parametrize(
    "asked", [{"composite": "epsilon_plus"}, {"composite": Composite(Epsilon(0.1), ZPlus())}, {"init": "one"}]
)
def test_relevance_keeps_plans_as_long_as_the_model_lives(asked: dict) -> None:
    model = network()
    weights = weakref.ref(model[0].weight)
    for target in (1, torch.arange(4), [0, None]):
        for _ in range(2):
            found = relevance(model, IMAGES, target, plan=True, **asked)  # type: ignore[call-overload]
            assert_same(found, relevance(model, IMAGES, target, **asked))  # type: ignore[call-overload]
    del model
    gc.collect()
    assert weights() is None


def test_requests_are_told_apart() -> None:
    model = network()
    for composite in ("epsilon", "epsilon_plus", Composite(Epsilon(0.5)), Composite(Epsilon(1.0))):
        for layers in (None, "0", ("5", "7")):
            asked = {"composite": composite, "layers": layers}
            assert_same(relevance(model, IMAGES, 1, plan=True, **asked), relevance(model, IMAGES, 1, **asked))  # type: ignore[call-overload]


def test_threads_share_a_plan() -> None:
    model, found = network(), []
    plan = compile(model)
    expected = relevance(model, IMAGES, 1)
    threads = [threading.Thread(target=lambda: found.extend(plan(IMAGES, 1) for _ in range(5))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20 and len(traces(plan)) == 1
    for each in found:
        assert_same(each, expected)


class Changed(nn.Module):
    """The network behind a function of its inputs."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.change = network(), change

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.change(x))


def negative_ones_halved(x: Tensor) -> Tensor:
    x = x.clone()
    x[x < 0.5] = 0
    return x


@pytest.mark.parametrize(
    "change",
    [lambda x: torch.where(x > 0.5, x, 0.5 * x), lambda x: x[:, [0]], negative_ones_halved,
     lambda x: x if len(x) > 2 else 2 * x],
    ids=["where", "indices", "a mask to write to", "a branch on the shape"],
)  # fmt: skip
def test_what_a_graph_can_say_is_planned(change: Callable[[Tensor], Tensor]) -> None:
    model = Changed(change).eval()
    plan = compile(model, IMAGES)
    for images in (IMAGES, IMAGES.flip(0), IMAGES[:2]):
        assert_same(plan(images, 1), relevance(model, images, 1))


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda x: x if x.sum() > 0 else 2 * x, r"Python reads values of its tensors \(aten"),
        (lambda x: x * x.detach().max().item(), r"Python reads values of its tensors \(aten"),
        (lambda x: x * x[x > 0.5].numel(), r"shapes depend on values \(aten"),
        (lambda x: x * len(x.detach().nonzero()), r"shapes depend on values \(aten"),
        (lambda x: x + torch.rand_like(x), r"draws random numbers \(aten.rand_like"),
        (lambda x: x * random.random(), "other values than the model itself"),
        (lambda x: x * float(np.abs(x.detach().numpy()).sum()), "other values than the model itself"),
    ],
)
def test_what_no_graph_can_say_is_refused(change: Callable[[Tensor], Tensor], reason: str) -> None:
    with pytest.raises(ValueError, match=f"^model: it cannot be planned, because .*{reason}"):
        compile(Changed(change).eval(), IMAGES)


def test_errors_and_warnings_are_those_of_relevance() -> None:
    model = Changed(torch.cos).eval()
    with pytest.raises(UncoveredFunctionError, match="torch.cos"):
        compile(model, IMAGES)
    with pytest.warns(UserWarning, match="torch.cos") as noted:
        plan = compile(model, IMAGES, strict=False)
    assert len(noted) == 1
    assert_same(plan(IMAGES, 1), plan(IMAGES, 1))
    with pytest.raises(ValueError, match="layers: 'nothing' matches no layer"):
        compile(network(), IMAGES, layers="nothing")


@pytest.mark.parametrize("init", ["logit", "one"])
def test_targets_are_checked(init: str) -> None:
    plan = compile(network(), init=init)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"target must be in 0\.\.4, got 5"):
        plan(IMAGES, 5)
    with pytest.raises(ValueError, match=r"target\[1\] must be in 0\.\.4, got \[0, 1, -1, 3\]"):
        plan(IMAGES, [1, torch.tensor([0, 1, -1, 3])])
    with pytest.raises(ValueError, match=r"target must be an int or integers \[4\], got torch.float32"):
        plan(IMAGES, torch.rand(4))


def test_a_logit_of_zero_is_seen() -> None:
    model = network()
    plan = compile(model, IMAGES, init="one")
    with torch.no_grad():
        model[-1].weight[2], model[-1].bias[2] = 0, 0
    with pytest.raises(ValueError, match="divides by the logit of target, which is exactly 0"):
        plan(IMAGES, 2)


def test_arguments() -> None:
    with pytest.raises(TypeError, match="model must be a torch.nn.Module to be planned, got function"):
        compile(lambda x: x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backend must be one of .*'cudagraph'.*, got 'tpu'"):
        compile(network(), backend="tpu")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="keep must be an int >= 1, got 0"):
        compile(network(), keep=0)
    with pytest.raises(ValueError, match="targets must be an int >= 1, got True"):
        compile(network(), targets=True)
    with pytest.raises(TypeError, match="inputs must be a floating-point tensor"):
        compile(network(), torch.zeros(1, 1, 8, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match="conservation: no books are kept by a plan"):
        relevance(network(), IMAGES, plan=True, conservation=True)


def test_a_plan_holds_its_model_and_nothing_else_does() -> None:
    model = network()
    reference, plan = weakref.ref(model), compile(model, IMAGES)
    plan(IMAGES, F.one_hot(torch.tensor([0]), 4)[0])
    del model
    assert isinstance(plan, Plan) and reference() is plan.model
    del plan
    gc.collect()
    assert reference() is None


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda plan: pickle.loads(pickle.dumps(plan))])
def test_a_copy_is_a_plan_of_the_copied_model(copied: Callable[[Plan], Plan]) -> None:
    plan = compile(network(), IMAGES, composite="epsilon_plus")
    other = copied(plan)
    assert other.model is not plan.model and not traces(other)
    with torch.no_grad():
        next(other.model.parameters())[0] = 0
    for each in (plan, other):
        assert_same(each(IMAGES, 1), relevance(each.model, IMAGES, 1, composite="epsilon_plus"))
