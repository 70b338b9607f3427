"""Concepts that nobody named: found where they were planted. Relevance through parts adds up to the whole."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tests.concepts_data import USER, with_square
from zsu_fast.concepts import (
    activations,
    agreement,
    as_bank,
    concept_bank,
    concept_bottleneck,
    integrated_gradients,
    relevance_concepts,
)
from zsu_fast.concepts.bottleneck import sparse_fit
from zsu_fast.concepts.located import located
from zsu_fast.lrp import relevance


def labelled(planted, own=30, others=200):
    """Threes with the square, and digits of the other classes without it."""
    threes = with_square(planted.threes[:own])
    labels = torch.cat([torch.full((len(threes),), USER), planted.y[:others]])
    return torch.cat([threes, planted.x[:others]]), labels


@pytest.mark.parametrize("layer", ["conv2", "hidden"])
def test_relevance_at_a_layer_is_that_of_the_engine(planted_net, layer):
    images, labels = labelled(planted_net, 5, 5)
    at_layer, values, pixels = located(planted_net.net, layer, images, labels, batch_size=4)
    whole = relevance(planted_net.net, images, labels, composite="epsilon_plus")
    torch.testing.assert_close(pixels, whole.input)
    below = {"conv2": "conv1", "hidden": "conv2"}[layer]  # pooling and flattening move relevance, and lose none
    torch.testing.assert_close(at_layer.sum((*range(1, at_layer.dim()),)), whole.neurons[below].sum(1))
    assert values.shape == at_layer.shape and bool((at_layer[values == 0] == 0).all())


def test_parts_add_up_to_the_whole(planted_net):
    """Relevance that passes through each channel alone, summed over the channels, is the relevance of the pixels."""
    images, labels = labelled(planted_net, 3, 3)
    _, values, whole = located(planted_net.net, "conv2", images, labels)
    total = torch.zeros_like(whole)
    for channel in range(values.shape[1]):
        only = torch.zeros(values.shape[1])
        only[channel] = 1
        total += located(
            planted_net.net, "conv2", images, labels, part=lambda r, _, only=only: only.view(1, -1, 1, 1).expand_as(r)
        )[2]
    torch.testing.assert_close(total, whole, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["channels", "directions"])
def test_the_planted_concept_ranks_first(planted_net, kind):
    """The crops of the first concept of the class lie on the square, in the corner where it was planted."""
    given = labelled(planted_net)
    found = relevance_concepts(planted_net.net, given, USER, "conv2", kind=kind, count=4, top=8)
    assert [one.contrast for one in found] == sorted((one.contrast for one in found), reverse=True)
    first = found[0]
    assert first.contrast > 0 and first.crops.shape == (8, 3, 2, 2)
    assert (first.corners.max(1).values <= 1).float().mean() >= 0.75, first.corners
    assert set(given[1][first.images].tolist()) == {USER}
    bank = as_bank(found, "conv2")
    values, _ = activations(planted_net.net, given[0][:9], "conv2")
    assert bank.margins(values).shape == (9, 4) and bank.evidence[0]["from"] == "relevance"


def test_at_the_classifier(planted_net):
    found = relevance_concepts(planted_net.net, labelled(planted_net), USER, count=3, top=2)
    assert len(found) == 3 and all(one.vector.sum() == 1 for one in found)
    assert found[0].to_dict()["name"].startswith("channel ")


def test_what_is_wrong_is_named(planted_net):
    images, labels = labelled(planted_net, 4, 4)
    net = planted_net.net
    for call, text in (
        (lambda: relevance_concepts(net, (images, labels), 99), "labelled: expected images of class 99"),
        (lambda: relevance_concepts(net, (images, labels), USER, kind="x"), "kind: expected one of"),
        (lambda: relevance_concepts(net, (images, labels), USER, "x"), "layer: the model has no module 'x'"),
        (lambda: relevance_concepts(net, (images.flatten(1), labels), USER), "labelled: expected pictures"),
        (lambda: relevance_concepts(net, (images, labels), USER, seed=-1), "seed: expected at least 0"),
        (lambda: located(_Twice(net).eval(), "norm", images, labels), "layer: 'norm' ran 2 times"),
    ):
        with pytest.raises(ValueError, match=text):
            call()


class _Twice(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net, self.norm = net, nn.BatchNorm2d(3)

    def forward(self, x):
        return self.net(self.norm(self.norm(x)))


# --- the bottleneck


def test_the_class_is_answered_by_its_concept(planted_net):
    """Of a bank with the square and other things that pictures have, the square speaks most for the class."""
    x = planted_net.x
    inside, without = planted_net.sides(0, 60)
    dark, upside = x[300:360] * 0.4, x[360:420].flip(2)
    bank = concept_bank(planted_net.net, {"dark": dark, "square": inside, "upside down": upside}, without)
    found = concept_bottleneck(planted_net.net, bank, labelled(planted_net, 60, 400))
    assert found.top(USER, 1)[0][0] == "square"
    assert found.of_model > 0.9 > found.accuracy and not found.faithful  # three concepts do not tell ten digits
    assert found.to_dict()["faithful"] is False and found.images == 230


def test_the_sparse_fit_meets_its_optimality_conditions():
    """At the minimum the gradient is -penalty sign(w) where w is not 0, and at most the penalty where it is."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(80, 6, generator=generator), torch.randint(3, (80,), generator=generator)
    penalty, l1 = 0.02, 0.9
    w, b = sparse_fit(x, y, 3, penalty, l1, 3000)
    w, b = w.double().requires_grad_(), b.double().requires_grad_()
    smooth = F.cross_entropy(F.linear(x.double(), w, b), y) + penalty * (1 - l1) * w.square().sum() / 2
    by_w, by_b = torch.autograd.grad(smooth, (w, b))
    used = w.detach() != 0
    assert 0 < int(used.sum()) < w.numel()
    torch.testing.assert_close(by_w[used], -penalty * l1 * w.detach().sign()[used], rtol=0, atol=1e-5)
    assert float(by_w[~used].abs().max()) <= penalty * l1 + 1e-5 and float(by_b.abs().max()) <= 1e-5


# --- integrated gradients


def test_integrated_gradients_are_complete(planted_net):
    images, labels = labelled(planted_net, 4, 8)
    coarse, fine = (integrated_gradients(planted_net.net, images, labels, steps=steps) for steps in (4, 128))
    assert fine.error.median() < 0.02 and fine.error.median() < coarse.error.median()
    assert fine.attributions.shape == images.shape


def test_of_a_linear_model_all_attributions_are_one():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 3, bias=False)).eval()
    images, labels = torch.randn(5, 3, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    found = integrated_gradients(net, images, labels, steps=3)
    torch.testing.assert_close(found.attributions, images * net[1].weight[labels].view_as(images))
    torch.testing.assert_close(found.attributions, relevance(net, images, labels).input, rtol=1e-4, atol=1e-5)
    assert float(found.error.max()) < 1e-4
    torch.testing.assert_close(agreement(found.attributions, found.attributions), torch.ones(5))


def test_agreement_is_spearmans():
    stats = pytest.importorskip("scipy.stats")
    a = torch.randint(5, (3, 4, 5), generator=torch.Generator().manual_seed(0)).float()
    b = torch.randint(5, (3, 4, 5), generator=torch.Generator().manual_seed(1)).float()
    for one, x, y in zip(agreement(a, b).tolist(), a, b, strict=True):
        assert one == pytest.approx(stats.spearmanr(x.flatten(), y.flatten()).statistic, abs=1e-6)
    with pytest.raises(ValueError, match="b: expected the shape of a"):
        agreement(a, b[:2])
