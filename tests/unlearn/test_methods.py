"""Requests, the registry of methods, their options; what a search costs; which edit is taken."""

import math
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from typing import ClassVar

import numpy as np
import pytest
import torch

import zsu_fast
from zsu_fast.unlearn import ForgetClass, method_names, method_options, methods, model_digest
from zsu_fast.unlearn.measure import Measurement
from zsu_fast.unlearn.methods import LraNpp, find_method
from zsu_fast.unlearn.options import Options, option
from zsu_fast.unlearn.shard import Shard
from zsu_fast.unlearn.transaction import transact


def test_a_request_and_its_short_form(conv_net, digits):
    probes = digits.split(3)[0]
    short = zsu_fast.select(conv_net, 3, probes, budget=5)
    assert short == zsu_fast.select(conv_net, ForgetClass(np.int64(3), probes), budget=5)
    with pytest.raises(TypeError, match="probes: part of the request"):
        zsu_fast.forget(conv_net, ForgetClass(3, probes), probes)


@dataclass(frozen=True)
class _Own(Options):
    pace: float | None = option("How fast.", 0.5)


class _Method(LraNpp):
    name: ClassVar[str] = "own"
    options: ClassVar = LraNpp.options
    needs: ClassVar[frozenset[str]] = frozenset({"retain images"})


def test_methods_of_other_packages(monkeypatch, conv_net, digits):
    entry = EntryPoint("own", f"{__name__}:_Method", methods.GROUP)
    monkeypatch.setattr(methods, "entry_points", lambda group: [entry])
    monkeypatch.setattr(EntryPoint, "load", lambda self: _Method)
    assert (
        method_names()
        == ["lra-npp", "channels", "deep", "poison", "concept", *methods.INSTANCE_METHODS, *methods.GENERATOR_METHODS]
        + [*methods.TEXT_METHODS, *methods.BASELINES, "own"]
        and find_method("own") is _Method
    )
    probes, _, others, labels = digits.split(3)
    with pytest.raises(ValueError, match="'own' needs retain_probes"):  # an unmet need is named before any work
        zsu_fast.forget(conv_net, 3, probes, method="own")
    assert zsu_fast.forget(conv_net, 3, probes, method="own", retain_probes=(others, labels)).reached
    with pytest.raises(ValueError, match="lra-npp, channels, deep, .*, own, got 'other'"):
        find_method("other")


def test_options_are_described_and_checked_once():
    assert set(method_options("lra-npp")) - set(method_options("channels")) == {"path", "preset", "authors_compat"}
    assert "0.02" in method_options("lra-npp")["until"]
    for name, value, kind in (
        ("until", "a", TypeError), ("until", math.nan, ValueError), ("seed", 1.5, TypeError),
        ("budget", -1, ValueError),
        ("strength", math.inf, ValueError), ("layers", 1, TypeError), ("layers", "conv1", TypeError),
        ("layers", [1], TypeError), ("batch_size", 0, ValueError), ("mode", 3, ValueError), ("scope", "x", ValueError),
        ("path", "all", TypeError), ("nonsense", 1, TypeError),
    ):  # fmt: skip
        with pytest.raises(kind, match=name):
            zsu_fast.forget(torch.nn.Linear(4, 3), 1, torch.rand(3, 4), method="channels", **{name: value})


@pytest.mark.parametrize("given", [np.float32(0.3), np.float64(0.3)])
def test_numbers_of_numpy_become_numbers(conv_net, digits, tmp_path, given):
    result = zsu_fast.forget(conv_net, 3, digits.split(3)[0], until=given, seed=np.int64(2))
    result.patch.save(tmp_path / "p.safetensors")
    assert zsu_fast.Patch.load(tmp_path / "p.safetensors").record["request"]["seed"] == 2


def test_whole_numbers_are_strengths_as_floats_are(conv_net, digits):
    for strength in (2**70, 2.0**70):  # beyond what fits a tensor's integers
        result = zsu_fast.forget(conv_net, 3, digits.split(3)[0], mode="gaussian", strength=strength, budget=2)
        assert result.patch.entries
        result.patch.revert(conv_net)
    with pytest.raises(ValueError, match="strength: expected a finite number"):
        zsu_fast.forget(conv_net, 3, digits.split(3)[0], mode="gaussian", strength=10**400, budget=2)


@pytest.mark.parametrize("strength", [1e39, -1e39])
def test_a_strength_that_overflows_is_refused(conv_net, digits, strength):
    digest = model_digest(conv_net)
    with pytest.raises(ValueError, match="strength"):
        zsu_fast.forget(conv_net, 3, digits.split(3)[0], mode="scale", strength=strength, budget=3)
    assert model_digest(conv_net) == digest


def test_images_of_another_class_are_refused_with_what_the_model_answers(net, digits):
    digest = model_digest(net)
    result = zsu_fast.forget(net, 4, digits.split(3)[0])
    assert result.verdict.level == "invalid" and not result.reached and result.patch.entries == ()
    assert "answers class 3" in result.summary() and "forgotten" not in result.summary()
    assert model_digest(net) == digest


