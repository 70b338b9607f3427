"""Depth of forgetting on a net of which is known what it forgot: an original, its classifier cut, one retrained."""

import copy
import json
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from zsu_fast.evaluate import Attacker, compare, depth, share_of_the_way
from zsu_fast.evaluate.attacks import row_from
from zsu_fast.evaluate.fresh_row import classifier_of, row_for
from zsu_fast.evaluate.probe import features_and_logits
from zsu_fast.model.tensors import model_digest

CLASSES = 4
FAST = [("adam", 1e-2), ("sgd", 1e-1)]


def images(seed, each=60):
    """Class 3 lies where classes 0 and 1 overlap in the first two pixels; the third tells it from them."""
    centres = torch.tensor([[4.0, 0, 0, 0], [0, 4.0, 0, 0], [0, 0, 0, 4.0], [2.0, 2.0, 4.0, 0]])
    labels = torch.arange(CLASSES).repeat_interleave(each)
    return centres[labels] + torch.randn(len(labels), 4, generator=torch.Generator().manual_seed(seed)), labels


def trained(without=None):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 2 if without == 3 else 8), nn.ReLU(), nn.Linear(2 if without == 3 else 8, CLASSES))
    if without == 3:  # a net that never needed the third pixel does not see it
        with torch.no_grad():
            net[0].weight[:, 2] = 0.0
    x, y = images(0)
    x, y = (x, y) if without is None else (x[y != without], y[y != without])
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(net(x), y).backward()
        if without == 3:
            net[0].weight.grad[:, 2] = 0.0
        optimizer.step()
    return net


@pytest.fixture(scope="module")
def nets():
    original = trained()
    edited = copy.deepcopy(original)
    with torch.no_grad():
        edited[2].weight[3] = 0.0
        edited[2].bias[3] = -1e3
    return original, edited, trained(without=3)


def test_a_cut_classifier_is_no_depth(nets):
    original, edited, oracle = nets
    digests = [model_digest(net) for net in nets]
    found = depth(edited, original, images(1), images(2), 3, oracle=oracle, relearn_steps=4, relearn_by=FAST)
    assert [model_digest(net) for net in nets] == digests
    answers = found.attacks["answers"]
    assert answers.forget["edited"] == answers.forget["oracle"] == 0.0 and answers.share == 1.0 and answers.holds
    for name in ("linear probe", "nearest prototype", "10 neighbours"):  # the features are the original's
        attack = found.attacks[name]
        assert attack.forget["edited"] == attack.forget["original"] > 0.9 and attack.share == 0.0
        assert attack.interval == (0.0, 0.0) and not attack.holds and attack.retain["edited"] > 0.9
    assert found.attacks["prototype row, 5 images"].forget["edited"] > 0.8
    assert found.holds is False and found.images == 60
    json.dumps(found.to_dict(), allow_nan=False)


def test_the_oracle_holds_against_itself(nets):
    original, _, oracle = nets
    found = depth(oracle, original, images(1), images(2), 3, oracle=oracle, relearn_steps=4, relearn_by=FAST)
    assert found.holds and all(attack.holds for attack in found.attacks.values())
    assert {attack.share for attack in found.attacks.values()} <= {1.0, None}


def test_features_that_serve_nobody_have_not_forgotten(nets):
    original, _, oracle = nets
    ruined = copy.deepcopy(original)
    with torch.no_grad():
        ruined[0].weight.zero_()
    found = depth(ruined, original, images(1), images(2), 3, oracle=oracle, relearn_steps=4, relearn_by=FAST)
    probe = found.attacks["linear probe"]
    assert probe.forget["edited"] <= probe.oracle_at_most and probe.retain["edited"] < probe.others_at_least
    assert probe.others_at_least == pytest.approx(min(probe.retain["original"], probe.retain["oracle"]) - 0.02)
    assert probe.holds is False and found.holds is False


def test_stages_are_probed_and_do_not_decide(nets):
    original, _, oracle = nets
    given = {"oracle": oracle, "relearn_steps": 4, "relearn_by": FAST}
    found = depth(oracle, original, images(1), images(2), 3, stages=["0", "2"], **given)
    pixels, last = (found.attacks[f"probe before {name}"].forget for name in ("0", "2"))
    assert pixels["edited"] == pixels["original"] > 0.9  # what both nets are given
    assert last == found.attacks["linear probe"].forget
    assert depth(original, original, images(1), images(2), 3, stages=["0"], **given).holds is False
    with pytest.raises(ValueError, match="layer"):
        depth(oracle, original, images(1), images(2), 3, stages=["5"])


def test_each_model_is_attacked_once_where_edits_are_compared(nets):
    original, edited, oracle = nets
    options = {"relearn_steps": 4, "relearn_by": FAST, "stages": ["0"]}
    attacker = Attacker(images(1), images(2), 3, **options)
    before, retrained = attacker.attack(original), attacker.attack(oracle)
    for net in (edited, oracle):
        expected = depth(net, original, images(1), images(2), 3, oracle=oracle, **options)
        assert compare(attacker.attack(net), before, retrained) == expected
    with pytest.raises(ValueError, match="^attacked by another attacker"):
        compare(Attacker(images(1), images(2), 3, relearn_steps=0).attack(edited), before, retrained)
    with pytest.raises(ValueError, match="^attacked by another attacker"):
        compare(Attacker(images(1), images(2), 2, **options).attack(edited), before, retrained)
    before = Attacker(images(1), images(2), 3, relearn_steps=0).attack(original)
    again = Attacker(images(1), images(2), 3, relearn_steps=0).attack(edited)
    assert compare(again, before).attacks  # by the same one, made anew
    for other in ((images(5), images(2)), (images(1), images(5))):  # as many of each class, in the same order
        with pytest.raises(ValueError, match="^attacked by another attacker than the original: edited"):
            compare(Attacker(*other, 3, relearn_steps=0).attack(edited), before)


