"""memory="low": the bits of "normal", from less memory, by running blocks again."""

import gc
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.memory import peak_memory
from tests.lrp.nets import VGG, Block, ResNet, ViT, randomize
from tests.lrp.test_torch_features import Checkpointed
from zsu_fast.lrp import COMPOSITES, Composite, Epsilon, Flat, Gamma, Relevance, ZPlus, relevance
from zsu_fast.lrp.blocks import blocks_of

BY_DEPTH = Composite(Epsilon(), ZPlus(), first=Flat(), depth=((0.5, Gamma()),), names=(("blocks.1*", ZPlus()),))


@pytest.fixture
def images() -> Tensor:
    torch.manual_seed(0)
    return torch.randn(3, 3, 8, 8, dtype=torch.float64)


class Net(nn.Module):
    """A patch embedding, blocks, and a head; `run` says how the blocks are run."""

    def __init__(self, blocks: nn.Module, run: Callable[..., Tensor] | None = None) -> None:
        super().__init__()
        self.patch, self.blocks, self.head = nn.Conv2d(3, 12, 4, 4), blocks, nn.Linear(12, 5)
        self.run = run

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.head((self.blocks(x) if self.run is None else self.run(self.blocks, x)).mean(1))


class Counting(Block):
    def __init__(self) -> None:
        super().__init__(12, 3, True)
        self.runs = 0

    def forward(self, x: Tensor, *others: object) -> Tensor:
        self.runs += 1
        return super().forward(x)


def equal(a: Relevance, b: Relevance) -> bool:
    units = (torch.equal(x, y) for x, y in zip(a.neurons.values(), b.neurons.values(), strict=True))
    return list(a.neurons) == list(b.neurons) and torch.equal(a.input, b.input) and all(units)


def check_same(model: Callable[[Tensor], Tensor], images: Tensor, target: object = (1, 2), **options: object) -> None:
    normal = relevance(model, images, target, **options)
    low = relevance(model, images, target, memory="low", **options)
    for a, b in zip(normal, low, strict=True) if isinstance(normal, tuple) else ((normal, low),):
        assert equal(a, b)


@pytest.mark.parametrize("composite", [*(name for name in COMPOSITES if "_box" not in name), BY_DEPTH], ids=str)
@pytest.mark.parametrize("kind", [ResNet, ViT])
def test_same_bits(kind: type, composite: str | Composite, images: Tensor) -> None:
    model = randomize(kind())
    check_same(model, images, composite=composite)
    if isinstance(composite, str):
        checkpointed = relevance(Checkpointed(model), images, 1, composite=composite, memory="low")
        assert torch.equal(checkpointed.input, relevance(model, images, 1, composite=composite).input)


@pytest.mark.parametrize("init", ["one", "probability"])
def test_same_bits_of_parts_of_the_result(init: str, images: Tensor) -> None:
    for kind in (ResNet, ViT):
        check_same(randomize(kind()), images, None, init=init, layers="blocks.1.*", at_input=False)


def test_same_bits_under_autocast_and_in_inference_mode(images: Tensor) -> None:
    model = randomize(ViT()).float()
    with torch.autocast("cpu", torch.bfloat16):
        check_same(model, images.float())
    with torch.inference_mode():
        check_same(model, images.float())


def test_a_transformer_of_depth_12_takes_less_than_a_third() -> None:
    torch.manual_seed(0)
    model = ViT(48)
    model.blocks = nn.Sequential(*(Block(48, 3, True) for _ in range(12)))
    model.eval()
    tokens = torch.randn(4, 3, 8, 8)
    model.patch, model.position = nn.Conv2d(3, 48, 1), nn.Parameter(torch.randn(1, 65, 48))
    normal, low = (
        peak_memory(lambda m=m: relevance(model, tokens, 0, memory=m), torch.device("cpu")) for m in ("normal", "low")
    )
    assert low < normal / 3


def test_each_block_but_the_last_runs_again_for_each_target(images: Tensor) -> None:
    model = randomize(Net(nn.Sequential(*(Counting() for _ in range(4)))))
    relevance(model, images, 1, memory="low")
    assert [block.runs for block in model.blocks] == [2, 2, 2, 1]
    relevance(model, images, [0, 1, 2], memory="low")
    assert [block.runs - before for block, before in zip(model.blocks, (2, 2, 2, 1), strict=True)] == [4, 4, 4, 3]
    relevance(model, images, 1)
    assert model.blocks[0].runs == 7


class InPlace(nn.Module):
    """Changes what it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(12, 12))

    def forward(self, x: Tensor) -> Tensor:
        x += self.fc(x)
        x.relu_()
        x[:, 0] += x[:, 1]
        return x


class Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Sequential(nn.Linear(12, 12))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.fc(x)) * torch.rand(12, dtype=x.dtype)


class Functional(nn.Module):
    """Weights that are computed, layers without a module, one of them used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(12, 12))
        self.weight = nn.Parameter(torch.randn(2, 12, 12))

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight[0] * 2).relu() + x @ self.weight[1]
        return self.inner(self.inner(x))


