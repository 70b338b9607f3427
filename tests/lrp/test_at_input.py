"""`at_input=False`: the same units, by passes that end where no wanted layer is left."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.flops import flops
from tests.lrp.nets import VGG, ResNet, ViT, randomize
from zsu_fast import relevance
from zsu_fast.lrp import Composite, Epsilon, Flat, ZPlus

IMAGES = torch.randn(3, 3, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
FLAT_INSIDE = Composite(Epsilon(), ZPlus(), names=(("classifier.1", Flat()),))


def cases() -> Iterator[object]:
    for make, size, layers in (
        (VGG, 16, ("classifier.1", "classifier.4")),
        (VGG, 16, "features.0"),
        (VGG, 16, ("features.3", "classifier.4")),
        (ResNet, 16, ("blocks.1.shortcut.0", "blocks.1.conv1")),
        (ResNet, 16, "blocks.2.conv2"),
        (ViT, 8, "*.heads"),
        (ViT, 8, ("blocks.1.fc1", "head")),
        (ViT, 8, ()),
    ):
        for composite in ("epsilon", "epsilon_plus_flat", "epsilon_alpha2_beta1"):
            yield pytest.param(make, size, layers, composite, id=f"{make.__name__} {layers} {composite}")
    yield pytest.param(VGG, 16, "classifier.1", FLAT_INSIDE, id="an input rule inside")
    yield pytest.param(VGG, 16, "features.6", FLAT_INSIDE, id="below an input rule")


@pytest.mark.parametrize("make, size, layers, composite", list(cases()))
@pytest.mark.parametrize("target", [1, [torch.tensor([0, 1, 2]), None]], ids=["one", "two"])
def test_units_are_those_of_a_whole_pass(
    make: type[nn.Module], size: int, layers: str | tuple[str, ...], composite: str | Composite, target: object
) -> None:
    model, images = randomize(make()), IMAGES[..., :size, :size]
    whole, ended = (
        relevance(model, images, target, composite=composite, layers=layers, at_input=at_input)  # type: ignore[call-overload]
        for at_input in (True, False)
    )
    for a, b in zip(*((found if isinstance(found, tuple) else (found,)) for found in (whole, ended)), strict=True):
        assert torch.equal(a.logits, b.logits) and b.input.shape == (3, 0) and b.input.dtype == images.dtype
        assert list(a.neurons) == list(b.neurons)
        assert all(torch.equal(a.neurons[name], b.neurons[name]) for name in a.neurons)


class Forked(nn.Module):
    """Two branches of which each has a layer that may be wanted, and one a layer below the fork."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.deep, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu(self.deep(F.relu(self.left(x)))) + F.relu(self.right(x)))


@pytest.mark.parametrize("layers", [("left", "right"), ("deep", "right"), ("deep",), ("stem", "right"), ("head",)])
def test_branches_end_each_where_it_must(layers: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    model, x = Forked(), torch.randn(5, 6)
    whole, ended = (relevance(model, x, 1, layers=layers, at_input=at_input).neurons for at_input in (True, False))
    assert list(whole) == list(ended) and all(torch.equal(whole[name], ended[name]) for name in layers)


def test_what_lies_below_is_not_computed() -> None:
    model = randomize(VGG())
    counts = [
        flops(lambda kwargs=kwargs: relevance(model, IMAGES, 1, layers=("classifier.1",), **kwargs))  # type: ignore[misc]
        for kwargs in ({}, {"at_input": False})
    ]
    forward = flops(lambda: model(IMAGES))
    assert counts[0] > 1.9 * forward and counts[1] < 1.1 * forward


def test_books_need_the_whole_pass() -> None:
    with pytest.raises(ValueError, match="conservation: .*at_input=False"):
        relevance(randomize(VGG()), IMAGES, 1, at_input=False, conservation=True)