def test_without_an_oracle_nothing_is_said_of_how_deep(nets):
    original, edited, _ = nets
    found = depth(edited, original, images(1), images(2), 3, relearn_steps=0)
    assert found.holds is None and not any("relearning" in name for name in found.attacks)
    assert all(attack.share is None and attack.holds is None for attack in found.attacks.values())


def test_share_of_the_way():
    assert share_of_the_way(0.8, 0.8, 0.5) == 0.0
    assert share_of_the_way(0.8, 0.5, 0.5) == 1.0
    assert math.isclose(share_of_the_way(0.8, 0.65, 0.5), 0.5)
    assert share_of_the_way(0.5, 0.4, 0.5) is None


def test_of_relearning_the_strongest_setting_counts_for_each_model(nets):
    original, _, oracle = nets
    edited = copy.deepcopy(original)
    with torch.no_grad():  # cut, but not out of reach
        edited[2].weight[3] = edited[2].weight[:3].mean(0)
        edited[2].bias[3] = -5.0
    given = {"oracle": oracle, "relearn_steps": 8}
    settings = [("adam", 1e-4), ("sgd", 1e-1), ("sgd", 1e30)]  # the last one diverges
    found = depth(edited, original, images(1), images(2), 3, relearn_by=settings, **given).attacks
    alone = [
        depth(edited, original, images(1), images(2), 3, relearn_by=[one], **given).attacks for one in settings[:2]
    ]
    for name in [f"relearning{source}, {steps} steps" for source in ("", " from the others") for steps in (4, 8)]:
        for who, chosen in found[name].settings.items():
            by_setting = [(3 * single[name].retain[who] + single[name].forget[who]) / 4 for single in alone]
            had = alone[settings.index(chosen[:2])][name]
            assert had.forget[who] == found[name].forget[who] and had.retain[who] == found[name].retain[who]
            assert math.isclose((3 * had.retain[who] + had.forget[who]) / 4, max(by_setting))
    # The row that was cut comes back from the same features at once; a net that never saw the class has to learn it.
    back = found["relearning, 8 steps"].forget
    assert back["edited"] > back["oracle"]
    assert not found["relearning, 8 steps"].holds
    with pytest.raises(ValueError, match="every setting"):
        depth(edited, original, images(1), images(2), 3, relearn_by=settings[2:], **given)


def test_bad_input_is_named(nets):
    original, edited, oracle = nets
    for options, text in (
        ({"relearn_by": []}, "^relearn_by must hold"), ({"relearn_steps": -1}, "^relearn_steps"),
        ({"relearn_by": [("lion", 0.1)]}, "^relearn_by: optimizer must be one of adam, sgd"),
        ({"relearn_by": [("sgd", 0.0)]}, "^relearn_by: learning_rate must be a positive"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            depth(edited, original, images(1), images(2), 3, **options)
    x, y = images(1)
    for lessons, test, text in (
        ((x[y != 3], y[y != 3]), (x, y), "^lessons must hold images of class 3"),
        ((x, y), (x[y == 3], y[y == 3]), "^test must hold images of class 3 and of others"),
        ((x, y[:-1]), (x, y), "labels"),
        ((x, y + 1), (x, y), "lessons labels: the model has classes 0"),
    ):
        with pytest.raises(ValueError, match=text):
            depth(edited, original, lessons, test, 3, oracle=oracle)


def test_a_row_out_of_reach_is_replaced_by_a_fresh_one(nets):
    """The edit that cut the row for good has the class back at once, by its prototype; a retrained net has not."""
    original, edited, oracle = nets
    found = depth(edited, original, images(1), images(2), 3, oracle=oracle, relearn_steps=4, relearn_by=FAST).attacks
    back = found["relearning, 4 steps"]
    assert back.forget["edited"] > 0.8 and not back.holds
    assert back.settings["edited"][2] == "a fresh row"
    others = found["relearning from the others, 4 steps"]
    assert others.forget["edited"] == 0.0 and others.settings["edited"][2] == "its own row"


class Scaled(nn.Linear):
    def forward(self, x):
        return F.linear(x, 2 * self.weight, self.bias)


@pytest.mark.parametrize(
    "last, names",
    [
        (nn.Linear(8, 4), ("2.weight", "2.bias")),
        (nn.Linear(8, 4, bias=False), None),
        (Scaled(8, 4), None),  # the weights that run are no parameter
        (nn.Sequential(nn.Linear(8, 4), nn.Softplus()), None),  # and here the logits are none of its outputs
    ],
)
def test_where_a_fresh_row_can_be_put(last, names):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), last)
    assert classifier_of(net, torch.rand(1, 4)) == names
    x, y = images(1)
    put = row_for(net, x, y, 3)
    assert (put is None) == (names is None)
    if put is not None:
        before = copy.deepcopy(net)
        put(net)
        features, logits = features_and_logits(before, x)
        row, bias = row_from(features, y, logits, 3, (y == 3).nonzero()[:, 0])
        torch.testing.assert_close(net(x)[:, 3].double(), features.double() @ row + bias, atol=1e-4, rtol=1e-4)
        assert torch.equal(net(x)[:, :3], before(x)[:, :3])