@pytest.mark.parametrize("composite", ["epsilon", "epsilon_plus_flat", "attnlrp"])
def test_same_bits_of_awkward_blocks(composite: str, images: Tensor) -> None:
    for kind in (InPlace, Functional):
        check_same(randomize(Net(nn.Sequential(kind(), kind(), kind()))), images, composite=composite)
    shared = Functional()
    check_same(randomize(Net(nn.Sequential(shared, Functional(), shared))), images, composite=composite)


def test_random_numbers_are_those_of_the_first_run(images: Tensor) -> None:
    model = randomize(Net(nn.Sequential(Noisy(), Noisy(), Noisy())))
    found, drawn = [], []
    for memory in ("normal", "low"):
        torch.manual_seed(3)
        found.append(relevance(model, images, 1, memory=memory))
        drawn.append(torch.rand(2))
    assert equal(*found) and torch.equal(*drawn)


def test_what_a_block_is_called_with(images: Tensor) -> None:
    """Values can be given again; what a block may change cannot, and it then keeps what it saves."""

    def run(extra: object) -> Callable[[nn.Module, Tensor], Tensor]:
        def of(blocks: nn.Module, x: Tensor) -> Tensor:
            for block in blocks:
                x = block(x, extra)
            return x

        return of

    model = Net(nn.ModuleList([Counting(), Counting()]), run((None, 1.5, "a", torch.ones(2))))
    check_same(randomize(model), images)
    assert model.blocks[0].runs > 2
    model.run = run([])
    with pytest.raises(ValueError, match="memory.*has run none of these"):
        relevance(model, images, 1, memory="low")


def test_checkpoints_of_the_user_save_memory_where_there_is_no_block(images: Tensor) -> None:
    model = randomize(VGG())
    runs = []

    def features(x: Tensor) -> Tensor:
        runs.append(x.shape)
        return model.features(x)

    def run(x: Tensor) -> Tensor:
        hidden = checkpoint(features, x, use_reentrant=False)
        return checkpoint(model.classifier, hidden, use_reentrant=False)

    check_same(run, F.interpolate(images, scale_factor=2), 1)
    assert len(runs) == 3


def test_functions_of_a_module_keep_the_rules_that_its_name_asks_for(images: Tensor) -> None:
    """The second run is not called from the module, so that its layers could not be named."""

    class Outer(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            weight = torch.linspace(-1, 1, 144, dtype=x.dtype).view(12, 12)
            return checkpoint(lambda t: F.relu(F.linear(t, weight)), x, use_reentrant=False)

    model = randomize(Net(Outer()))
    composite = Composite(Epsilon(), Epsilon(), names=(("blocks*", Gamma()),))
    check_same(model, images, composite=composite)


def test_a_block_that_does_something_else_the_second_time_is_an_error(images: Tensor) -> None:
    class Moody(Counting):
        def forward(self, x: Tensor) -> Tensor:
            x = super().forward(x)
            return x if self.runs % 2 else F.gelu(x)

    model = randomize(Net(nn.Sequential(Moody(), Moody())))
    with pytest.raises(RuntimeError, match="memory.*Moody"):
        relevance(model, images, 1, memory="low")


@pytest.mark.parametrize("fails", [False, True])
def test_nothing_is_kept(fails: bool, images: Tensor) -> None:
    model = randomize(ResNet())
    kept: list[weakref.ref] = []
    model.blocks[1].register_forward_hook(lambda module, inputs, output: kept.append(weakref.ref(output)))
    if fails:
        model.fc = nn.Sequential(nn.Linear(12, 5), nn.Identity())
        model.fc.register_forward_hook(lambda module, inputs, output: output[:, 0])
        model.double()
    gc.collect()
    gc.disable()
    try:
        if fails:
            with pytest.raises(ValueError, match="logits"):
                relevance(model, images, 1, memory="low")
        else:
            relevance(model, images, [1, 2], memory="low")
        assert [reference() for reference in kept] == [None] * len(kept) and len(kept) == (1 if fails else 3)
    finally:
        gc.enable()


def test_blocks() -> None:
    leaf = lambda: nn.Linear(2, 2)  # noqa: E731
    plain = lambda: nn.Sequential(leaf(), nn.ReLU())  # noqa: E731
    assert blocks_of(lambda x: x) == blocks_of(nn.Sequential(leaf(), leaf())) == []
    stages = nn.Sequential(nn.Sequential(Counting(), Counting()), leaf(), nn.Sequential(Counting(), Counting()))
    assert blocks_of(nn.Sequential(stages, leaf())) == [*stages[0], *stages[2]]
    pair = nn.Sequential(plain(), plain())
    assert blocks_of(pair) == list(pair)
    once = Counting()
    assert blocks_of(nn.ModuleList([once, once])) == [once]


def test_refusals(images: Tensor) -> None:
    model = randomize(ResNet())
    with pytest.raises(ValueError, match="memory must be"):
        relevance(model, images, 1, memory="lower")
    with pytest.raises(ValueError, match="memory.*conservation=True"):
        relevance(model, images, 1, memory="low", conservation=True)
    with pytest.raises(ValueError, match="memory.*plan=True"):
        relevance(model, images, 1, memory="low", plan=True)
    with pytest.raises(ValueError, match="memory.*Sequential"):
        relevance(randomize(VGG()), F.interpolate(images, scale_factor=2), 1, memory="low")
