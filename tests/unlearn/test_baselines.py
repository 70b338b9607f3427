"""Baselines of the field: each formula held against values by hand, each effect seen on real digits."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zsu_fast
from zsu_fast.unlearn import Patch, model_digest
from zsu_fast.unlearn.methods import BASELINES, find_method
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.baselines import boundary, damp, dampening, jit, kodge, relabel, retrain, scrub
from zsu_fast.unlearn.methods.baselines.baseline import Trainer, mini_batches
from zsu_fast.unlearn.methods.baselines.layer_inputs import features, patches
from zsu_fast.unlearn.structure import Head, Structure

TARGET = 3
NOTHING = {"count": lambda images: None, "progress": lambda done, total, text: None}
# What makes each forget the small digits net, from 60 images of the class and 840 others.
SETTINGS = {
    "retrain": {"epochs": 12},
    "finetune": {"epochs": 2},
    "l1-sparse": {"epochs": 5, "alpha": 2e-3, "learning_rate": 0.05},
    "random-label": {"epochs": 6, "learning_rate": 2e-3},
    "salun": {"epochs": 4},
    "neggrad": {"learning_rate": 0.01, "epochs": 6},
    "neggrad+": {"learning_rate": 0.009, "epochs": 2, "beta": 0.9},
    "scrub": {"epochs": 5, "learning_rate": 5e-3},
    "boundary-shrink": {"learning_rate": 3e-4},
    "boundary-expand": {"learning_rate": 3e-4},
    "unsir": {"epochs": 3, "learning_rate": 1e-3, "repair_learning_rate": 1e-3},
    "jit": {"epochs": 5, "learning_rate": 5e-3},
    "kodge": {"alpha_retain": 30.0},
    "noise": {"budget": 48},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Of nets this small threads only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(method, **options):
    kind = find_method(method)
    return kind(kind.options(**options))


def accuracy(model, images, labels):
    with torch.no_grad():
        return (model(images).argmax(1) == labels).float().mean().item()


class Run:
    """One method on a copy of the trained net, with the images of `digits`."""

    def __init__(self, net, digits, method, **options):
        self.model = copy.deepcopy(net)
        own = digits.y == TARGET
        self.retain = digits.x[~own], digits.y[~own]
        seen = digits.unseen_y == TARGET
        self.own = digits.unseen_x[seen], digits.unseen_y[seen]
        self.others = digits.unseen_x[~seen], digits.unseen_y[~seen]
        self.digest = model_digest(self.model)
        self.before = accuracy(self.model, *self.others)
        self.result = zsu_fast.forget(
            self.model, TARGET, digits.x[own][:60], retain_probes=self.retain, evaluate_on=self.own, method=method,
            **({"budget": 1} | SETTINGS.get(method, {}) | options),
        )  # fmt: skip
        self.forget, self.kept = accuracy(self.model, *self.own), accuracy(self.model, *self.others)


@pytest.fixture(scope="module")
def runs(trained_nets, digits):
    found = {}

    def run(method):
        if method not in found:
            found[method] = Run(trained_nets["ConvNet"], digits, method)
        return found[method]

    return run


@pytest.fixture(scope="module")
def given(trained_nets, digits):
    model = trained_nets["ConvNet"]
    own = digits.y == TARGET
    return Given(
        model, Structure(), (TARGET,), digits.x[own][:60], digits.y[own][:60], (digits.x[~own], digits.y[~own]),
        model, **NOTHING,
    )  # fmt: skip


# --- what holds for all


@pytest.mark.parametrize("method", BASELINES)
def test_every_baseline_leaves_a_patch_that_undoes_it(runs, method, tmp_path):
    run = runs(method)
    model = copy.deepcopy(run.model)
    assert run.result.patch.entries and model_digest(model) != run.digest
    run.result.patch.save(tmp_path / "patch.safetensors")
    patch = Patch.load(tmp_path / "patch.safetensors")
    edited = model_digest(model)
    patch.revert(model)
    assert model_digest(model) == run.digest
    patch.apply_(model)
    assert model_digest(model) == edited
    asked = patch.record["request"]
    assert asked["method"] == method and asked["needs"] == sorted(BASELINES[method].needs)
    assert run.result.verdict.judged_by == "evaluation images"
    moved = any("running" in entry.tensor for entry in patch.entries)
    assert moved == getattr(BASELINES[method], "train_mode", False)
    assert "Needs" in BASELINES[method].__doc__ and "BatchNorm" in BASELINES[method].__doc__


@pytest.mark.parametrize("method", [name for name, kind in BASELINES.items() if "retain images" in kind.needs])
def test_retain_images_are_asked_for_where_they_are_needed(conv_net, digits, method):
    digest = model_digest(conv_net)
    with pytest.raises(ValueError, match="needs retain_probes"):
        zsu_fast.forget(conv_net, TARGET, digits.split(TARGET)[0], method=method)
    assert model_digest(conv_net) == digest


@pytest.mark.parametrize("method", ["salun", "retrain"])
def test_the_same_seed_gives_the_same_bits_and_another_does_not(trained_nets, digits, method):
    one, two, other = (
        Run(trained_nets["ConvNet"], digits, method, epochs=1, seed=seed).result.record["model"]["after"]
        for seed in (5, 5, 6)
    )
    assert one == two != other


def test_divergence_names_the_learning_rate_and_changes_nothing(conv_net, digits):
    digest = model_digest(conv_net)
    with pytest.raises(ValueError, match="learning_rate: "):
        zsu_fast.forget(conv_net, TARGET, digits.split(TARGET)[0], method="neggrad", learning_rate=1e30, budget=1)
    assert model_digest(conv_net) == digest


def test_an_interrupt_in_the_middle_changes_nothing(conv_net, digits):
    digest, state = model_digest(conv_net), torch.get_rng_state()

    def interrupt(done, total, text):
        if "epoch 2" in text:
            raise KeyboardInterrupt

    probes, _, *others = digits.split(TARGET)
    with pytest.raises(KeyboardInterrupt):
        zsu_fast.forget(conv_net, TARGET, probes, method="finetune", retain_probes=others, progress=interrupt)
    assert model_digest(conv_net) == digest and torch.equal(torch.get_rng_state(), state)


def test_of_a_wrapped_model_the_inner_one_learns(conv_net, digits):
    digest, wrapped = model_digest(conv_net), nn.DataParallel(conv_net)
    result = zsu_fast.forget(wrapped, TARGET, digits.split(TARGET)[0], method="neggrad", epochs=2, budget=1)
    assert model_digest(conv_net) == result.record["model"]["after"] != digest
    result.patch.revert(wrapped)
    assert model_digest(conv_net) == digest


def test_a_tied_weight_is_edited_once_and_single_numbers_stay(digits):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two, self.head = nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 10)
            self.two.weight = self.one.weight
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x):
            return self.scale * self.head(F.relu(self.two(F.relu(self.one(x.flatten(1))))))

    torch.manual_seed(0)
    net = Tied()
    optimizer = torch.optim.Adam(net.parameters(), 5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(digits.x), digits.y).backward()
        optimizer.step()
    digest, scale = model_digest(net), net.scale.clone()
    result = zsu_fast.forget(net, TARGET, digits.split(TARGET)[0], method="neggrad", epochs=2, budget=1)
    tensors = [entry.tensor for entry in result.patch.entries]
    assert "one.weight" in tensors and "two.weight" not in tensors and torch.equal(net.scale, scale)
    result.patch.revert(net)
    assert model_digest(net) == digest


@pytest.mark.parametrize("name, value, kind", [
    ("learning_rate", 0, ValueError), ("learning_rate", "a", TypeError), ("epochs", 0, ValueError),
    ("epochs", 1.5, TypeError), ("momentum", 1, ValueError), ("weight_decay", -1, ValueError),
    ("optimizer", "lion", ValueError), ("train_batch_size", 0, ValueError), ("share", 1.5, ValueError),
    ("mode", "zero", TypeError),
])  # fmt: skip
def test_bad_options_are_named(name, value, kind):
    with pytest.raises(kind, match=f"^{name}: "):
        zsu_fast.forget(nn.Linear(4, 3), 1, torch.rand(3, 4), method="salun", **{name: value})


def test_half_precision_is_refused():
    net = nn.Linear(4, 3).half()
    with torch.no_grad():
        net.bias.copy_(torch.tensor([0, 9, 0]))
    with pytest.raises(ValueError, match="model: must be float32 or float64"):
        zsu_fast.forget(net, 1, torch.rand(3, 4).half(), method="neggrad", budget=1)


def test_mini_batches_are_all_images_and_of_nearly_equal_size():
    batches = mini_batches(65, 64, torch.Generator().manual_seed(0))
    assert sorted(map(len, batches)) == [32, 33] and sorted(torch.cat(batches).tolist()) == list(range(65))


# --- training on


def test_retrained_without_the_class_it_is_never_the_answer(runs, trained_nets, digits):
    assert Run(trained_nets["ConvNet"], digits, "retrain", schedule="constant", epochs=2).forget == 0
    run = runs("retrain")
    assert run.forget == 0 and run.kept > run.before - 0.03
    assert run.result.verdict.level == "answers"
    assert {"bn1.running_mean", "bn2.running_var"} <= {entry.tensor for entry in run.result.patch.entries}


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


def test_what_is_not_repeated_fades_slowly(runs):
    run = runs("finetune")
    assert run.forget > 0.5 and run.kept > run.before - 0.02


def test_the_penalty_on_weights_falls_to_nothing_and_makes_them_small(runs, trained_nets):
    method = made("l1-sparse", epochs=4, alpha=0.1)
    assert [method.penalty_weight(e) for e in range(4)] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    run = runs("l1-sparse")

    def norm(model):
        return sum(p.abs().sum().item() for p in model.parameters())

    assert norm(run.model) < 0.7 * norm(trained_nets["ConvNet"]) and run.kept > run.before - 0.05


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


def test_ascent_forgets_and_with_retain_images_keeps_more_of_the_others(runs):
    alone, held = runs("neggrad"), runs("neggrad+")
    assert alone.forget == held.forget == 0 and alone.kept < 0.7 < held.kept


def test_random_labels_are_of_the_classes_that_stay(given):
    labels = torch.full((4000,), TARGET)
    wrong = relabel.random_labels(given, labels, torch.Generator().manual_seed(0))
    counts = torch.bincount(wrong, minlength=10)
    assert counts[TARGET] == 0 and counts[torch.arange(10) != TARGET].min() > 350


def test_wrong_labels_are_learned(runs):
    for method in ("random-label", "salun"):
        run = runs(method)
        assert run.forget < 0.1 and run.kept > run.before - 0.05, method


def test_the_saliency_mask_by_hand():
    masks = relabel.largest([torch.tensor([[1.0, 5.0], [5.0, 0.0]]), torch.tensor([5.0, 2.0])], 0.5)
    assert [mask.tolist() for mask in masks] == [[[False, True], [True, False]], [True, False]]
    assert [m.sum().item() for m in relabel.largest([torch.zeros(3), torch.zeros(4)], 0.3)] == [2, 0]  # 2.1 of 7


def test_exactly_the_share_asked_for_may_change(given, trained_nets, digits):
    model = trained_nets["ConvNet"]
    run = Run(model, digits, "salun", share=0.1, epochs=2, weight_decay=0.1)
    total = sum(p.numel() for p in model.parameters())
    changed = sum((a != b).sum().item() for a, b in zip(model.parameters(), run.model.parameters(), strict=True))
    assert 0.95 * round(0.1 * total) < changed <= round(0.1 * total)
    assert all(torch.equal(a, b) for a, b in zip(model.buffers(), run.model.buffers(), strict=True))


def test_saliency_is_the_gradient_of_the_summed_loss(given, trained_nets):
    student = copy.deepcopy(trained_nets["ConvNet"]).requires_grad_()
    method = made("salun", train_batch_size=7)
    found = method._saliency(Trainer(student, given, method.asked), given.images, given.labels)
    loss = F.cross_entropy(student(given.images), given.labels, reduction="sum")
    expected = torch.autograd.grad(loss, list(student.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.abs(), rtol=1e-3, atol=1e-4)


# --- selective synaptic dampening


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


@pytest.mark.parametrize("method", ["ssd", "lfssd"])
def test_dampening_forgets_and_makes_no_parameter_larger(runs, trained_nets, method):
    run, before = runs(method), trained_nets["ConvNet"]
    assert run.forget == 0 and run.kept > 0.9
    assert all(
        bool((a.abs() <= b.abs()).all()) for a, b in zip(run.model.parameters(), before.parameters(), strict=True)
    )


# --- of the class's images alone


def test_sharpness_by_hand_and_down_it_goes(runs, given, trained_nets):
    noise = torch.tensor([[[2.0, 0.0]], [[0.0, 1.0]]])
    clean, noisy = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0, 4.0], [1.0, 2.0]])
    assert jit.sharpness(clean, noisy, noise).item() == (5 / 2 + 1) / 2
    noise = 0.5 * torch.randn(given.images.shape, generator=torch.Generator().manual_seed(9))
    with torch.no_grad():
        before, after = (
            jit.sharpness(net(given.images), net(given.images + noise), noise)
            for net in (trained_nets["ConvNet"], runs("jit").model)
        )
    assert after < 0.5 * before


def test_nearest_wrong_labels_by_hand():
    """Logits (a, b, -a): up the loss of class 0 the step is (-0.1, +0.1)."""
    net = nn.Linear(2, 3, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    images = torch.tensor([[1.0, 0.95], [3.0, -4.0], [1.0, 0.7]])
    found = boundary.nearest_wrong_labels(net, images, torch.zeros(3, dtype=torch.int64), 0.1, (0,))
    assert found.tolist() == [1, 2, 1]


def test_the_class_is_given_to_its_neighbours(runs):
    for method in ("boundary-shrink", "boundary-expand"):
        run = runs(method)
        assert run.forget == 0 and run.kept > 0.6, method
        assert run.model.head.weight.shape == (10, 48)


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


# --- with the others


def test_noise_is_what_the_model_takes_for_the_class_least(runs, given, trained_nets):
    method, net = made("unsir", train_batch_size=16), trained_nets["ConvNet"]
    noise = method.noise(net, given, TARGET, given.images[:1], torch.Generator().manual_seed(0))
    start = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    label = torch.full((16,), TARGET)
    with torch.no_grad():
        assert F.cross_entropy(net(noise), label) > F.cross_entropy(net(start), label) + 5
    run = runs("unsir")
    assert run.forget < 0.1 and run.kept > 0.8


def test_distillation_by_hand():
    teacher, student, t = (
        np.array([[2.0, 0.0, -1.0], [1.0, 1.0, 0.0]]),
        np.array([[0.5, 1.0, 0.0], [1.0, 1.0, 0.0]]),
        2.0,
    )
    p, q = (np.exp(z / t) / np.exp(z / t).sum(1, keepdims=True) for z in (teacher, student))
    expected = t**2 * (p * np.log(p / q)).sum(1).mean()
    assert scrub.distillation(torch.tensor(teacher), torch.tensor(student), t).item() == pytest.approx(expected)


def test_first_away_on_the_class_then_towards_the_teacher(runs, conv_net, digits):
    texts = []
    probes, _, *others = digits.split(TARGET)
    zsu_fast.forget(
        conv_net, TARGET, probes, method="scrub", retain_probes=others, epochs=3, max_epochs=2, budget=1,
        progress=lambda done, total, text: texts.append(text.split(",")[1]) if text.startswith("scrub") else None,
    )  # fmt: skip
    steps = [
        f" {kind} epoch {epoch} of 3" for epoch, kind in ((1, "max"), (1, "min"), (2, "max"), (2, "min"), (3, "min"))
    ]
    assert list(dict.fromkeys(texts)) == steps
    run = runs("scrub")
    assert run.forget < 0.1 and run.kept > run.before - 0.03


# --- projections


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


@pytest.mark.parametrize("method", ["damp", "kodge"])
def test_projections_forget_without_training(runs, method):
    run = runs(method)
    assert run.forget < 0.1 and run.kept > 0.8


# --- noise


def test_noise_goes_on_the_row_of_the_class_or_on_neurons(runs, trained_nets, digits):
    before = trained_nets["ConvNet"]
    run = runs("noise")
    difference = run.model.head.weight - before.head.weight
    assert (difference.abs().sum(1) > 0).nonzero()[:, 0].tolist() == [TARGET]
    assert 0.7 < difference[TARGET].std().item() < 1.3
    neurons = Run(before, digits, "noise", where="neurons", mode="laplace", strength=0.5, budget=20).result
    assert sum(map(len, neurons.picks.values())) == 20 and set(neurons.picks) <= {"conv1", "conv2", "hidden"}
