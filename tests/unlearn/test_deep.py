"""Method "deep": its parts held against formulas by hand, its whole against what it promises, its effect on four."""

import copy
from collections import OrderedDict
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zsu_fast
from zsu_fast.evaluate import linear_probe, prototype_row
from zsu_fast.evaluate.probe import features_and_logits
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn import Patch, model_digest
from zsu_fast.unlearn.methods import find_method
from zsu_fast.unlearn.methods import views as views_module
from zsu_fast.unlearn.methods.deep import FLOOR, _shifted, _Still, kept_span, own_directions, silence
from zsu_fast.unlearn.methods.entry_module import entered, entry_module, inputs_kept
from zsu_fast.unlearn.methods.views import views
from zsu_fast.unlearn.structure import Head

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES, TARGET = (1, 4, 8, 9), 3  # digits that look alike, of which the nine goes
# Enough steps to see what is promised of every edit; what it comes to is the last test's.
FEW = {"steps": 20, "views": 2, "budget": 1, "folds": 1}


@pytest.fixture(scope="module")
def four(digits):
    """The four classes: 360 images to fit on, and unseen ones."""
    images, labels = torch.cat([digits.x, digits.unseen_x]), torch.cat([digits.y, digits.unseen_y])
    numbers = torch.tensor([CLASSES.index(y) if y in CLASSES else -1 for y in labels.tolist()])
    x, y = images[numbers >= 0], numbers[numbers >= 0]
    return replace(digits, x=x[:360], y=y[:360], unseen_x=x[360:], unseen_y=y[360:])


def fit(net, x, y, steps=150):
    optimizer, draw = torch.optim.Adam(net.parameters(), 5e-3), generator(1)
    for _ in range(steps):
        batch = torch.randint(len(x), (128,), generator=draw)
        optimizer.zero_grad()
        F.cross_entropy(net.train()(x[batch]), y[batch]).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def trained(four):
    torch.manual_seed(0)
    parts = OrderedDict(
        conv=nn.Conv2d(1, 16, 3, padding=1, bias=False), norm=nn.BatchNorm2d(16), relu=nn.ReLU(), pool=nn.MaxPool2d(2),
        flat=nn.Flatten(), wide=nn.Linear(256, 64), relu2=nn.ReLU(), hidden=nn.Linear(64, 32), relu3=nn.ReLU(),
        head=nn.Linear(32, 4),
    )  # fmt: skip
    return fit(nn.Sequential(parts), four.x, four.y)


@pytest.fixture
def net(trained):
    return copy.deepcopy(trained)


def accuracy(model, images, labels):
    with torch.no_grad():
        return (model(images).argmax(1) == labels).double().mean().item()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=generator(seed), dtype=dtype)


def forget(model, four, method="deep", **options):
    """With 30 unseen images of the class and 60 of others; judged on the rest of the class."""
    probes, own, others, labels = four.split(TARGET)
    given = {"retain_probes": (others[:60], labels[:60]), "evaluate_on": (own, torch.full((len(own),), TARGET))}
    few = FEW if method == "deep" else {}
    return zsu_fast.forget(model, TARGET, probes, method=method, **(given | few | options))


# --- the span of what is kept


@pytest.mark.parametrize("targets", [(3,), (0, 2, 5)])
def test_the_span_is_that_of_all_differences_of_kept_rows(targets):
    rows = drawn(7, 20)
    kept = [row for c, row in enumerate(rows.numpy()) if c not in targets]
    pairs = np.array([a - b for a in kept for b in kept])
    span = kept_span(rows, targets).numpy()
    assert span.shape == (len(kept) - 1, 20) and np.linalg.matrix_rank(pairs) == len(span)
    np.testing.assert_allclose(span @ span.T, np.eye(len(span)), atol=1e-12)
    np.testing.assert_allclose(span.T @ span, np.linalg.pinv(pairs) @ pairs, atol=1e-12)


def test_dependent_rows_span_less_and_one_row_nothing():
    rows = drawn(6, 9)
    rows[4] = 0.3 * rows[1] + 0.7 * rows[2]  # on the line between two others
    rows[5] = rows[1]
    assert len(kept_span(rows, (0,))) == 2
    assert kept_span(rows[:2], (1,)).shape == (0, 9)  # of two classes one is kept: nothing to tell apart
    assert len(kept_span(drawn(12, 5), (0,))) == 5  # never more than there are features


