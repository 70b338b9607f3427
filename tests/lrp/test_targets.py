"""Several targets on one input: what separate calls give, at the price of one backward pass each."""

import gc
import importlib
import weakref

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.lrp.nets import VGG, ResNet, ViT, randomize
from zsu_fast.lrp import COMPOSITES, Composite, Gamma, ZPlus, epsilon_gamma_box, functions, relevance

NAMED = [*(name for name in COMPOSITES if not name.endswith("_box")), "box", "gamma"]


def composite(name: str) -> str | Composite:
    return {"box": epsilon_gamma_box(-3, 3), "gamma": Composite(Gamma(0.3), Gamma(0.3))}.get(name, name)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, dtype=torch.float64)


@pytest.mark.parametrize("init", ["logit", "probability"])
@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("kind", [ResNet, ViT])
def test_equal_to_separate_calls(kind: type, name: str, init: str, images: Tensor) -> None:
    """Bit for bit, whatever kinds of target are mixed; input rules carry R itself beside c."""
    model, rules = randomize(kind()), composite(name)
    targets = [2, None, torch.tensor([0, 4, 1]), np.int64(3), 2]
    together = relevance(model, images, targets, composite=rules, init=init)
    assert isinstance(together, tuple)
    assert len(together) == 5
    for target, found in zip(targets, together, strict=True):
        alone = relevance(model, images, target, composite=rules, init=init)
        assert torch.equal(found.input, alone.input)
        assert torch.equal(found.logits, alone.logits)
        assert list(found.neurons) == list(alone.neurons)
        assert all(torch.equal(found.neurons[layer], units) for layer, units in alone.neurons.items())
    assert not torch.equal(together[0].input, together[3].input)


def test_results_do_not_share_memory(images: Tensor) -> None:
    first, second = relevance(randomize(VGG()), images.repeat(1, 1, 2, 2), (1, 1), layers="features.*")
    first.input.zero_()
    first.neurons["features.3"].zero_()
    assert second.input.abs().sum() > 0
    assert second.neurons["features.3"].abs().sum() > 0


def test_a_list_of_one_gives_a_tuple_of_one(images: Tensor) -> None:
    model = randomize(ResNet())
    (found,) = relevance(model, images, [1])
    assert torch.equal(found.input, relevance(model, images, 1).input)


@pytest.mark.parametrize("rules", [Composite(ZPlus(), ZPlus()), Composite(Gamma(0.3), Gamma(0.3))], ids=["z+", "gamma"])
def test_the_extra_forward_passes_are_run_once_and_kept_no_longer_than_needed(
    rules: Composite, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, alive = functions.forward_terms, []

    def forward_terms(*args, **kwargs):
        alive_before = sum(r() is not None for r in terms)
        alive.append(alive_before)
        result = run(*args, **kwargs)
        terms.append(weakref.ref(next(t for t in result if t is not None)))
        return result

    model = randomize(ResNet())
    for module in (functions, importlib.import_module("zsu_fast.ops.rule_backward")):
        monkeypatch.setattr(module, "forward_terms", forward_terms)
    terms: list[weakref.ref] = []
    gc.collect()
    gc.disable()
    try:
        relevance(model, images, 1, composite=rules)
        layers = len(terms)
        assert layers == len(list(filter(lambda m: isinstance(m, nn.Conv2d | nn.Linear), model.modules())))
        assert max(alive) == 0  # one target: each layer's are gone before the next layer's come
        terms.clear()
        relevance(model, images, [1, 2, 3], composite=rules)
        assert len(terms) == layers
        assert max(alive) == layers - 1
        assert all(reference() is None for reference in terms)
    finally:
        gc.enable()


BAD = [
    ([], ValueError, "target is empty"),
    ([0, "cat"], TypeError, r"target\[1\] must be an int, a tensor \[N\] or None, got str"),
    ([0, True], TypeError, r"target\[1\].*bool"),
    ([0, [1, 2]], TypeError, r"target\[1\].*list"),
    ((None, 5), ValueError, r"target\[1\] must be in 0\.\.4, got 5"),
    ([-1], ValueError, r"target\[0\] must be in 0\.\.4, got -1"),
    ([0, torch.tensor([0, 1])], ValueError, r"target\[1\] must be an int or integers \[3\], got torch.int64 \(2,\)"),
    ([0, torch.rand(3)], ValueError, r"target\[1\].*float32"),
    ([torch.tensor([0, 1, 2]), torch.tensor([0, 5, 1])], ValueError, r"target\[1\].*0\.\.4, got \[0, 5, 1\]"),
]


@pytest.mark.parametrize("target, error, message", BAD, ids=[m for *_, m in BAD])
def test_bad_items_are_named(target, error: type, message: str, images: Tensor) -> None:
    with pytest.raises(error, match=message):
        relevance(randomize(ResNet()), images, target)


def test_a_zero_logit_is_named(images: Tensor) -> None:
    class Model(ResNet):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * torch.tensor([1.0, 0, 1, 1, 1], dtype=x.dtype)

    model = randomize(Model())
    relevance(model, images, [0, 1])
    for init in ("one", "probability"):
        with pytest.raises(ValueError, match=rf"init '{init}' divides by the logit of target\[1\]"):
            relevance(model, images, [0, 1], init=init)


class Synchronisations(TorchDispatchMode):
    """Notes the functions that wait for the device, if the tensors were on one."""

    WAIT = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero", "item", "unique")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in func.__name__ for name in self.WAIT):
            self.found.append(func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", [ResNet, ViT])
@pytest.mark.parametrize("name", NAMED)
def test_the_host_does_not_wait(kind: type, name: str, images: Tensor) -> None:
    """But for the look at targets and divisors that only the device knows, which comes after everything else."""
    model, labels = randomize(kind()), torch.tensor([0, 1, 4])
    with Synchronisations() as free:
        relevance(model, images, [1, None], composite=composite(name))
    assert free.found == []
    with Synchronisations() as asked:
        relevance(model, images, [labels, labels], composite=composite(name), init="one")
    assert len(asked.found) == 4
