"""The features that the last linear layer reads, and the probe on them."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zsu_fast.evaluate import features, linear_probe
from zsu_fast.evaluate.accuracy import predict
from zsu_fast.evaluate.probe import features_and_logits, probe_on_halves


class FunctionalHead(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(1, 4, 3)
        self.first = nn.Linear(4, 6)
        self.weight = nn.Parameter(torch.randn(3, 6))

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(self.body(x).relu().mean((2, 3))).relu()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.hidden(x)
        logits = F.linear(h, self.weight)
        h.zero_()  # what was captured must not follow
        return logits


def test_functional_head_and_batches() -> None:
    model = FunctionalHead().train()
    images = torch.randn(7, 1, 5, 5)
    expected = model.hidden(images).detach()
    for batch_size in (1, 3, 7, 100):
        torch.testing.assert_close(features(model, images, batch_size=batch_size), expected)
    assert model.training and not any(m._forward_pre_hooks for m in model.modules())


def test_named_layer_is_averaged_over_space() -> None:
    model = FunctionalHead()
    images = torch.randn(4, 1, 5, 5)
    torch.testing.assert_close(features(model, images, layer="body"), images.mean((2, 3)))
    torch.testing.assert_close(features(model, images, "first", 3), model.body(images).relu().mean((2, 3)).detach())
    assert not model.body._forward_pre_hooks


def test_tokens_are_averaged() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Identity())
    images = torch.randn(2, 5, 4)
    torch.testing.assert_close(features(model, images), images.mean(1))


def test_refusals() -> None:
    model = FunctionalHead()
    images = torch.randn(2, 1, 5, 5)
    with pytest.raises(ValueError, match="layer"):
        features(model, images, layer="nothing")
    with pytest.raises(ValueError, match="layer="):
        features(nn.Conv2d(1, 1, 1), images)
    model.spare = nn.Linear(2, 2)
    with pytest.raises(ValueError, match="did not run"):
        features(model, images, layer="spare")


def blobs(count: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 3
    centres = torch.tensor([[4.0, 0.0], [0.0, 4.0], [-4.0, -4.0]])
    return centres[labels] + torch.randn(count, 2, generator=generator), labels


def test_probe_finds_the_class_and_not_when_it_is_gone() -> None:
    pytest.importorskip("sklearn")
    (x, y), (tx, ty) = blobs(120, 0), blobs(90, 1)
    there = linear_probe(x, y, tx, ty, 2)
    assert there.forget_accuracy == 1.0 and there.retain_accuracy == 1.0
    # Class 2 is moved onto class 0: now only chance is left between the two, class 1 stays.
    shift = torch.tensor([8.0, 4.0])
    gone = linear_probe(x + shift * (y == 2)[:, None], y, tx + shift * (ty == 2)[:, None], ty, 2)
    assert gone.forget_accuracy is not None and gone.forget_accuracy < 0.85
    only_retain = linear_probe(x, y, tx[ty != 2], ty[ty != 2], [2])
    assert only_retain.forget_accuracy is None and only_retain.retain_accuracy == 1.0


def test_probe_refusals() -> None:
    x, y = blobs(12, 0)
    with pytest.raises(ValueError, match="train_labels"):
        linear_probe(x, y, x, y, 7)
    with pytest.raises(ValueError, match="at least two classes"):
        linear_probe(x, torch.zeros(12, dtype=torch.int64), x, y, 0)
    with pytest.raises(ValueError, match="test_features"):
        linear_probe(x, y, x[:, :1], y, 0)
    with pytest.raises(ValueError, match="test_labels"):
        linear_probe(x, y, x, y[:3], 0)
    with pytest.raises(ValueError, match="finite"):
        linear_probe(x / 0, y, x, y, 0)
    for probe in (lambda seed: linear_probe(x, y, x, y, 0, seed=seed), lambda seed: probe_on_halves(x, y, 0, seed)):
        with pytest.raises(ValueError, match="^seed: expected at least 0"):
            probe(-1)


def test_answers_and_features_of_one_pass() -> None:
    model = FunctionalHead()
    images = torch.randn(7, 1, 5, 5)
    found, logits = features_and_logits(model, images, batch_size=3)
    torch.testing.assert_close(found, features(model, images))
    assert torch.equal(logits.argmax(1), predict(model, images))


def test_probe_on_halves_uses_each_image_once() -> None:
    pytest.importorskip("sklearn")
    x, y = blobs(91, 0)
    assert probe_on_halves(x, y, 2).forget_accuracy == 1.0
    # One image of the class: it goes to training, none is left to judge.
    keep = (y != 2) | (torch.arange(91) == 2)
    assert probe_on_halves(x[keep], y[keep], 2).forget_accuracy is None