# --- the loss


@pytest.mark.parametrize(("images", "kept"), [(40, 4), (6, 4), (15, 1)])
def test_the_loss_by_hand(images, kept):
    width, pressure, contrast = 12, 0.3, 0.7
    rows, before, wanted = drawn(kept, width), drawn(50, width, seed=1), drawn(images, width, seed=2)
    found = drawn(images, width, seed=3)
    span, every = kept_span(rows, ()), torch.cat([rows, drawn(2, width, seed=4)])
    own = own_directions(every, (kept, kept + 1), span)
    loss = _Still(span, own, before).loss(found, wanted, pressure, contrast).item()
    known = span.numpy()
    part = (before.numpy() - before.numpy().mean(0)) @ (known.T if len(known) else np.eye(width))
    energy = np.square(part).sum(1).mean()
    error = np.square((found - wanted).numpy() @ known.T).sum(1).mean() / energy
    across = np.eye(width) - known.T @ known
    covariance = across @ np.cov(found.numpy().T, bias=True) @ across / (energy / part.shape[1])
    # Of two rows that the span does not hold: the variance in what they add to it.
    both = np.vstack([rows.numpy() - rows.numpy().mean(0), every[kept:].numpy() - rows.numpy().mean(0)])
    added = np.linalg.pinv(both) @ both - known.T @ known
    read = np.trace(added @ np.cov(found.numpy().T, bias=True)) / (energy / part.shape[1])
    # In the span, where it has nothing, the floor alone counts; Sylvester's constant is that of the sizes.
    volume = np.linalg.slogdet(covariance + FLOOR * np.eye(width))[1] - len(known) * np.log(FLOOR)
    constant = (images - (width - len(known))) * np.log(FLOOR)
    assert loss == pytest.approx(error + contrast * read + pressure * (volume + constant) / (width - len(known)))


@pytest.mark.parametrize("targets", [(3,), (0, 2)])
def test_own_directions_are_what_the_rows_of_the_class_add_to_the_span(targets):
    rows = drawn(7, 20)
    span = kept_span(rows, targets)
    own = own_directions(rows, targets, span)
    assert own.shape == (len(targets), 20)
    torch.testing.assert_close(own @ own.T, torch.eye(len(own), dtype=own.dtype))
    assert (own @ span.T).abs().max() < 1e-12
    kept = rows[[c for c in range(7) if c not in targets]].mean(0)
    told = (rows[list(targets)] - kept) @ (torch.eye(20, dtype=own.dtype) - span.T @ span - own.T @ own)
    assert told.abs().max() < 1e-12


def test_a_row_that_the_span_holds_has_no_direction_of_its_own():
    rows = drawn(5, 9)
    rows[4] = 0.3 * rows[1] + 0.7 * rows[2]
    assert own_directions(rows, (4,), kept_span(rows, (4,))).shape == (0, 9)


def test_where_nothing_lies_across_the_span_only_the_error_counts():
    rows, wanted = drawn(6, 5), drawn(30, 5, seed=1)
    still = _Still(kept_span(rows, ()), rows[:0], wanted)
    found = drawn(30, 5, seed=2)
    expected = np.square((found - wanted).numpy()).sum(1).mean() / wanted.numpy().var(0).sum()
    assert still.across == 0 and still.loss(found, wanted, 9.0, 9.0).item() == pytest.approx(expected)


def test_less_across_the_span_is_a_smaller_loss_and_what_is_equal_everywhere_costs_nothing():
    span, wanted = kept_span(drawn(3, 8), ()), drawn(30, 8, seed=1)
    still, inside = _Still(span, span[:0], wanted), wanted @ span.T @ span
    across = wanted - inside

    def loss(found):
        return still.loss(found, wanted, 1.0, 1.0).item()

    losses = [loss(inside + share * across) for share in (0.0, 0.01, 0.1, 1.0, 10.0)]
    assert losses == sorted(losses) and len({*losses}) == 5
    assert loss(wanted + across[0]) == pytest.approx(loss(wanted))


# --- what is aimed at


