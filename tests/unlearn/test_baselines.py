"""Baselines of the field: each formula held against values by hand, each effect seen on real digits."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zsu_fast
from zsu_fast.unlearn import Patch, model_digest
from zsu_fast.unlearn.methods import BASELINES, find_method
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.baselines import relabel, retrain
from zsu_fast.unlearn.methods.baselines.baseline import Trainer, mini_batches
from zsu_fast.unlearn.structure import Structure

TARGET = 3
# What makes each forget the small digits net, from 60 images of the class and 840 others.
SETTINGS = {
    "retrain": {"epochs": 12},
    "finetune": {"epochs": 2},
    "l1-sparse": {"epochs": 5, "alpha": 2e-3},
    "random-label": {"epochs": 6, "learning_rate": 2e-3},
    "salun": {"epochs": 4},
    "neggrad": {"learning_rate": 0.01, "epochs": 6},
    "neggrad+": {"learning_rate": 0.01, "epochs": 2, "beta": 0.9},
}


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
            budget=1, **(SETTINGS.get(method, {}) | options),
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
        model, lambda count: None, lambda done, total, text: None,
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
    assert BASELINES[method].__doc__ is not None and "Needs" in BASELINES[method].__doc__


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


def test_mini_batches_are_all_images_and_of_nearly_equal_size():
    batches = mini_batches(65, 64, torch.Generator().manual_seed(0))
    assert sorted(map(len, batches)) == [32, 33] and sorted(torch.cat(batches).tolist()) == list(range(65))


# --- training on


def test_retrained_without_the_class_it_is_never_the_answer(runs):
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
    method = find_method("l1-sparse")(find_method("l1-sparse").options(epochs=4, alpha=0.1))
    assert [method.penalty_weight(e) for e in range(4)] == pytest.approx([0.1, 0.075, 0.05, 0.025])
    run = runs("l1-sparse")

    def norm(model):
        return sum(p.abs().sum().item() for p in model.parameters())

    assert norm(run.model) < 0.65 * norm(trained_nets["ConvNet"]) and run.kept > run.before - 0.05


def test_one_step_of_the_l1_penalty_by_hand():
    """Logits (w x, 0), x = 1, class 0: CE' = -sigmoid(-w); the penalty adds alpha sign(w)."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([0.5]))

        def forward(self, x):
            return torch.cat([self.w * x, 0 * x], 1)

    net, x = Net(), torch.ones(1, 1)
    options = find_method("l1-sparse").options(epochs=1, alpha=0.3, learning_rate=0.1, momentum=0.0)
    nothing = (lambda count: None, lambda done, total, text: None)
    given = Given(net, Structure(), (1,), x, torch.tensor([1]), (x, torch.tensor([0])), net, *nothing)
    find_method("l1-sparse")(options).learn(net, given, x, torch.tensor([1]))
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
    options = find_method("salun").options(train_batch_size=7)
    method = find_method("salun")(options)
    found = method._saliency(Trainer(student, given, options), given.images, given.labels)
    loss = F.cross_entropy(student(given.images), given.labels, reduction="sum")
    expected = torch.autograd.grad(loss, list(student.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b.abs(), rtol=1e-3, atol=1e-4)
