"""The main job: defaults that work, honest refusal, several classes, undo, record, bad input."""

import copy
import json

import numpy as np
import pytest
import torch

import zsu_fast
from zsu_fast import Picks
from zsu_fast.unlearn import ForgetClass, model_digest


@pytest.mark.parametrize("target", [0, 3, 8])
def test_defaults(net, digits, target):
    probes, unseen, others, labels = digits.split(target)
    images = torch.cat([unseen, others])
    labels = torch.cat([torch.full((len(unseen),), target), labels])
    before = zsu_fast.evaluate(net, images, labels, target)
    assert before.forget_accuracy > 0.8 and before.retain_accuracy > 0.85
    digest = model_digest(net)
    result = zsu_fast.forget(net, target, probes)
    after = zsu_fast.evaluate(net, images, labels, target)
    assert result.reached and after.forget_accuracy <= 0.15
    assert after.retain_accuracy >= before.retain_accuracy - 0.01
    assert result.record["model"] == {"before": digest, "after": model_digest(net)}
    result.patch.revert(net)
    assert model_digest(net) == digest


def test_held_out_estimate_and_trace(conv_net, digits):
    probes = digits.split(4)[0]
    result = zsu_fast.forget(conv_net, 4, probes, path="all", until=0.3)
    assert result.after["forget_accuracy"] <= 0.3 and result.record["metrics"]["held_out"]
    tried = [t for t in result.trace if t["mode"] == result.record["mode"]]
    assert tried[0]["budget"] >= result.budget  # the largest is looked at first
    assert tried[-1]["budget"] == result.budget and tried[-1]["complete"]
    # By a margin, in units of the lead that the class had.
    assert result.after["margin"] <= -0.25 * result.before["margin"] < 0


def test_several_classes_and_several_calls(net, digits):
    digest = model_digest(net)
    x, y = digits.unseen_x, digits.unseen_y
    first = torch.isin(y, torch.tensor([1, 7]))
    both = zsu_fast.forget(net, [1, 7], x[first][:80], probe_labels=y[first][:80])
    assert both.reached
    third = zsu_fast.forget(net, 2, digits.split(2)[0])
    for target in (1, 2, 7):
        assert zsu_fast.evaluate(net, x, y, target).forget_accuracy <= 0.2
    both.patch.revert(net)
    assert zsu_fast.evaluate(net, x, y, 2).forget_accuracy <= 0.2
    third.patch.revert(net)
    assert model_digest(net) == digest


def test_unreachable_target_leaves_the_model_alone(conv_net, digits):
    probes, _, others, labels = digits.split(4)
    digest = model_digest(conv_net)
    result = zsu_fast.forget(
        conv_net, 4, probes, path="all", retain_probes=(others, labels), until=0.0, utility_floor=1.0
    )
    assert not result.reached and "below" in result.record["reason"] and "not forgotten" in result.summary()
    assert model_digest(conv_net) == digest and result.patch.entries == ()


