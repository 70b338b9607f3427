"""However weights change between two calls, the second one sees the new ones."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from zsu_fast import relevance
from zsu_fast.lrp import constant_weights
from zsu_fast.ops.prepared import Kind, modify

COMPOSITES = ("epsilon", "epsilon_plus", "epsilon_alpha2_beta1")
IMAGES = torch.rand(4, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 5)).eval()


def step(optimizer: torch.optim.Optimizer, model: nn.Sequential) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        F.cross_entropy(model(IMAGES), torch.arange(4)).backward()
        optimizer.step()


def steps(kind: Callable[..., torch.optim.Optimizer], **options: bool) -> Callable[[nn.Sequential], None]:
    return lambda model: step(kind(model.parameters(), lr=0.05, **options), model)


def each(edit: Callable[[Tensor], object]) -> Callable[[nn.Sequential], None]:
    """`edit` of every parameter, outside of autograd."""

    def change(model: nn.Sequential) -> None:
        with torch.no_grad():
            for parameter in model.parameters():
                edit(parameter)

    return change


def learn_statistics(model: nn.Sequential) -> None:
    model.train()
    model(IMAGES * 9)
    model.eval()


def cast_and_back(dtype: torch.dtype) -> Callable[[nn.Sequential], object]:
    return lambda model: model.to(dtype).float().to(dtype).float()


def new_data(model: nn.Sequential) -> None:
    for _ in range(3):  # the allocator hands out the old addresses again
        for parameter in model.parameters():
            parameter.data = torch.randn_like(parameter)


def rows_of_zeros(parameter: Tensor) -> None:
    parameter.data[:2] = 0


def new_parameters(model: nn.Sequential) -> None:
    for module in model.modules():
        for name, parameter in list(module._parameters.items()):
            if parameter is not None:
                setattr(module, name, nn.Parameter(torch.randn_like(parameter)))


def through_numpy(parameter: Tensor) -> None:
    parameter.data.numpy()[...] *= -1.5


def through_storage(parameter: Tensor) -> None:
    parameter.untyped_storage().copy_(torch.randn_like(parameter).untyped_storage())


def shared_memory(parameter: Tensor) -> None:
    parameter.data.share_memory_()
    parameter.data.numpy()[...] *= -1.5


def vectors(model: nn.Sequential) -> None:
    for _ in range(3):
        vector_to_parameters(parameters_to_vector(model.parameters()) * -1.2, model.parameters())


def average(model: nn.Sequential) -> None:
    other = copy.deepcopy(model)
    each(lambda p: p.normal_())(other)
    for mine, new in zip(model.parameters(), other.parameters(), strict=True):
        mine.data.lerp_(new.data, 0.5)


def load(assign: bool) -> Callable[[nn.Sequential], object]:
    return lambda model: model.load_state_dict(
        {
            name: v * -1.5 if v.is_floating_point() and "var" not in name else v
            for name, v in model.state_dict().items()
        },
        assign=assign,
    )


def swap_units(parameter: Tensor) -> None:
    parameter.data.copy_(parameter.flip(0))


def inference_mode(model: nn.Sequential) -> None:
    with torch.inference_mode():
        for parameter in model.parameters():
            parameter.mul_(-1.5)


def foreach(name: str, data: bool, *arguments: object) -> Callable[[nn.Sequential], None]:
    def change(model: nn.Sequential) -> None:
        with torch.no_grad():
            getattr(torch, name)([p.data if data else p for p in model.parameters()], *arguments)

    return change


def foreach_copy(model: nn.Sequential) -> None:
    mine = [p.data for p in model.parameters()]
    torch._foreach_copy_(mine, [torch.randn_like(p) for p in mine])


def statistics(edit: Callable[[Tensor], object]) -> Callable[[nn.Sequential], object]:
    def change(model: nn.Sequential) -> None:
        for name in ("running_mean", "running_var"):
            edit(model[1].get_buffer(name))

    return change


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    **{
        f"{kind.__name__} {how}": steps(kind, **{how: True})
        for kind in (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)
        for how in ("fused", "foreach", "maximize")
    },
    **{f"{kind.__name__} plain": steps(kind) for kind in (torch.optim.RMSprop, torch.optim.Adagrad)},
    "training forward": learn_statistics,
    "statistics in place": statistics(lambda t: t.mul_(2)),
    "statistics .data": statistics(lambda t: t.data.mul_(2)),
    "statistics numpy": statistics(lambda t: t.data.numpy().__imul__(2)),
    "half and back": cast_and_back(torch.float16),
    "bfloat16 and back": cast_and_back(torch.bfloat16),
    "double and back": lambda model: (model.double(), each(lambda p: p.mul_(-1.5))(model), model.float()),
    "p.data = new": new_data,
    "new Parameter": new_parameters,
    ".data.copy_": each(lambda p: p.data.copy_(torch.randn_like(p))),
    ".data.mul_": each(lambda p: p.data.mul_(-1.5)),
    ".data.add_": each(lambda p: p.data.add_(0.3)),
    ".data.sub_": each(lambda p: p.data.sub_(0.3)),
    ".data.clamp_": each(lambda p: p.data.clamp_(-0.05, 0.05)),
    ".data.normal_": each(lambda p: p.data.normal_()),
    ".data.zero rows": each(rows_of_zeros),
    ".data swapped": each(swap_units),
    "average": average,
    "detach().mul_": each(lambda p: p.detach().mul_(-1.5)),
    "no_grad in place": each(lambda p: p.mul_(-1.5)),
    "inference_mode in place": inference_mode,
    "numpy": each(through_numpy),
    "storage": each(through_storage),
    "share_memory": each(shared_memory),
    "out=p": each(lambda p: torch.mul(p.detach(), -1.5, out=p.detach())),
    "out=p.data": each(lambda p: torch.mul(p.data, -1.5, out=p.data)),
    "set_": each(lambda p: p.set_(torch.randn_like(p).untyped_storage(), 0, p.shape, p.stride())),
    "_foreach_mul_": foreach("_foreach_mul_", False, -1.5),
    "_foreach_mul_ .data": foreach("_foreach_mul_", True, -1.5),
    "_foreach_copy_ .data": foreach_copy,
    "vector_to_parameters": vectors,
    "load_state_dict": load(False),
    "load_state_dict assign": load(True),
    "state_dict()[k].mul_": lambda model: [v.mul_(1.5) for v in model.state_dict().values() if v.is_floating_point()],
    "requires_grad off": lambda model: (model.requires_grad_(False), each(lambda p: p.data.mul_(-1.5))(model)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_no_call_sees_the_weights_of_an_earlier_one(change: str) -> None:
    model = network()
    before = [relevance(model, IMAGES, 1, composite=name).input for name in COMPOSITES]
    CHANGES[change](model)
    model.eval()
    fresh = network()
    fresh.load_state_dict({name: value.clone() for name, value in model.state_dict().items()})
    for name, old in zip(COMPOSITES, before, strict=True):
        now = relevance(model, IMAGES, 1, composite=name).input
        assert torch.equal(now, relevance(fresh, IMAGES, 1, composite=name).input)
        assert not torch.equal(now, old)


def test_constant_weights_keep_what_is_derived_and_notice_ordinary_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Kind] = []

    def noted(weight: Tensor, kind: Kind) -> Tensor:
        made.append(kind)
        return modify(weight, kind)

    monkeypatch.setattr("zsu_fast.ops.rule_backward.modify", noted)
    model = network()

    def run() -> tuple[Tensor, int]:
        made.clear()
        return relevance(model, IMAGES, 1, composite="epsilon_plus").input, len(made)

    plain, cost = run()
    assert cost > 0
    with constant_weights(model):
        assert run()[1] == cost
        kept, cost_kept = run()
        assert torch.equal(kept, plain) and cost_kept == 0
        assert torch.equal(relevance(network(), IMAGES, 1, composite="epsilon_plus").input, plain)  # another model
        with torch.no_grad():
            model[0].get_parameter("weight").mul_(-2)
            model[1].get_buffer("running_var").mul_(2)
        changed = run()[0]
    after, cost_after = run()
    assert torch.equal(changed, after) and not torch.equal(after, plain) and cost_after == cost


def test_constant_weights_hold_in_their_own_thread() -> None:
    model, found = network(), []
    with constant_weights(model):
        expected = relevance(model, IMAGES, 1, composite="epsilon_plus").input
        threads = [
            threading.Thread(target=lambda: found.append(relevance(model, IMAGES, 1, composite="epsilon_plus").input))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 2 and all(torch.equal(each, expected) for each in found)


@pytest.mark.parametrize("name", COMPOSITES)
def test_a_call_on_fake_tensors_leaves_none_behind(name: str) -> None:
    model = network()
    expected = relevance(model, IMAGES, 1, composite=name).input
    with constant_weights(model):
        with FakeTensorMode(allow_non_fake_inputs=True):
            assert isinstance(relevance(model, torch.rand(4, 1, 8, 8), 1, composite=name).input, FakeTensor)
        for _ in range(2):
            assert torch.equal(relevance(model, IMAGES, 1, composite=name).input, expected)


def test_constant_weights_of_something_else() -> None:
    expected = pytest.raises(TypeError, match="constant_weights: model must be a torch.nn.Module, got function")
    with expected, constant_weights(lambda x: x):  # type: ignore[arg-type]
        pass
