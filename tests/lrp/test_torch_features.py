"""Features of torch that change how a model runs: relevance is what it is without them, or they are refused."""

import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import save_on_cpu
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from tests.lrp.nets import VGG, ResNet, ViT, randomize
from zsu_fast.lrp import relevance

NAMED = ["epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1", "attnlrp"]


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 8, 8, dtype=torch.float64)


class Checkpointed(nn.Module):
    def __init__(self, model: nn.Module, reentrant: bool = False) -> None:
        super().__init__()
        self.model, self.reentrant = model, reentrant

    def forward(self, x: Tensor) -> Tensor:
        model = self.model
        if isinstance(model, ResNet):
            x = checkpoint(lambda t: model.relu(model.bn(model.conv(t))), x, use_reentrant=self.reentrant)
            x = checkpoint_sequential(model.blocks, 2, x, use_reentrant=self.reentrant)
            return model.fc(torch.flatten(model.pool(x), 1))
        x = model.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([model.token.expand(len(x), -1, -1), x], 1) + model.position
        for block in model.blocks:
            x = checkpoint(block, x, use_reentrant=self.reentrant)
        return model.head(model.norm(x)[:, 0])


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize("kind", [ResNet, ViT])
def test_checkpointing_changes_nothing(kind: type, name: str, images: Tensor) -> None:
    model = randomize(kind())
    plain = relevance(model, images, [1, 2], composite=name, conservation=True)
    found = relevance(Checkpointed(model), images, [1, 2], composite=name, conservation=True)
    for a, b in zip(found, plain, strict=True):
        assert torch.equal(a.input, b.input)
        assert [layer.removeprefix("model.") for layer in a.neurons] == list(b.neurons)
        assert all(torch.equal(x, y) for x, y in zip(a.neurons.values(), b.neurons.values(), strict=True))
        assert a.check().ok


def test_nothing_is_kept_of_a_checkpointed_model(images: Tensor) -> None:
    model = randomize(ResNet())
    kept: list[weakref.ref] = []
    handle = model.blocks[1].register_forward_hook(lambda module, inputs, output: kept.append(weakref.ref(output)))
    gc.collect()
    gc.disable()
    try:
        relevance(Checkpointed(model), images, 1)
        assert [reference() for reference in kept] == [None]
    finally:
        gc.enable()
        handle.remove()


def test_reentrant_checkpointing_is_refused(images: Tensor) -> None:
    with pytest.raises(ValueError, match="use_reentrant=False"):
        relevance(Checkpointed(randomize(ResNet()), reentrant=True), images, 1)


def test_saved_tensors_may_be_moved(images: Tensor) -> None:
    model = randomize(ResNet())
    with save_on_cpu():
        found = relevance(model, images, [1, 2])
    assert torch.equal(found[1].input, relevance(model, images, 2).input)


@pytest.mark.parametrize("compiled", [False, True], ids=["plain", "compiled"])
def test_inside_of_a_compiled_function(compiled: bool, images: Tensor) -> None:
    """It breaks the graph: what stands around it is compiled, nothing of the model and nothing of ours."""
    torch._dynamo.reset()
    model = randomize(VGG())
    images = images.repeat(1, 1, 2, 2)
    called = torch.compile(model, backend="eager") if compiled else model

    def explain(x: Tensor) -> Tensor:
        first, second = relevance(called, F.relu(x), [1, 2], composite="epsilon_plus")
        return (first.input - second.input).sum(1) / 2

    graphs: list[list[str]] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]):
        graphs.append([node.name for node in graph.graph.nodes if node.op.startswith("call")])
        return graph.forward

    expected = explain(images)
    run = torch.compile(explain, backend=backend)
    for _ in range(2):
        torch.testing.assert_close(run(images), expected, rtol=0, atol=0)
    compiled_functions = {name.split("_")[0] for names in graphs for name in names}
    assert compiled_functions == {"relu", "sub", "sum", "truediv"}
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"zsu_fast\.relevance follows a model's functions"):
        torch.compile(explain, backend="eager", fullgraph=True)(images)


def test_the_compiler_is_back_after_calls_in_two_threads(images: Tensor) -> None:
    """Its stance is one for all threads: the call that begins first may end first."""
    torch._dynamo.reset()
    compiled_graphs: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, example: list[Tensor]):
        compiled_graphs.append(graph)
        return graph.forward

    model = randomize(ResNet())
    compiled = torch.compile(model, backend=backend)
    first_is_in, second_is_in, first_has_ended = (threading.Event() for _ in range(3))

    def first(x: Tensor) -> Tensor:
        first_is_in.set()
        assert second_is_in.wait(60)
        return compiled(x)

    def second(x: Tensor) -> Tensor:
        second_is_in.set()
        assert first_has_ended.wait(60)
        return compiled(x)

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(relevance, first, images, 1)
        assert first_is_in.wait(60)
        other = pool.submit(relevance, second, images, 1)
        try:
            found = [one.result(60)]
        finally:
            first_has_ended.set()
        found.append(other.result(60))
    for each in found:
        torch.testing.assert_close(each.input, relevance(model, images, 1).input)
    assert not compiled_graphs
    compiled(images)
    assert compiled_graphs


def test_transforms_are_refused(images: Tensor) -> None:
    model = randomize(ResNet())

    def explain(x: Tensor) -> Tensor:
        return relevance(model, x, 1).input.sum()

    for call in (
        lambda: torch.func.grad(explain)(images),
        lambda: torch.func.vmap(explain)(images[None]),
        lambda: torch.func.jvp(explain, (images,), (images,)),
        lambda: torch.func.jacrev(explain)(images),
    ):
        with pytest.raises(RuntimeError, match=r"cannot be called inside of torch\.func"):
            call()


def test_the_result_is_a_constant(images: Tensor) -> None:
    found = relevance(randomize(ResNet()), images.requires_grad_(), 1)
    assert not found.input.requires_grad
    assert not found.logits.requires_grad
    assert not any(units.requires_grad for units in found.neurons.values())
    assert images.grad is None
