"""Formulas of the baselines, by hand."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

import zsu_fast
from tests.baselines import NOTHING, made
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.baselines import boundary, damp, dampening, kodge, relabel, retrain, scrub
from zsu_fast.unlearn.methods.baselines.layer_inputs import features, patches
from zsu_fast.unlearn.methods.training import mini_batches
from zsu_fast.unlearn.structure import Head, Structure


def test_mini_batches_are_all_images_and_of_nearly_equal_size():
    batches = mini_batches(65, 64, torch.Generator().manual_seed(0))
    assert sorted(map(len, batches)) == [32, 33] and sorted(torch.cat(batches).tolist()) == list(range(65))


def test_all_modules_begin_anew_or_the_one_that_cannot_is_named():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.MultiheadAttention(4, 2))
    old = copy.deepcopy(net)
    with torch.no_grad():
        net[1].running_mean.fill_(3), net[1].weight.fill_(7), net[2].out_proj.bias.fill_(1)
    retrain.reset(net)
    assert not torch.equal(net[0].weight, old[0].weight) and torch.equal(net[1].running_mean, torch.zeros(4))
    assert torch.equal(net[1].weight, torch.ones(4)) and torch.equal(net[2].out_proj.bias, torch.zeros(4))
    net.token = nn.Parameter(torch.zeros(2))
    with pytest.raises(ValueError, match="model: it holds token and has no reset_parameters"):
        retrain.reset(net)


def test_one_step_of_the_l1_penalty_by_hand():
    """Logits (w x, 0), x = 1, class 0: CE' = -sigmoid(-w); the penalty adds alpha sign(w)."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.5]))

        def forward(self, x):
            return torch.cat([self.w * x, 0 * x], 1)

    net, x = Net(), torch.ones(1, 1)
    label = torch.tensor([1])
    given = Given(net, Structure(), (1,), x, label, (x, torch.tensor([0])), net, **NOTHING)
    made("l1-sparse", epochs=1, alpha=0.3, learning_rate=0.1, momentum=0.0).learn(net, given, x, label)
    assert net.w.item() == pytest.approx(0.5 - 0.1 * (-1 / (1 + math.exp(0.5)) + 0.3))


def test_the_saliency_mask_by_hand():
    masks = relabel.largest([torch.tensor([[1.0, 5.0], [5.0, 0.0]]), torch.tensor([5.0, 2.0])], 0.5)
    assert [mask.tolist() for mask in masks] == [[[False, True], [True, False]], [True, False]]
    assert [m.sum().item() for m in relabel.largest([torch.zeros(3), torch.zeros(4)], 0.3)] == [2, 0]  # 2.1 of 7


def test_dampening_by_hand():
    parameter = torch.tensor([2.0, 2.0, 2.0, -2.0, 2.0])
    forget, whole = torch.tensor([10.0, 11.0, 100.0, 100.0, 0.0]), torch.tensor([1.0, 1.0, 1.0, 50.0, 0.0])
    dampening.dampen_(parameter, forget, whole, alpha=10.0, dampening=2.0)
    assert parameter.tolist() == pytest.approx([2.0, 2.0 * 2 / 11, 2.0 * 2 / 100, -2.0, 2.0])
    dampening.dampen_(parameter, torch.tensor([3.0]), torch.tensor([2.0]), alpha=1.0, dampening=5.0)
    assert parameter[0] == 2.0  # never made larger


def test_importances_by_hand():
    """One weight row per class, one image per mini-batch: the gradient of CE is (softmax - one-hot) x."""
    net = nn.Linear(2, 2, bias=False)
    weight, x, y = np.array([[0.3, -0.2], [0.1, 0.5]]), np.array([[1.0, 2.0], [-1.0, 0.5]]), np.array([0, 1])
    with torch.no_grad():
        net.weight.copy_(torch.tensor(weight))
    images, labels = torch.tensor(x, dtype=torch.float32), torch.tensor(y)
    given = Given(net, Structure(), (0,), images, labels, None, net, **NOTHING)
    logits = x @ weight.T
    softmax = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradients = (softmax - np.eye(2)[y])[:, :, None] * x[:, None, :]
    for method, expected in (
        ("ssd", (gradients**2).mean(0)),
        ("lfssd", np.abs(2 * logits[:, :, None] * x[:, None, :]).mean(0)),
    ):
        (found,) = made(method, train_batch_size=1)._importance(net, list(net.parameters()), given, images, labels)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-5)


def test_nearest_wrong_labels_by_hand():
    """Logits (a, b, -a): up the loss of class 0 the step is (-0.1, +0.1)."""
    net = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    images = torch.tensor([[1.0, 0.95], [3.0, -4.0], [1.0, 0.7]])
    found = boundary.nearest_wrong_labels(net, images, torch.zeros(3, dtype=torch.int64), 0.1, (0,))
    assert found.tolist() == [1, 2, 1]


def test_a_classifier_grows_and_shrinks():
    net = nn.Sequential(nn.Linear(16, 3))
    old, head = copy.deepcopy(net), Head("0", "0.weight", "0.bias", [0, 1, 2], 16, None, None, [])
    boundary.resize(net, head, 4, torch.Generator().manual_seed(0))
    x = torch.randn(5, 16)
    assert net(x).shape == (5, 4) and net[0].weight[3].abs().max() <= 1 / 4
    torch.testing.assert_close(net(x)[:, :3], old(x))
    boundary.resize(net, head, 3, torch.Generator())
    assert torch.equal(net[0].weight, old[0].weight) and torch.equal(net[0].bias, old[0].bias)