def test_images_of_the_class_go_to_the_centre_of_their_look_alikes():
    values = torch.tensor([[0.0, 0], [2, 0], [9, 9], [10, 4], [20, 6], [5, 5]])
    #                       two look like class 1, one like class 2, of which none is kept, and then 3; kept: 1, 1, 3
    like = torch.tensor([1, 1, 2, 1, 1, 3])
    logits = F.one_hot(like, 4).float()
    logits[:, 0] = 5.0  # the target's own logit says nothing
    logits[2, 3] = 0.5
    forgotten = torch.tensor([True, True, True, False, False, False])
    for share in (0.0, 0.5, 1.0):
        expected = values.clone()
        expected[:2] += share * (torch.tensor([15.0, 5.0]) - torch.tensor([1.0, 0.0]))
        expected[2] += share * (torch.tensor([5.0, 5.0]) - torch.tensor([9.0, 9.0]))
        assert torch.equal(_shifted(values, logits, forgotten, (0,), share), expected)


# --- the logit of the class


@pytest.mark.parametrize("targets", [(0,), (4,), (1, 2, 5)])
@pytest.mark.parametrize("kind", ["linear", "without bias", "1x1 conv"])
def test_the_logit_of_the_class_is_never_the_largest(kind, targets):
    torch.manual_seed(0)
    net = nn.Linear(16, 6, bias=kind != "without bias") if kind != "1x1 conv" else nn.Conv2d(16, 6, 1)
    before = copy.deepcopy(net)
    bias = None if kind == "without bias" else "bias"
    head = Head("", "weight", bias, [*range(6)], 16, None, None, [])
    inputs = drawn(2000, 16, dtype=torch.float32) * torch.logspace(-6, 6, 2000)[:, None]
    inputs = inputs[:, :, None, None] if kind == "1x1 conv" else inputs
    with torch.no_grad():
        silence(Tensors(net), head, targets, before(inputs[1000:1200]).flatten(1))
        logits = net(inputs).flatten(1)
    kept = [c for c in range(6) if c not in targets]
    assert not torch.isin(logits.argmax(1), torch.tensor(targets)).any()
    assert torch.equal(net.weight[kept], before.weight[kept])
    mean = before.weight[kept].mean(0).expand_as(net.weight[list(targets)])
    torch.testing.assert_close(net.weight[list(targets)], mean, rtol=0, atol=0)
    if bias:
        assert (net.bias[list(targets)] < before.bias[kept].mean()).all()


# --- views


def test_views_are_the_images_and_variants_of_them():
    images, flips = torch.rand(3, 2, 16, 24), torch.tensor([True, True, False])
    found = views(images, 5, generator(), flips)
    assert found.shape == (15, 2, 16, 24) and torch.equal(found[:3], images)
    assert torch.equal(found, views(images, 5, generator(), flips))
    assert not torch.equal(found, views(images, 5, generator(1), flips))
    assert torch.equal(views(images, 1, generator(), flips), images)
    # Every variant is one of the flips and shifts there are, mirrored at the borders; the last image is not flipped.
    padded = F.pad(images, (3, 3, 2, 2), mode="reflect")
    shifted = [padded[:, :, y : y + 16, x : x + 24] for y in range(5) for x in range(7)]
    known, mirrored = torch.stack(shifted), torch.stack(shifted).flip(4)
    seen = torch.zeros(2, 3, dtype=torch.bool)
    for variant in found.view(5, 3, 2, 16, 24):
        kinds = torch.stack([(kind == variant).flatten(2).all(2).any(0) for kind in (known, mirrored)])
        assert kinds.any(0).all()
        seen |= kinds
    assert seen.tolist() == [[True] * 3, [True, True, False]]


@pytest.mark.parametrize("size", [(1, 1), (7, 3), (8, 9)])
def test_views_of_small_images(size):
    images = torch.rand(4, 1, *size)
    found = views(images, 6, generator(), torch.ones(4, dtype=torch.bool))
    assert found.shape == (24, 1, *size) and {*found.unique().tolist()} <= {*images.unique().tolist()}


def test_views_of_other_inputs_are_mixed():
    inputs = torch.eye(4)
    found = views(inputs, 3, generator())
    assert found.shape == (12, 4) and torch.equal(found[:4], inputs)
    torch.testing.assert_close(found.sum(1), torch.ones(12))  # between two of them
    assert ((found > 0).sum(1) <= 2).all() and views(torch.rand(2, 5, 7), 4, generator()).shape == (8, 5, 7)
    words = torch.arange(6).view(2, 3)
    assert torch.equal(views(words, 4, generator()), words)  # between two words there is none


