"""The claim that a class is never the answer: made where it is true, and only there."""

import copy

import pytest
import torch
from torch import nn

import zsu_fast
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.never_largest import never_largest
from zsu_fast.unlearn.structure import Head

WIDTH, CLASSES = 16, 6


def classifier(targets, gap=1.0, bias=True, dtype=torch.float32):
    torch.manual_seed(0)
    net = nn.Linear(WIDTH, CLASSES, bias=bias, dtype=dtype)
    kept = [c for c in range(CLASSES) if c not in targets]
    with torch.no_grad():
        net.weight[targets] = net.weight[kept].mean(0)
        if bias:
            net.bias[targets] = net.bias[kept].mean() - gap
    return net


def head(net, readout=()):
    return Head("", "weight", None if net.bias is None else "bias", [*range(CLASSES)], WIDTH, None, None, [*readout])


def claims(net, targets, readout=()):
    return never_largest(Tensors(net), head(net, readout), targets)


def limit(claim):
    return float(claim["but"].split("length of ")[1].split(":")[0])


@pytest.mark.parametrize("targets", [[0], [1, 4]])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_holds_up_to_the_length_that_it_names(targets, dtype):
    net = classifier(targets, dtype=dtype)
    found = claims(net, targets)
    assert [one["claim"] for one in found] == [f"class {t} is never the answer" for t in targets]
    assert [one["rows"] for one in found] == [[t] for t in targets]
    assert all("bias 1 below" in one["because"] and "weight" in one["because"] for one in found)
    assert limit(found[0]) > (1e4 if dtype == torch.float32 else 1e12)
    # The worst that features can be: the same for all kept classes, as far as there is such a direction.
    kept = [c for c in range(CLASSES) if c not in targets]
    with torch.no_grad():
        rows = net.weight[kept].double()
        _, _, directions = torch.linalg.svd(rows - rows.mean(0))
        tied = directions[len(kept) - 1 :]
        features = torch.cat([tied, -tied, torch.randn(500, len(tied), dtype=torch.float64) @ tied])
        features = features / features.norm(dim=1, keepdim=True)
        for length in (0.0, 1e-3, 1.0, min(map(limit, found))):
            answers = net((length * features).to(dtype)).argmax(1)
            assert not torch.isin(answers, torch.tensor(targets)).any()


def test_without_a_bias_a_tie_is_left():
    net = classifier([0], bias=False)
    (found,) = claims(net, [0])
    assert found["claim"] == "the logit of class 0 is never above all others" and "tie" in found["but"]
    assert net(torch.zeros(1, WIDTH)).argmax(1) == 0


@pytest.mark.parametrize("spoilt", ["row", "bias", "nan", "scale", "all"])
def test_it_is_not_made_where_it_is_not_so(spoilt):
    net, targets, readout = classifier([2]), [2], ["softmax"]
    assert claims(net, targets, readout)
    with torch.no_grad():
        if spoilt == "row":
            net.weight[2, 5] += 1e-5
        elif spoilt == "bias":
            net.bias[2] += 1.1
        elif spoilt == "nan":
            net.weight[1, 0] = torch.nan
        elif spoilt == "scale":  # which may be negative, or one of its own for each class
            readout = ["mul"]
        else:
            targets = [*range(CLASSES)]
    assert claims(net, targets, readout) == []


def test_a_gap_that_rounding_can_bridge_is_none():
    (found,) = claims(classifier([2], gap=1e-8), [2])
    assert "never above all others" in found["claim"]


@pytest.mark.parametrize("method", ["deep", "lra-npp"])
def test_forget_makes_it_whatever_the_method(conv_net, digits, method):
    """ "lra-npp" turns weights of the row around: it proves nothing of the answers, and claims nothing."""
    probes, _, others, labels = digits.split(3)
    options = {"steps": 2, "views": 1, "folds": 1, "budget": 1} if method == "deep" else {}
    result = zsu_fast.forget(
        copy.deepcopy(conv_net), 3, probes, retain_probes=(others, labels), method=method, **options
    )
    found = [one["claim"] for one in result.certificate["answers"]]
    assert found == (["class 3 is never the answer"] if method == "deep" else [])
