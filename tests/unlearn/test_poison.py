"""Poisoning: every formula by hand, the head against torch's own SGD, what the record says of labels and patch."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import zsu_fast
from tests.concepts.conftest import planted_net  # noqa: F401  # a fixture
from tests.concepts_data import USER, with_square
from zsu_fast.concepts import concept_bank
from zsu_fast.unlearn import ForgetClass, model_digest
from zsu_fast.unlearn.methods.poison import patches
from zsu_fast.unlearn.methods.poison.ablation import (
    BOTH,
    CUT,
    LABELS,
    ORIGINAL,
    PATCH,
    Judges,
    ablation,
    sign_test,
    split,
)
from zsu_fast.unlearn.methods.poison.head import Rates, tuned

TARGET = 3


def given(digits, count=60):
    """Training images of the class, of the others with labels, and unseen ones to judge by."""
    own, others = digits.x[digits.y == TARGET][:count], digits.y != TARGET
    return ForgetClass(TARGET, own), (digits.x[others], digits.y[others]), (digits.unseen_x, digits.unseen_y)


def poison(net, digits, **options):
    request, retain, judging = given(digits)
    return zsu_fast.forget(net, request, method="poison", retain_probes=retain, evaluate_on=judging, **options)


# --- the classifier, tuned on kept features


@pytest.mark.parametrize(("bias", "decay", "momentum"), [(True, 0.0, 0.9), (False, 0.01, 0.0), (True, 0.01, 0.5)])
def test_the_head_learns_as_under_torch(bias, decay, momentum):
    """The gradient that is written out, against autograd and torch.optim.SGD, over the same mini-batches."""
    torch.manual_seed(0)
    layer = nn.Linear(5, 4, bias=bias).double()
    x, y = torch.randn(23, 5).double(), torch.randint(4, (23,))
    rates = Rates(3, 0.1, momentum, decay, 8)
    found = tuned(layer.weight, layer.bias, x, y, rates, torch.Generator().manual_seed(1))
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum, weight_decay=decay)
    generator = torch.Generator().manual_seed(1)
    for _ in range(3):
        for where in torch.randperm(23, generator=generator).split(8):
            optimizer.zero_grad()
            F.cross_entropy(layer(x[where]), y[where]).backward()
            optimizer.step()
    torch.testing.assert_close(found[0], layer.weight.detach())
    assert (found[1] is None) == (not bias)
    if found[1] is not None:
        torch.testing.assert_close(found[1], layer.bias.detach())


def test_half_precision_is_tuned_in_float32():
    torch.manual_seed(0)
    weight, x, y = torch.randn(3, 4), torch.randn(9, 4), torch.randint(3, (9,))
    rates, draws = Rates(50, 1e-3, 0.9, 0.0, 4), lambda: torch.Generator().manual_seed(0)
    wide, _ = tuned(weight.bfloat16().float(), None, x.bfloat16().float(), y, rates, draws())
    half, none = tuned(weight.bfloat16(), None, x.bfloat16(), y, rates, draws())
    assert none is None and half.dtype == torch.bfloat16
    assert torch.equal(half, wide.bfloat16())


def test_a_head_that_diverges_is_an_error(conv_net, digits):
    before = model_digest(conv_net)
    with pytest.raises(ValueError, match="learning_rate: the classifier is infinite or NaN after epoch 1"):
        poison(conv_net, digits, learning_rate=1e38, epochs=1)
    assert model_digest(conv_net) == before


# --- patches


def test_peaks_are_the_windows_with_the_largest_sum():
    maps = torch.rand(5, 7, 9, generator=torch.Generator().manual_seed(2)) - 0.5
    found = patches.peaks(maps, (3, 2))
    for values, (y, x) in zip(maps, found.tolist(), strict=True):
        sums = {(a, b): values[a : a + 3, b : b + 2].double().sum().item() for a in range(5) for b in range(8)}
        assert sums[y, x] == pytest.approx(max(sums.values()))
    edge = torch.zeros(1, 6, 6)
    edge[0, 5, 5] = 1
    assert patches.peaks(edge, (3, 3)).tolist() == [[3, 3]]  # the window that holds it lies within the picture
    assert patches.peaks(torch.zeros(1, 6, 6), (2, 2)).tolist() == [[0, 0]]


def test_a_patch_goes_where_it_belongs_and_nowhere_else():
    images, donors = torch.zeros(2, 1, 5, 5), torch.arange(50.0).view(2, 1, 5, 5) + 1
    found = patches.pasted(images, torch.tensor([[0, 0], [3, 2]]), donors, torch.tensor([[1, 1], [0, 3]]), (2, 2))
    assert found[0, 0, :2, :2].tolist() == donors[0, 0, 1:3, 1:3].tolist()
    assert found[1, 0, 3:, 2:4].tolist() == donors[1, 0, :2, 3:].tolist()
    assert int((found != 0).sum()) == 8 and not images.any()


def test_places_of_patches():
    images = torch.zeros(400, 3, 6, 8)
    assert patches.patch_size(images, 0.5) == (3, 4) and patches.patch_size(images, 1e-6) == (1, 1)
    assert patches.centred(images, (2, 4)).unique(dim=0).tolist() == [[2, 2]]
    drawn = patches.anywhere(images, (3, 4), torch.Generator().manual_seed(0))
    assert [sorted(set(column)) for column in drawn.T.tolist()] == [[0, 1, 2, 3], [0, 1, 2, 3, 4]]


def test_a_planted_square_is_where_the_relevance_is():
    """A net that sees nothing but the brightest pixel: the peak is that pixel, wherever it lies."""
    net = nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(1, 2))
    images = torch.rand(4, 1, 6, 6) * 0.1
    for place, image in enumerate(images):
        image[0, place, place + 1] = 1
    maps = patches.relevance_maps(net.eval(), images, torch.zeros(4, dtype=torch.int64), "epsilon", 3)
    assert patches.peaks(maps.abs(), (1, 1)).tolist() == [[i, i + 1] for i in range(4)]


# --- the ablation


def test_the_sign_test_by_hand():
    assert sign_test(0, 0) == 1 and sign_test(5, 0) == 1 / 32 and sign_test(4, 1) == 6 / 32


def test_split_has_no_image_on_both_sides():
    learn, judge = split(11, torch.Generator().manual_seed(0))
    assert len(judge) == 2 and sorted(torch.cat([learn, judge]).tolist()) == list(range(11))


@pytest.mark.parametrize(("labels", "both", "said"), [
    (8, 8, "adds nothing"), (8, 4, "adds nothing"), (8, 3, "adds to"), (0, 8, "hinders"), (0, 3, "adds nothing"),
])  # fmt: skip
def test_what_the_patch_adds(labels, both, said):
    """Of 8 images the labels alone leave so many with the class, labels and patch so many: 5 in a row are no chance."""
    own = torch.eye(8), torch.zeros(8, dtype=torch.int64)
    judges = Judges(own, (torch.eye(8)[:1], torch.tensor([1])))

    def leaving(count):  # class 0 is the answer on the first of the images
        weight = torch.zeros(2, 8)
        weight[0, :count], weight[1, count:] = 1, 1
        return weight, None

    found = ablation(judges, {ORIGINAL: leaving(8), LABELS: leaving(labels), BOTH: leaving(both)})
    assert found["rows"][0] == {"edit": ORIGINAL, "forget": 1.0, "retain": 0.0}
    assert f"The patch {said}" in found["said"] and f"{labels} of 8" in found["said"]
    assert found["patch_adds"] is ("adds to" in said)


# --- the method


@pytest.mark.parametrize("labels", ["nearest", "targeted"])
def test_the_class_goes_and_only_the_classifier_changes(net, digits, labels):
    before = copy.deepcopy(net.state_dict())
    result = poison(net, digits, labels=labels, ablation=True)
    assert result.verdict.level == "answers" and result.reached
    assert "the features are what they were" in result.verdict.sentence and "not zero-shot" in result.summary()
    assert result.record["evaluation"]["after"]["forget_accuracy"] <= 0.02
    lost = (
        result.record["evaluation"]["before"]["retain_accuracy"]
        - result.record["evaluation"]["after"]["retain_accuracy"]
    )
    assert lost <= 0.01
    head = [name for name, _ in net.named_parameters()][-1].rpartition(".")[0]
    assert {entry.tensor for entry in result.patch.entries} <= {f"{head}.weight", f"{head}.bias"}
    asked = result.record["request"]
    assert asked["needs"] == ["forget images", "retain images"] and asked["zero_shot"] is False
    assert "of the class and" in asked["data"] and asked["donor"] != TARGET
    assert (asked["donor"] is None) == (labels == "nearest")
    rows = {row["edit"]: row for row in result.record["findings"]["ablation"]["rows"]}
    assert set(rows) == {ORIGINAL, LABELS, PATCH, BOTH, CUT}
    assert rows[LABELS]["forget"] <= 0.1 and rows[PATCH]["forget"] > 0.5 and rows[ORIGINAL]["forget"] > 0.8
    assert "patch adds nothing" in result.record["findings"]["ablation"]["said"]
    result.patch.revert(net)
    assert all(torch.equal(net.state_dict()[name], value) for name, value in before.items())


@pytest.mark.parametrize("options", [
    {}, {"patch": "centre"}, {"patch": "random", "side": 0.5}, {"patch": "relevance"},
    {"labels": "random", "learning_rate": 0.05},
    {"labels": "targeted", "donor": 8, "patch": "relevance", "composite": "epsilon"},
])  # fmt: skip
def test_other_forms(conv_net, digits, options):
    result = poison(conv_net, digits, until=0.1, utility_floor=0.9, **options)
    assert result.reached, result.summary()
    if "donor" in options:
        evaluation = result.record["evaluation"]["after"]
        assert result.record["request"]["donor"] == 8 and next(iter(evaluation["taken_for"])) == "8"
    assert result.record["findings"] == {}


def test_a_patch_alone_is_not_reached_and_leaves_the_model(conv_net, digits):
    before = model_digest(conv_net)
    result = poison(conv_net, digits, labels="kept", patch="relevance")
    assert result.verdict.level == "not reached" and model_digest(conv_net) == before
    assert "not zero-shot" not in result.verdict.sentence  # nothing was done


def test_a_patch_that_covers_the_class_hides_it_from_the_lesson(conv_net, digits):
    """What is learned as another class shows that class: the labels alone forget, and the record says what hinders."""
    result = poison(conv_net, digits, patch="full", labels="targeted", until=0.1, ablation=True)
    assert result.verdict.level == "not reached"
    found = result.record["findings"]["ablation"]
    assert found["patch_adds"] is False and "The patch hinders" in found["said"]


def test_several_classes(conv_net, digits):
    own, others = (digits.y == 3) | (digits.y == 5), (digits.y != 3) & (digits.y != 5)
    request = ForgetClass([3, 5], digits.x[own], digits.y[own])
    result = zsu_fast.forget(
        conv_net, request, method="poison", retain_probes=(digits.x[others], digits.y[others]), labels="targeted",
        evaluate_on=(digits.unseen_x, digits.unseen_y),
    )  # fmt: skip
    assert result.verdict.level == "answers"
    assert result.record["request"]["donor"] not in (3, 5)


def test_the_same_seed_gives_the_same_bits(conv_net, digits):
    nets = [copy.deepcopy(conv_net) for _ in range(3)]
    for net, seed in zip(nets, (0, 0, 1), strict=True):
        poison(net, digits, seed=seed, patch="centre")
    assert model_digest(nets[0]) == model_digest(nets[1]) != model_digest(nets[2])


@pytest.mark.parametrize(("options", "text"), [
    ({"labels": "targeted", "donor": TARGET}, "donor: expected a class of 0..9 that is not to be forgotten, got 3"),
    ({"labels": "targeted", "donor": 10}, "donor: expected a class of 0..9"), ({"side": 1.5}, "side: expected a share"),
    ({"donor": 2}, 'donor: labels "nearest" have none'), ({"patch": "concept"}, 'patch "concept" needs both'),
    ({"concept": "a", "bank": "b"}, 'patch "concept" needs both'),
    ({"labels": "kept", "patch": "none"}, 'labels: "kept" without a patch'),
    ({"patch": "corner"}, "patch: expected one"),
    ({"momentum": 1.0}, "momentum: expected less than 1"), ({"epochs": 0}, "epochs: expected at least 1"),
])  # fmt: skip
def test_what_is_wrong_is_named(conv_net, digits, options, text):
    before = model_digest(conv_net)
    with pytest.raises(ValueError, match=text):
        poison(conv_net, digits, **options)
    assert model_digest(conv_net) == before


def test_labelled_images_of_others_are_needed(conv_net, digits):
    with pytest.raises(ValueError, match="'poison' needs retain_probes"):
        zsu_fast.forget(conv_net, TARGET, digits.x[digits.y == TARGET], method="poison")
    few = digits.y == 7
    with pytest.raises(ValueError, match="donor: retain_probes hold no image of class"):
        zsu_fast.forget(
            conv_net, TARGET, digits.x[digits.y == TARGET], method="poison", donor=8,
            labels="targeted", patch="centre", retain_probes=(digits.x[few], digits.y[few]),
        )  # fmt: skip


def test_each_image_is_learned_as_what_it_looks_like(conv_net, digits):
    """One label for all makes nearly all one answer; nearest labels spread them like the net's own second answers."""
    nets = {labels: copy.deepcopy(conv_net) for labels in ("nearest", "targeted")}
    found = {labels: poison(net, digits, labels=labels).record["evaluation"]["after"] for labels, net in nets.items()}
    most = {labels: next(iter(one["taken_for"].values())) for labels, one in found.items()}
    assert most["nearest"] < most["targeted"]
    own = digits.unseen_x[digits.unseen_y == TARGET]
    with torch.no_grad():
        before, after = conv_net(own), nets["nearest"](own)
    before[:, TARGET] = -torch.inf
    assert (before.argmax(1) == after.argmax(1)).float().mean() > 0.7