def test_inverting_when_masking_is_not_enough(digits):
    """A classifier whose bias alone speaks for the class: zeroing its weights cannot suffice."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].weight[1] = 0.5
        net[1].bias.copy_(torch.tensor([0.0, 1.0, 0.0]))
    result = zsu_fast.forget(net, 1, digits.unseen_x[:20])
    assert result.reached and result.record["mode"] == "away"  # inputs that keep their sign: inverted
    assert not (net(digits.unseen_x).argmax(1) == 1).any()


def test_record_is_json_and_reproducible(conv_net, digits, tmp_path):
    probes = digits.split(9)[0]
    result = zsu_fast.forget(conv_net, 9, probes, seed=5)
    record = json.loads(json.dumps(result.record))
    assert record["request"]["targets"] == [9] and record["request"]["seed"] == 5
    assert record["probes"]["shape"] == list(probes.shape) and len(record["probes"]["hmac_sha256"]) == 64
    assert {"zsu_fast", "torch", "python"} <= set(record["versions"])
    result.patch.save(tmp_path / "p.safetensors")
    assert zsu_fast.Patch.load(tmp_path / "p.safetensors").record == record
    result.patch.revert(conv_net)
    again = zsu_fast.forget(conv_net, 9, probes, seed=5)
    assert again.picks == result.picks and again.record["model"] == record["model"]


def test_the_model_is_otherwise_untouched(conv_net, digits):
    conv_net.train()
    identities = [id(p) for p in conv_net.parameters()]
    random_state = torch.random.get_rng_state()
    zsu_fast.forget(conv_net, 3, digits.split(3)[0])
    assert conv_net.training and conv_net.bn1.training
    assert [id(p) for p in conv_net.parameters()] == identities
    assert all(p.grad is None for p in conv_net.parameters())
    assert torch.equal(torch.random.get_rng_state(), random_state)


def test_one_probe_and_progress(conv_net, digits):
    steps = []
    result = zsu_fast.forget(
        conv_net, 3, digits.split(3)[0][:1], progress=lambda done, total, text: steps.append((done, total, text))
    )
    assert not result.record["metrics"]["held_out"] and steps and all(d >= 0 for d, _, _ in steps)


def test_select_gives_what_forget_takes(net, digits):
    probes = digits.split(3)[0]
    digest = model_digest(net)
    picks = zsu_fast.select(net, np.int64(3), probes, budget=5)  # labels often come from numpy or torch
    assert model_digest(net) == digest
    result = zsu_fast.forget(net, torch.tensor(3), probes, budget=5)
    assert [sorted(picks.edges[3])] == list(result.picks.values())


@pytest.mark.parametrize(
    "keywords, error, text",
    [
        ({"target": 10}, ValueError, "target.*0..9.*10"),
        ({"target": -1}, ValueError, "target"),
        ({"target": "cat"}, ValueError, "target: .cat. is neither"),
        ({"target": []}, ValueError, "target"),
        ({"target": [1, 1]}, ValueError, "twice"),
        ({"target": [1, 2]}, ValueError, "probe_labels"),
        ({"probes": torch.empty(0, 1, 8, 8)}, ValueError, "probes"),
        ({"method": "magic"}, ValueError, "method.*lra-npp"),
        ({"path": "magic"}, ValueError, "path"),
        ({"mode": "magic"}, ValueError, "mode"),
        ({"preset": "magic"}, ValueError, "preset"),
        ({"budget": 1.5}, ValueError, "budget"),
        ({"budget": -1}, ValueError, "budget"),
        ({"k": 0}, ValueError, "k"),
        ({"until": 2.0}, ValueError, "until"),
        ({"utility_floor": 0.9}, ValueError, "utility_floor.*retain_probes"),
        ({"method": "channels", "score": "contrastive"}, ValueError, "contrastive.*retain_probes"),
        ({"method": "channels", "k": 5}, ValueError, "k.*share"),
        ({"probe_labels": [3]}, ValueError, "probe_labels"),
        ({"retain_probes": (torch.rand(4, 1, 8, 8), torch.tensor([3, 1, 1, 1]))}, ValueError, "retain_probes"),
        (
            {"retain_probes": (torch.rand(4, 1, 8, 8), [1, 2, 10, 0])},
            ValueError,
            "^retain_probes labels: the model has classes 0..9, got 10 at 2",
        ),
        (
            {"retain_probes": torch.rand(4, 3, 8, 8)},
            ValueError,
            r"^retain_probes: .*not take.*\(\d+, 3, 8, 8\)",
        ),
        (
            {"evaluate_on": (torch.rand(1, 64), [3])},
            ValueError,
            r"^evaluate_on: the model does not take.*\(1, 64\)",
        ),
        ({"probes": torch.ones(4, 1, 8, 8, dtype=torch.int64)}, ValueError, "^probes: the model does not take.*int64"),
        ({"target": 2**70}, ValueError, "^target: expected a class index"),
        ({"batch_size": 10**30}, ValueError, "^batch_size: .*at most 2147483647"),
        ({"mode": "gaussian", "strength": -0.5}, ValueError, "^strength: expected at least 0 for noise"),
        ({"mode": "scale"}, ValueError, "^strength: mode 'scale' needs it"),
    ],
)
def test_bad_input_is_named_and_changes_nothing(conv_net, digits, keywords, error, text):
    digest = model_digest(conv_net)
    arguments = {"target": 3, "probes": digits.split(3)[0]} | keywords
    with pytest.raises(error, match=text):
        zsu_fast.forget(conv_net, **arguments)
    assert model_digest(conv_net) == digest


@pytest.mark.parametrize(
    "picks, path, error, text",
    [
        (Picks(edges=[3]), "target", TypeError, "^picks: expected edges to be lists"),
        (Picks(neurons={"conv1": 3}), "target", TypeError, "^picks: expected neurons to be lists"),
        (Picks({3: [0]}, {"hidden": [0]}), "rows", ValueError, "^picks: path .rows. edits units of .hidden"),
    ],
)
def test_picks_written_by_hand_are_checked(conv_net, digits, picks, path, error, text):
    digest = model_digest(conv_net)
    with pytest.raises(error, match=text):
        zsu_fast.perturb_(conv_net, picks, sample=digits.split(3)[0][:1], path=path)
    assert model_digest(conv_net) == digest
    nothing = Picks({3: []}, {"conv1": []})
    assert not zsu_fast.perturb_(conv_net, nothing, sample=digits.split(3)[0][:1], path="neuron").entries


@pytest.mark.parametrize("model", [None, 3, "model", []])
def test_a_patch_is_undone_on_models_only(conv_net, digits, model):
    patch = zsu_fast.forget(conv_net, 3, digits.split(3)[0]).patch
    with pytest.raises(TypeError, match="^model: expected a torch.nn.Module or a state dict"):
        patch.revert(model)
    with pytest.raises(TypeError, match="^path: "):
        zsu_fast.Patch.load(model if model != "model" else None)


def test_lra_npp_needs_a_linear_classifier(digits):
    class Distances(torch.nn.Module):
        def forward(self, x):
            return -torch.cdist(x.flatten(1), torch.eye(10, 64))

    with pytest.raises(ValueError, match="do not come straight from a linear layer"):
        zsu_fast.forget(Distances(), 3, digits.split(3)[0])


def test_classes_by_name(conv_net, digits):
    names = [f"digit_{i}, {word}" for i, word in enumerate(["zero", "one", "two", "three", "four", "five"])]
    by_name, by_index = copy.deepcopy(conv_net), copy.deepcopy(conv_net)
    probes, fives = digits.split(3)[0], digits.split(5)[0]
    result = zsu_fast.forget(by_name, "Three", probes, class_names=names)
    zsu_fast.forget(by_index, 3, probes)
    assert model_digest(by_name) == model_digest(by_index)
    assert "class 3 (digit_3, three)" in result.verdict.sentence and "(digit_3, three)" in result.summary()
    assert result.record["request"]["class_names"] == {"3": "digit_3, three"}
    untouched = model_digest(conv_net)
    both = torch.cat([probes, fives]), [3] * len(probes) + [5] * len(fives)
    assert ForgetClass(["digit 3", 5], *both, names).name == "class 3 (digit_3, three), 5 (digit_5, five)"
    for wrong, given, error, text in (
        ("tree", names, ValueError, "target: 'tree' is neither a class index nor .*did you mean 'digit_3, three'"),
        ("three", None, ValueError, "target: 'three' is neither .*no names are known"),
        (3, "three", TypeError, "class_names: expected names in order"),
        (["three", 3], names, ValueError, "target"),
    ):
        with pytest.raises(error, match=text):
            zsu_fast.forget(conv_net, wrong, probes, class_names=given)
    with pytest.raises(TypeError, match="part of the request"):
        zsu_fast.forget(conv_net, ForgetClass(3, probes), class_names=names)
    assert model_digest(conv_net) == untouched
