"""Baselines of the field: what each promises, and its effect on real digits."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zsu_fast
from tests.baselines import NOTHING, made
from zsu_fast.unlearn import Patch, model_digest
from zsu_fast.unlearn.methods import BASELINES
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.baselines import jit, relabel
from zsu_fast.unlearn.methods.baselines.baseline import Trainer
from zsu_fast.unlearn.structure import Structure

pytestmark = pytest.mark.usefixtures("one_thread")

TARGET = 3
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


# --- training on


def test_retrained_without_the_class_it_is_never_the_answer(runs, trained_nets, digits):
    assert Run(trained_nets["ConvNet"], digits, "retrain", schedule="constant", epochs=2).forget == 0
    run = runs("retrain")
    assert run.forget == 0 and run.kept > run.before - 0.03
    assert run.result.verdict.level == "answers"
    assert {"bn1.running_mean", "bn2.running_var"} <= {entry.tensor for entry in run.result.patch.entries}


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


def test_the_class_is_given_to_its_neighbours(runs):
    for method in ("boundary-shrink", "boundary-expand"):
        run = runs(method)
        assert run.forget == 0 and run.kept > 0.6, method
        assert run.model.head.weight.shape == (10, 48)


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