def test_patches_go_where_a_concept_is(planted_net, tmp_path):  # noqa: F811
    """Of threes with a red square in the corner that is replaced: they were known by it, so nothing is learned."""
    inside, without = planted_net.sides(0, 60)
    concept_bank(planted_net.net, {"square": inside}, without).save(tmp_path / "bank.safetensors")
    threes, net = with_square(planted_net.threes), copy.deepcopy(planted_net.net)
    seen = []

    def note(images, at, donors, donors_at, size):
        seen.append(at)
        return pasted(images, at, donors, donors_at, size)

    pasted = patches.pasted
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(patches, "pasted", note)
        bank = str(tmp_path / "bank.safetensors")
        result = zsu_fast.forget(
            net, USER, threes, method="poison", patch="concept", concept="square", bank=bank,
            retain_probes=(planted_net.x, planted_net.y), evaluate_on=(threes, torch.full((len(threes),), USER)),
        )  # fmt: skip
    assert result.verdict.level == "not reached"
    assert (seen[0].max(1).values <= 1).float().mean() > 0.8


def test_layers_that_learn_too(conv_net, digits):
    before = copy.deepcopy(conv_net.state_dict())
    result = poison(conv_net, digits, layers=["conv2", "hidden"], epochs=2, labels="targeted")
    assert result.reached, result.summary()
    edited = {entry.tensor for entry in result.patch.entries}
    assert {"conv2.weight", "bn2.weight", "hidden.weight", "head.weight"} <= edited
    assert not edited & {"conv1.weight", "bn1.weight", "bn2.running_mean"}
    assert "not zero-shot" in result.verdict.sentence and "bit for bit" not in result.verdict.sentence
    result.patch.revert(conv_net)
    assert all(torch.equal(conv_net.state_dict()[name], value) for name, value in before.items())
    with pytest.raises(
        ValueError, match="layers: no layer 'head' before the classifier; there are conv1, conv2, hidden"
    ):
        poison(conv_net, digits, layers=["head"])
