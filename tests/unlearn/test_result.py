"""What results and patches show of themselves, in a prompt, a notebook, a logger; a patch for the time of a block."""

import json

import pytest
import torch

import zsu_fast
from zsu_fast.unlearn import Picks, model_digest


@pytest.fixture
def done(net, digits):
    probes, unseen, others, labels = digits.split(3)
    judging = torch.cat([unseen, others]), torch.cat([torch.full((len(unseen),), 3), labels])
    return net, zsu_fast.forget(net, 3, probes, evaluate_on=judging)


def test_they_are_short_and_say_what_counts(done, digits):
    net, result = done
    values = sum(entry.new.numel() for entry in result.patch.entries)
    assert repr(result.patch) == f"Patch({values} values of 1 tensors, lra-npp)"
    units = sum(map(len, result.picks.values()))
    assert repr(result).startswith(f"ForgetResult('{result.verdict.level}', lra-npp, {units} neurons in 1 layers, ")
    assert result.verdict.sentence in repr(result) and len(repr(result)) < 500
    page = result._repr_html_()
    assert f"{result.before['forget_accuracy']:.4g}</td><td>{result.after['forget_accuracy']:.4g}" in page
    assert "tensor(" not in page + repr(result) + repr(result.patch)
    picks = Picks({3: [1, 2]}, {f"layer{i}": list(range(500)) for i in range(9)})
    assert repr(picks).startswith("Picks(class 3: 2 features; layer0: 500 neurons; ") and len(repr(picks)) < 200
    found = zsu_fast.relevance(net, digits.split(3)[0][:2])
    assert repr(found).startswith("Relevance(input=[2, 1, 8, 8], ") and len(repr(found)) < 300


def test_flat_figures_and_json(done):
    _, result = done
    found = result.metrics()
    assert found["before/forget_accuracy"] == result.before["forget_accuracy"] and found["reached"] == 1
    after = result.record["evaluation"]["after"]
    assert found["evaluation/after/forget_accuracy"] == after["forget_accuracy"]
    assert all(type(value) is float for value in found.values()) and "before/retain_accuracy" not in found
    assert json.loads(json.dumps(result.to_dict(), allow_nan=False))["verdict"] == result.verdict.to_dict()


def test_a_patch_for_a_while(done):
    net, result = done
    edited = model_digest(net)
    with pytest.raises(ValueError), result.patch.applied(net):
        pass  # it is applied already
    assert model_digest(net) == edited
    result.patch.revert(net)
    before = model_digest(net)
    with result.patch.applied(net):
        assert model_digest(net) == edited
    with pytest.raises(ZeroDivisionError), result.patch.applied(net):
        raise ZeroDivisionError
    assert model_digest(net) == before