def test_images_that_judge_have_the_last_word(conv_net, digits):
    """Probes say forgotten, the images that judge say not: the edit is taken back."""
    probes, own, _, _ = digits.split(3)
    digest = model_digest(conv_net)
    kept = zsu_fast.forget(conv_net, 3, probes, evaluate_on=(own, torch.full((len(own),), 3)))
    assert kept.verdict.judged_by == "evaluation images" and kept.verdict.images == len(own)
    judged = kept.record["evaluation"]["after"]
    assert judged["forget_accuracy"] == kept.verdict.right / len(own) and judged["counts"] == {"3": len(own)}
    kept.patch.revert(conv_net)
    others = digits.unseen_x[digits.unseen_y == 5]
    with pytest.raises(ValueError, match="evaluate_on: holds no image of class 3"):
        zsu_fast.forget(conv_net, 3, probes, evaluate_on=(others, torch.full((len(others),), 5)))
    # A class that is known by two features, and probes that show one of them.
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[0.0, 0, 1, 0], [1, 1, 0, 0], [0, 0, 0, 1]]))
    one, other = torch.tensor([[1.0, 0, 0, 0]]).repeat(40, 1), torch.tensor([[0.0, 1, 0, 0]]).repeat(40, 1)
    digest = model_digest(net)
    result = zsu_fast.forget(net, 1, one, evaluate_on=(other, torch.ones(40, dtype=torch.int64)))
    assert result.verdict.level == "not reached" and "40 of 40 evaluation images" in result.verdict.sentence
    assert not result.reached and result.patch.entries == () and model_digest(net) == digest
    assert zsu_fast.forget(net, 1, one).verdict.forgotten  # without them, the probes are all there is to see


def test_a_fixed_budget_is_carried_out_and_never_called_forgotten_unproved(conv_net, digits):
    result = zsu_fast.forget(conv_net, 3, digits.split(3)[0], budget=1)
    assert result.patch.entries and not result.reached and result.verdict.level == "not judged"
    assert "forgotten" not in result.summary().replace("not judged forgotten", "")


def test_an_edit_without_a_price_is_taken_in_full(net, digits):
    result = zsu_fast.forget(net, 3, digits.split(3)[0])
    weight = next(e for e in result.patch.entries).tensor
    assert {e.tensor for e in result.patch.entries} == {weight} and {e.row for e in result.patch.entries} == {3}
    assert result.budget == sum(e.indices.numel() for e in result.patch.entries)
    assert result.before["margin"] > 0 > result.after["margin"]


def test_the_number_of_images_that_a_search_runs_is_bounded(net, digits):
    """n (2 ceil(log2 levels) + 8) + 3 R per stage, and what is measured once: no clock, so that it holds anywhere."""
    probes, _, others, labels = digits.split(4)
    retain = (others[:150], labels[:150])
    result = zsu_fast.forget(net, 4, probes, method="channels", retain_probes=retain, until=0.0)
    stages = len({tuple(look["layers"]) for look in result.trace})
    n, kept = len(probes), len(retain[0])
    bound = stages * (n * (2 * math.ceil(math.log2(24)) + 8) + 3 * kept) + 2 * n + kept
    cost = result.record["cost"]
    assert 0 < cost["images_forwarded"] <= bound and cost["relevance_images"] == n + kept


def test_a_budget_of_nothing_is_an_edit_of_nothing(conv_net, digits):
    digest = model_digest(conv_net)
    zsu_fast.forget(conv_net, 3, digits.split(3)[0], path="all", budget=0)
    assert model_digest(conv_net) == digest


def test_the_retain_images_that_an_edit_takes_first_are_looked_at_first():
    """An edit that takes more than the floor allows is known after a batch; one within it is measured on all."""
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2, 2, bias=False))
    torch.nn.init.eye_(net[1].weight)
    lead = torch.arange(40, 0, -1.0) - 4.5  # the last four are wrong
    retain = (torch.stack([lead, torch.zeros(40)], 1)[:, None], torch.zeros(40, dtype=torch.int64))
    request, others = ForgetClass(1, torch.rand(2, 1, 2)), Shard.of(retain[0], 4)

    def work(transaction):
        measurement = Measurement(
            transaction, request, Options(batch_size=4), 0.0, lambda *_: None, retain, others=others
        )
        found = []
        for look in (
            measurement.retain_accuracy_before,
            lambda: measurement.retain_accuracy(3),
            lambda: measurement.retain_accuracy(4),
        ):
            before = measurement.cost.images_forwarded
            found.append((look(), measurement.cost.images_forwarded - before))
        measurement.known = net(retain[0])  # logits that somebody had at hand
        before = measurement.cost.images_forwarded
        found.append((measurement.retain_accuracy_before(), measurement.cost.images_forwarded - before))
        return found

    assert transact(net, work) == [(0.9, 40), (0.0, 4), (0.9, 40), (0.9, 0)]
