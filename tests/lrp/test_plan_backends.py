"""What runs a plan: eager, CUDA graphs, inductor; and what becomes of one that is exported."""

import io
from pathlib import Path
from unittest.mock import MagicMock

import pytest
import torch
from torch import Tensor, nn

from tests.inductor import compiling_little
from tests.lrp.test_graphs import Attention, convolutional
from tests.lrp.test_plan import assert_same, traces
from zsu_fast import relevance
from zsu_fast.lrp import Relevance, compile
from zsu_fast.lrp.backends import CudaGraph

IMAGES = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)).eval()


def assert_close(found: Relevance, expected: Relevance, tolerance: float) -> None:
    assert list(found.neurons) == list(expected.neurons)
    ours, theirs = ((each.input, each.logits, *each.neurons.values()) for each in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=tolerance * float(other.abs().max()))


def test_a_cuda_graph_needs_cuda() -> None:
    with pytest.raises(ValueError, match='backend: "cudagraph" needs inputs on a CUDA device, got them on cpu'):
        compile(small(), IMAGES, backend="cudagraph")


def test_what_is_recorded_is_fed_and_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """The logic of `CudaGraph` beside CUDA itself: a replay runs again what was recorded, into the same outputs."""

    class Replayed:
        def replay(self) -> None:
            for output, renewed in zip(run._outputs, run._run(), strict=True):
                output.copy_(renewed)

    for name in ("current_stream", "Stream", "stream", "Event", "graph"):
        monkeypatch.setattr(torch.cuda, name, MagicMock())
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Replayed)
    model = small()
    plan = compile(model, IMAGES, composite="epsilon_plus")
    run = CudaGraph(next(iter(traces(plan).values())).trace)
    found, expected, graphs = [], [], []
    for step in range(4):
        images, target = torch.randn(4, 3, 16, 16), torch.full((4,), step)
        weight = model.get_parameter("0.weight")
        if step == 2:
            weight.data = -weight.detach()  # elsewhere
        found.append(run(images, [target])[1])
        expected.append(relevance(model, images, target, composite="epsilon_plus").input)
        graphs.append(run._graph)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert graphs[0] is graphs[1] and graphs[1] is not graphs[2] and graphs[2] is graphs[3]


@pytest.mark.parametrize("make, composite", [(convolutional, "epsilon_alpha2_beta1"), (Attention, "attnlrp")])
def test_auto(make: type, composite: str, device: torch.device) -> None:
    """On CUDA a graph, whose results stay as they are when it runs again, and which sees edits and moves of weights."""
    model = make().eval().to(device)
    plan = compile(model, composite=composite)
    kept: list[tuple[Relevance, Relevance]] = []
    weight = next(model.parameters())
    for step in range(4):
        images = torch.randn(4, 3, 16, 16, device=device)
        kept.append((plan(images, step), relevance(model, images, step, composite=composite)))
        with torch.no_grad():
            weight[step] = 0
            if step == 1:
                weight.data = weight.clone()
    for found, expected in kept:
        assert_close(found, expected, 1e-4)
    assert len(traces(plan)) == 1


def test_inductor(tmp_path: Path) -> None:
    # Of one layer: each kernel takes the compiler two seconds.
    model, images, target = nn.Sequential(nn.Linear(6, 4), nn.ReLU()), torch.rand(4, 6), torch.arange(3)
    plan = compile(model, backend="inductor", composite="excitation_backprop")
    with compiling_little(tmp_path):
        for row in range(2):  # before and after an edit in place
            found = plan(images[:3], target)
            assert_close(found, relevance(model, images[:3], target, composite="excitation_backprop"), 1e-5)
            with torch.no_grad():
                model[0].weight[row], model[0].bias[row] = 0, 0  # type: ignore[index,operator]
    assert len(traces(plan)) == 1


def test_a_compiled_function_may_call_a_plan() -> None:
    model = small()
    plan = compile(model, IMAGES)
    doubled = torch.compile(lambda images: plan(images, 1).input * 2, backend="eager")
    assert torch.equal(doubled(IMAGES), relevance(model, IMAGES, 1).input * 2)
    whole = torch.compile(lambda images: plan(images, 1).input * 2, backend="eager", fullgraph=True)
    with pytest.raises(Exception, match="zsu_fast.relevance follows a model's functions"):
        whole(IMAGES)


class Explained(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plan = compile(small())

    def forward(self, images: Tensor) -> Tensor:
        return self.plan(images, 1).input


def test_export_takes_the_graph_and_refuses_the_call(tmp_path: Path) -> None:
    model, target = small(), torch.arange(4)
    plan = compile(model, composite="epsilon_plus", init="one")
    program = torch.export.export(plan.graph(IMAGES, [target, None]), (IMAGES, target))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    logits, *rest = torch.export.load(file).module().requires_grad_(False)(IMAGES, target)
    for i, each in enumerate(relevance(model, IMAGES, [target, None], composite="epsilon_plus", init="one")):
        at_input, first, last, divisor = rest[4 * i : 4 * i + 4]
        assert_same(Relevance(at_input, dict(zip(("0", "3"), (first, last), strict=True)), logits), each)
        assert divisor.shape == (4, 1)
    with pytest.raises(RuntimeError, match=r"export its graph: plan\.graph\(inputs, target\)"):
        torch.export.export(Explained(), (IMAGES,), strict=False)