def test_views_as_many_as_the_memory_holds(monkeypatch):
    images = torch.rand(2, 1, 8, 8)
    monkeypatch.setattr(views_module, "MEMORY", 3 * images.nbytes + 1)
    assert len(views(images, 20, generator())) == 6
    monkeypatch.setattr(views_module, "MEMORY", 1)
    assert torch.equal(views(images, 20, generator()), images)


# --- where to enter


class Residual(nn.Module):
    def __init__(self, around=False, by_count=False, twice=False):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.head = nn.Linear(6, 6), nn.Linear(6, 3)
        self.block = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
        self.around, self.by_count, self.twice = around, by_count, twice

    def forward(self, x):
        out = F.relu(self.stem(x))
        for _ in range(2 if self.twice else 1):
            out = out + self.block(out) if not self.around else self.block(out)
        if self.around:
            out = out + x
        if self.by_count:
            out = out / len(x)
        return self.head(out)


class Stage(nn.Module):
    """A skip connection around the block, but none around the stage."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.stage, self.head = nn.Linear(6, 6), Residual(), nn.Linear(3, 3)

    def forward(self, x):
        return self.head(F.relu(self.stage(F.relu(self.stem(x)))))


def entry(net, layer, sample=None):
    def run(images):
        with torch.no_grad():
            return net(images)

    return entry_module(net, layer, run, drawn(2, 6, dtype=torch.float32) if sample is None else sample)


def test_the_innermost_module_that_all_passes_through():
    net = Stage()
    assert entry(net, "head") == "head" and entry(net, "stage.head") == "stage.head"
    assert entry(net, "stage.block.0") == entry(net, "stage.block.2") == "stage"
    images = drawn(7, 6, dtype=torch.float32)
    with inputs_kept(net.stage) as kept:
        wanted = net(images)
    with entered(net.stage, kept[0]):
        assert torch.equal(net(images[:1]), wanted)
    assert torch.equal(net(images), wanted) and not net.stage._forward_pre_hooks


@pytest.mark.parametrize("way", ["around", "by_count", "twice"])
def test_no_entry_where_something_else_passes_by_or_it_runs_twice(way):
    assert entry(Residual(**{way: True}), "block.0") is None


def test_equal_images_do_not_hide_what_passes_by():
    assert entry(Residual(around=True), "block.0", torch.ones(2, 6)) is None


def test_flipped_is_what_the_model_answers_alike(net, four, monkeypatch):
    """A mirrored nine is none to a net that never saw one; a mirrored eight is an eight."""
    given = []

    def spy(images, count, generator, flips):
        given.append((images, flips))
        return views(images, count, generator, flips)

    monkeypatch.setattr("zsu_fast.unlearn.methods.deep.views", spy)
    before = copy.deepcopy(net)
    forget(net, four, steps=1)
    ((images, flips),) = given
    with torch.no_grad():
        assert torch.equal(flips, before(images).argmax(1) == before(images.flip(3)).argmax(1))
    assert 0 < flips.float().mean() < 1


def test_with_and_without_an_entry_the_same_is_learned(net, four, monkeypatch):
    other = copy.deepcopy(net)
    forget(net, four, layers=("hidden",))
    monkeypatch.setattr("zsu_fast.unlearn.methods.deep.entry_module", lambda *_: None)
    forget(other, four, layers=("hidden",))
    for one, two in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


# --- what is promised of every edit


def test_the_same_seed_gives_the_same_bits_and_the_patch_undoes_them(net, four, tmp_path):
    digest, twin, other = model_digest(net), copy.deepcopy(net), copy.deepcopy(net)
    result = forget(net, four)
    edited = model_digest(net)
    forget(twin, four), forget(other, four, seed=1)
    assert edited == model_digest(twin) != model_digest(other) and edited != digest
    assert all(module.training is False for module in net.modules())
    result.patch.save(tmp_path / "patch.safetensors")
    patch = Patch.load(tmp_path / "patch.safetensors")
    patch.revert(net)
    assert model_digest(net) == digest
    patch.apply_(net)
    assert model_digest(net) == edited
    assert result.record["request"]["method"] == "deep" and result.verdict.judged_by == "evaluation images"


def test_only_the_layers_that_learn_and_the_row_of_the_class_change(net, four):
    before = copy.deepcopy(net.state_dict())
    forget(net, four, layers=("conv",))
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"conv.weight", "norm.weight", "norm.bias", "head.weight", "head.bias"}
    rows = (net.head.weight != before["head.weight"]).any(1) | (net.head.bias != before["head.bias"])
    assert rows.nonzero()[:, 0].tolist() == [TARGET]


def test_by_default_the_last_third_of_the_layers_learns_at_least_four(four):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), *(nn.Linear(64, 64) for _ in range(6)), nn.Linear(64, 4))
    result = forget(fit(net, four.x, four.y, 40), four, steps=3)
    assert {entry.tensor.split(".")[0] for entry in result.patch.entries} == {"3", "4", "5", "6", "7"}


def test_steps_by_default_more_where_no_norms_stand(net, four):
    counts = []
    torch.manual_seed(0)
    plain = fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4)), four.x, four.y)
    for model in (net, plain):
        record = forget(model, four, steps=None, train_batch_size=8).record
        counts.append((record["request"]["steps"], record["cost"]["relevance_images"] / 8))
    assert counts == [(75, pytest.approx(75, rel=0.15)), (225, pytest.approx(225, rel=0.15))]


@pytest.mark.parametrize("shape", ["pictures", "rows"])
def test_what_is_held_out_has_no_part(net, four, monkeypatch, shape):
    """Pictures are run once for all folds; other inputs are mixed with each other: each fold has its own variants."""
    method, seen = find_method("deep"), []
    learn = method._learn

    def spy(self, student, given, pool, weight):
        seen.append(pool)
        return learn(self, student, given, pool, weight)

    monkeypatch.setattr(method, "_learn", spy)
    monkeypatch.setattr("zsu_fast.unlearn.methods.deep.entry_module", lambda *_: None)
    if shape == "rows":
        net = nn.Sequential(OrderedDict(shape=nn.Unflatten(1, (1, 8, 8)), net=net))
        four = replace(four, unseen_x=four.unseen_x.flatten(1))
    result = forget(net, four, folds=3, steps=2, views=3, evaluate_on=None)
    assert result.verdict.judged_by == "held-out probes"
    whole, *parts = (pool.inputs.unflatten(0, (3, -1)) for pool in seen)  # [views, images, ...]
    assert whole.shape[1] == 90 and seen[0].forgotten.tolist() == 3 * (30 * [True] + 60 * [False])
    held_out = []
    for part, pool in zip(parts, seen[1:], strict=True):
        learned = {bytes(image) for image in part[0].numpy()}
        numbers = [n for n, image in enumerate(whole[0].numpy()) if bytes(image) in learned]
        held_out += sorted({*range(90)} - {*numbers})
        assert torch.equal(part[0], whole[0, numbers])
        assert pool.forgotten.tolist() == 3 * [n < 30 for n in numbers]
        if shape == "pictures":
            assert torch.equal(part, whole[:, numbers])
        else:  # each on the way from itself to another one that the fold has
            ways = F.normalize(part[0][None] - part[0][:, None], dim=2)  # [image, another, 64]
            gone = part[1:] - part[0]
            along = torch.einsum("vid,ijd->vij", F.normalize(gone, dim=2), ways).amax(2)
            assert (along[gone.norm(dim=2) > 1e-3] > 0.9999).all() and (gone.norm(dim=2) > 1e-3).float().mean() > 0.9
    assert sorted(held_out) == list(range(90)) and len(parts) == 3


def test_the_pressure_falls_where_the_floor_breaks(net, four):
    digest = model_digest(net)
    for pressure, level in ((1000.0, "not reached"), (40.0, "answers")):
        result = forget(net, four, pressure=pressure, utility_floor=0.95, steps=120, budget=None)
        tried = [*dict.fromkeys(step["mode"] for step in result.record["search"])]
        assert tried == [f"pressure {pressure / 4**attempt:g}" for attempt in range(3)]
        assert result.verdict.level == level and (model_digest(net) == digest) == (level == "not reached")
    assert result.record["mode"] == "pressure 2.5" and result.record["metrics"]["after"]["retain_accuracy"] > 0.95


@pytest.mark.parametrize("kind", ["channels_last", "float64", "without bias", "1x1 conv"])
def test_other_models(net, four, kind):
    if kind == "channels_last":
        net = net.to(memory_format=torch.channels_last)
    elif kind == "float64":
        net, four = net.double(), replace(four, unseen_x=four.unseen_x.double())
    elif kind == "without bias":
        net.head.bias = None
        fit(net, four.x, four.y, 30)
    else:
        net.head = nn.Sequential(nn.Unflatten(1, (32, 1, 1)), nn.Conv2d(32, 4, 1), nn.Flatten())
        fit(net, four.x, four.y, 30)
    digest = model_digest(net)
    result = forget(net, four)
    with torch.no_grad():
        answers = net(four.unseen_x).argmax(1)
    assert not (answers == TARGET).any() and result.verdict.level == "answers"
    kept = four.unseen_y != TARGET
    assert accuracy(net, four.unseen_x[kept], four.unseen_y[kept]) > 0.9
    result.patch.revert(net)
    assert model_digest(net) == digest


def test_of_two_classes_one_remains(four):
    """Nothing is left to tell apart: no direction is kept, and the model has one answer."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 2))
    two = four.unseen_y < 2
    x, y = four.unseen_x[two], four.unseen_y[two]
    fit(net, x, y, 60)
    zsu_fast.forget(net, 1, x[y == 1], retain_probes=(x[y == 0], y[y == 0]), method="deep", **FEW)
    assert (net(x).argmax(1) == 0).all()


