"""Distances between models, against values worked out by hand."""

import copy
import math

import pytest
import torch
from torch import nn

from zsu_fast.evaluate import distances


def logits(*rows):
    return torch.tensor(rows, dtype=torch.float64).log()


def test_jensen_shannon():
    same = logits([0.2, 0.8])
    assert distances.jensen_shannon(same, same).tolist() == [0.0]
    # Nothing in common: one bit. (1/2, 1/2) against (1, 0): m = (3/4, 1/4), with 0 log 0 = 0.
    assert distances.jensen_shannon(logits([1.0, 0.0]), logits([0.0, 1.0])).tolist() == [1.0]
    expected = (0.5 * math.log2(0.5 / 0.75) + 0.5 * math.log2(0.5 / 0.25) + math.log2(1 / 0.75)) / 2
    found = distances.jensen_shannon(logits([0.5, 0.5]), logits([1.0, 0.0]))
    assert found.tolist() == pytest.approx([expected]) and expected == pytest.approx(0.311278, abs=1e-6)
    torch.testing.assert_close(distances.jensen_shannon(logits([1.0, 0.0]), logits([0.5, 0.5])), found)
    assert distances.zero_retrain_forgetting(logits([0.5, 0.5]), logits([1.0, 0.0])) == pytest.approx(1 - expected)


def test_the_mean_answer_is_compared_without_an_oracle():
    edited = logits([1.0, 0.0], [0.0, 1.0])  # on the mean (1/2, 1/2), though no image has that answer
    assert distances.retrain_free_divergence(edited, logits([0.5, 0.5])) == pytest.approx(0.0, abs=1e-12)
    assert distances.retrain_free_divergence(edited, logits([1.0, 0.0])) == pytest.approx(0.311278, abs=1e-6)


def test_activations_and_answers():
    first, second = logits([1.0, 0.0], [0.5, 0.5]), logits([0.0, 1.0], [0.6, 0.4])
    assert distances.activation_distance(first, second) == pytest.approx((math.sqrt(2) + math.sqrt(0.02)) / 2)
    assert distances.completeness(first, second) == 0.5


def test_tug_of_war():
    assert distances.tug_of_war([0.1, 0.9, 0.8], [0.0, 1.0, 0.8]) == pytest.approx(0.81)
    with pytest.raises(ValueError, match="edited must be accuracies"):
        distances.tug_of_war([1.5], [0.0])
    with pytest.raises(ValueError, match="as many"):
        distances.tug_of_war([0.5], [0.0, 1.0])


def test_weight_distance():
    net = nn.Linear(2, 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[3.0, 0.0]]))
        net.bias.fill_(4.0)
    other = copy.deepcopy(net)
    with torch.no_grad():
        other.weight[0, 0] = 6.0
        other.bias.fill_(8.0)
    assert distances.weight_distance(net, other) == 5.0
    assert distances.weight_distance(net, other, normalised=True) == 1.0
    with pytest.raises(ValueError, match="other must have the parameters"):
        distances.weight_distance(net, nn.Linear(3, 1))
    with pytest.raises(ValueError, match="other must have the parameters"):
        distances.weight_distance(net, nn.Sequential(nn.Linear(2, 1)))


@pytest.mark.parametrize("bad", [torch.zeros(0, 2), torch.zeros(3), torch.tensor([[math.nan, 0.0]])])
def test_bad_logits_are_named(bad):
    with pytest.raises(ValueError, match="^logits must"):
        distances.jensen_shannon(bad, torch.zeros(1, 2))
    with pytest.raises(ValueError, match="^others must"):
        distances.activation_distance(torch.zeros(1, 2), bad)