def test_a_classifier_that_cannot_grow_is_refused():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(10, 10), nn.Linear(10, 10, bias=False)
            self.words.weight = self.head.weight

        def forward(self, x):
            return self.head(self.words(x).mean(1))

    class Mean(nn.Module):
        def forward(self, x):
            return x.view(-1, 10, 2).mean(2)

    with torch.no_grad():
        (tied := Tied()).head.weight.copy_(torch.eye(10))
    for net, probes, reason in (
        (tied, torch.full((3, 2), 3), "boundary-expand.* is shared with head.weight"),
        (nn.Sequential(nn.Linear(20, 20), Mean()), torch.rand(3, 20), "boundary-expand.* needs a classifier to widen"),
    ):
        with pytest.raises(ValueError, match=reason):
            zsu_fast.forget(net, 3, probes, method="boundary-expand", budget=1)


def test_distillation_by_hand():
    teacher, student, t = (
        np.array([[2.0, 0.0, -1.0], [1.0, 1.0, 0.0]]),
        np.array([[0.5, 1.0, 0.0], [1.0, 1.0, 0.0]]),
        2.0,
    )
    p, q = (np.exp(z / t) / np.exp(z / t).sum(1, keepdims=True) for z in (teacher, student))
    expected = t**2 * (p * np.log(p / q)).sum(1).mean()
    assert scrub.distillation(torch.tensor(teacher), torch.tensor(student), t).item() == pytest.approx(expected)


def test_what_goes_into_a_convolution():
    x = torch.randn(2, 3, 7, 6)
    for layer in (
        nn.Conv2d(3, 4, (3, 2), stride=2, padding=1, dilation=(1, 2)),
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="reflect"),
    ):
        expected = (layer(x) - layer.bias.view(-1, 1, 1)).flatten(2).transpose(1, 2).flatten(0, 1)
        torch.testing.assert_close(patches(layer, x) @ layer.weight.flatten(1).T, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features(layer, x), x.mean((2, 3)))
    tokens = torch.randn(2, 5, 3)
    torch.testing.assert_close(features(nn.Linear(3, 1), tokens), tokens.mean(1))


def test_damp_by_hand():
    """Prototypes (3, 1, 0) of the class, (0, 1, 0) and (0, 0, 1) of the others; all images of the class stand apart."""
    images = torch.tensor([[2.0, 1, 0], [4, 1, 0], [0, 1, 0], [0, 0, 1]])
    labels, weight = torch.tensor([0, 0, 1, 2]), torch.arange(9.0).view(3, 3)
    for relative_to, residual in (("mean", [3, 0.5, -0.5]), ("span", [3, 0, 0])):
        net = nn.Linear(3, 3)
        with torch.no_grad():
            net.weight.copy_(weight)
        given = Given(net, Structure(), (0,), images[:2], labels[:2], (images[2:], labels[2:]), net, **NOTHING)
        made("damp", relative_to=relative_to).learn(net, given, images[:2], labels[:2])
        direction = np.array(residual) / np.linalg.norm(residual)
        expected = weight.numpy() @ (np.eye(3) - np.outer(direction, direction))
        np.testing.assert_allclose(net.weight.detach().numpy(), expected, atol=1e-5)


def test_how_well_a_class_stands_apart_by_hand():
    forget, retain = torch.tensor([[0.0]]), torch.tensor([[2.0], [9.0]])
    inputs = torch.tensor([[-1.0], [0.5], [0.9], [1.5]])  # three of four nearest to their own of three prototypes
    found = damp.separability(inputs, torch.full((4,), 7), forget, retain)
    assert found == pytest.approx((3 / 4 - 1 / 3) / (1 - 1 / 3))
    assert damp.residual_basis(forget, retain, "span").shape == (1, 0)  # nothing is left: nothing is projected out


def test_subspaces_by_hand():
    rng = np.random.default_rng(0)
    net = nn.Linear(4, 3)
    weight = net.weight.detach().double().numpy().copy()
    forget, retain = rng.normal(size=(6, 4)).astype("f"), rng.normal(size=(9, 4)).astype("f")

    def projection(inputs, alpha):
        vectors, sizes, _ = np.linalg.svd(inputs.T.astype("d"), full_matrices=False)
        share = sizes**2 / (sizes**2).sum()
        return vectors @ np.diag(alpha * share / ((alpha - 1) * share + 1)) @ vectors.T

    found = kodge.importance_projection(torch.tensor(retain.T.astype("d") @ retain), 30.0)
    np.testing.assert_allclose(found.numpy(), projection(retain, 30.0), atol=1e-6)
    images, labels = torch.tensor(forget), torch.zeros(6, dtype=torch.int64)
    given = Given(net, Structure(), (0,), images, labels, (torch.tensor(retain), labels), net, **NOTHING)
    made("kodge", alpha_retain=30.0, alpha_forget=3.0).learn(net, given, images, labels)
    removed = projection(forget, 3.0) @ (np.eye(4) - projection(retain, 30.0))
    np.testing.assert_allclose(net.weight.detach().numpy(), weight @ (np.eye(4) - removed).T, atol=1e-5)