# --- refusals


def test_divergence_names_the_learning_rate_and_changes_nothing(net, four):
    digest = model_digest(net)
    with pytest.raises(ValueError, match="^learning_rate: "):
        forget(net, four, learning_rate=1e30)
    assert model_digest(net) == digest


@pytest.mark.parametrize("name, value, kind", [
    ("pressure", 0, ValueError), ("shift", -1, ValueError), ("steps", 0, ValueError), ("views", 0, ValueError),
    ("train_batch_size", 1, ValueError), ("folds", 0, ValueError), ("learning_rate", "a", TypeError),
    ("layers", ("head",), ValueError), ("layers", ("absent",), ValueError),
])  # fmt: skip
def test_bad_options_are_named(net, four, name, value, kind):
    with pytest.raises(kind, match=f"^{name}: "):
        forget(net, four, **{name: value})


def test_what_it_needs_is_asked_for(net, four):
    probes = four.split(TARGET)[0]
    with pytest.raises(ValueError, match="method: 'deep' needs retain_probes"):
        zsu_fast.forget(net, TARGET, probes, method="deep")
    with pytest.raises(ValueError, match="has none"):
        forget(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), four)


# --- what it comes to


def test_the_features_forget_where_cutting_the_row_leaves_them_as_they_were(trained, four):
    _, own, others, labels = four.split(TARGET)
    own_truth = torch.full((len(own),), TARGET)
    judging, truth = torch.cat([own, others[60:]]), torch.cat([own_truth, labels[60:]])
    probed, row = {}, {}
    for method, options in (("lra-npp", {}), ("deep", {"pressure": 1.0, "steps": 300, "views": 6})):
        model = copy.deepcopy(trained)
        assert forget(model, four, method, **options).verdict.level == "answers"
        shown, answers = features_and_logits(model, four.x)
        seen, logits = features_and_logits(model, judging)
        probed[method] = linear_probe(shown, four.y, seen, truth, TARGET)
        row[method] = prototype_row(shown, four.y, answers, seen, truth, logits, TARGET)
        assert accuracy(model, others[60:], labels[60:]) > accuracy(trained, others[60:], labels[60:]) - 0.01
    assert probed["deep"].forget_accuracy < 0.9 < 0.95 < probed["lra-npp"].forget_accuracy
    assert row["deep"].forget_accuracy < 0.5 < 0.9 < row["lra-npp"].forget_accuracy
    # An attacker who takes the others for the class has it back of any features: theirs must not suffer.
    assert probed["deep"].retain_accuracy > 0.9 and row["deep"].retain_accuracy > 0.9
