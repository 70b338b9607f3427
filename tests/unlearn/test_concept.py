"""Forgetting a concept that was planted: the features no longer tell it, and the other classes keep what they had."""

import copy

import pytest
import torch

import zsu_fast
from tests.concepts.conftest import planted_net  # noqa: F401  # a fixture
from tests.concepts_data import USER, with_square
from zsu_fast.concepts import ConceptBank, concept_bank
from zsu_fast.unlearn import ForgetConcept, Patch, model_digest
from zsu_fast.unlearn.methods import methods_for


@pytest.fixture
def asked(planted_net):  # noqa: F811
    """(net, request, retain images, images that judge: the threes with the square, the others without)."""
    inside, without = planted_net.sides(0, 60)
    bank = concept_bank(planted_net.net, {"square": inside}, without)
    request = ForgetConcept("square", bank, *planted_net.sides(200, 100))
    retain = planted_net.x[400:600], planted_net.y[400:600]
    threes = with_square(planted_net.threes)
    judging = (
        torch.cat([planted_net.x[600:], threes]),
        torch.cat([planted_net.y[600:], torch.full((len(threes),), USER)]),
    )
    return copy.deepcopy(planted_net.net), request, retain, judging


def forget(asked, **options):
    net, request, retain, judging = asked
    given = {"method": "concept", "retain_probes": retain, "evaluate_on": judging, "batch_size": 128} | options
    return zsu_fast.forget(net, request, **given)


def test_the_concept_goes_and_the_others_stay(asked, tmp_path):
    net, request, _, _ = asked
    digest = model_digest(net)
    with torch.no_grad():
        assert (
            net(request.images).argmax(1) == USER
        ).float().mean() > 0.5  # the square alone makes most digits a three
    result = forget(asked)
    assert result.verdict.level == "features" and result.verdict.forgotten, result.summary()
    assert result.before["forget_accuracy"] >= 0.95 and result.after["forget_accuracy"] <= 0.6
    evaluation = result.record["evaluation"]
    assert evaluation["before"]["refitted"] >= 0.95 and evaluation["after"]["refitted"] <= 0.6
    assert evaluation["before"]["others"]["accuracy"] - evaluation["after"]["others"]["accuracy"] <= 0.02
    assert result.record["request"]["used_by"] == [USER] and result.record["request"]["layer"] == "head"
    assert evaluation["before"]["users"]["accuracy"] > 0.9 > 0.5 > evaluation["after"]["users"]["accuracy"]
    assert "the classes that use it" in result.verdict.sentence and "told apart by the concept" in result.summary()
    with torch.no_grad():
        assert (net(request.images).argmax(1) == USER).float().mean() < 0.1
    result.patch.save(tmp_path / "undo.safetensors")
    Patch.load(tmp_path / "undo.safetensors").revert(net)
    assert model_digest(net) == digest


def test_masks_are_exact_where_they_reach_the_aim(asked):
    result = forget(asked, edit="masks", until=0.75, utility_floor=0.5)
    assert result.patch.entries and result.picks, result.summary()
    assert all(claim["claim"].startswith("zero for every") for claim in result.certificate["units"])
    assert result.verdict.level in ("not judged", "features")


def test_relevance_finds_better_masks_than_chance(asked):
    """At equal size the units that relevance ranks first take more of the concept than units drawn at random."""
    net, request, retain, _ = asked
    picks = zsu_fast.select(
        net, request, method="concept", edit="masks", layers=["conv1"], budget=6, retain_probes=retain
    )
    assert len(picks) == 6 and set(picks.neurons) == {"conv1"}
    draws = [torch.randperm(16, generator=torch.Generator().manual_seed(seed))[:6].tolist() for seed in range(6)]
    told = []
    for units in [picks.neurons["conv1"], *draws]:
        edited = copy.deepcopy(net)
        zsu_fast.perturb_(edited, zsu_fast.Picks(neurons={"conv1": units}), sample=request.images[:1])
        with torch.no_grad():
            told.append((edited(request.images).argmax(1) == USER).float().mean().item())
    assert told[0] < sum(told[1:]) / len(draws)


def test_at_that_price_nothing_is_done(asked):
    before = model_digest(asked[0])
    result = forget(asked, utility_floor=1.0)
    assert result.verdict.level == "not reached" and model_digest(asked[0]) == before


def test_a_concept_that_the_layer_does_not_know_is_invalid(asked, planted_net):  # noqa: F811
    net, request, _, _ = asked
    result = zsu_fast.forget(
        net, ForgetConcept("square", request.bank, planted_net.x[:60], planted_net.x[60:120]), method="concept"
    )
    assert result.verdict.level == "invalid" and "does not know it" in result.verdict.sentence


def test_twenty_images_are_too_few_to_judge(asked):
    net, request, retain, _ = asked
    few = ForgetConcept("square", request.bank, request.images[:10], request.without[:10], used_by=USER)
    result = zsu_fast.forget(net, few, method="concept", retain_probes=retain)
    assert result.verdict.level in ("not judged", "not reached")


def test_the_same_twice_gives_the_same_bits(asked):
    nets = [asked[0], copy.deepcopy(asked[0])]
    digest = model_digest(nets[0])
    for net in nets:
        forget((net, *asked[1:]), utility_floor=0.0, budget=1)
    assert digest != model_digest(nets[0]) == model_digest(nets[1])


def test_what_is_wrong_is_named(asked):
    net, request, _, _ = asked
    images, without, bank = request.images, request.without, request.bank
    for arguments, text in (
        (("circle", bank, images, without), "concept: the bank has square, got 'circle'"),
        (("square", bank, images[:5], without), "images: expected at least 10 images, got 5"),
        (("square", bank, images, images), "without: 100 of them are among the images with the concept"),
        (("square", bank, images, without[:, :1]), "without: expected images like those"),
        (("square", bank, images, without, -1), "target: expected a class index >= 0"),
    ):
        with pytest.raises(ValueError, match=text):
            ForgetConcept(*arguments)
    with pytest.raises(TypeError, match="bank: expected a ConceptBank"):
        ForgetConcept("square", None, images, without)
    with pytest.raises(ValueError, match="takes requests to forget class, got ForgetConcept; of that kind: concept"):
        zsu_fast.forget(net, request)
    with pytest.raises(ValueError, match="the model has classes 0..9, got 10"):
        zsu_fast.forget(net, ForgetConcept("square", bank, images, without, 10), method="concept")
    assert methods_for("concept") == ["concept"]
    wide = torch.nn.functional.pad(bank.vectors, (0, 3))
    other = ConceptBank(bank.names, wide, bank.offsets, bank.layer, bank.evidence)
    with pytest.raises(ValueError, match="bank: its vectors have 51 values, the layer 'head' of this model 48"):
        zsu_fast.forget(net, ForgetConcept("square", other, images, without), method="concept")


def test_more_with_than_without():
    """Of the larger side as many as of the smaller, spread over it."""
    bank = ConceptBank(("a",), torch.ones(1, 4), torch.zeros(1), "fc", ({},))
    request = ForgetConcept("a", bank, torch.arange(30.0)[:, None], torch.arange(100.0, 112)[:, None])
    assert len(request.images) == len(request.without) == 12 and request.probe_labels.tolist() == [1] * 12 + [0] * 12
    assert request.images[0] == 0 and request.images[-1] == 29
