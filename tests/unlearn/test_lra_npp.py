"""The authors' method: the same neurons and the same edited weights as an independent oracle."""

from collections import Counter

import pytest
import torch

import zsu_fast
from zsu_fast.unlearn import AUTHORS_PRESETS
from zsu_fast.unlearn.picks import rank_edges, rank_edges_as_authors


def oracle(features, weight, target, k):
    """top-k of a_j w_cj per sample, by sorting lists."""
    counts = Counter()
    for row in features.tolist():
        contribution = [a * w for a, w in zip(row, weight[target].tolist(), strict=True)]
        counts.update(sorted(range(len(row)), key=lambda j: (-contribution[j], j))[:k])
    return counts


@pytest.mark.parametrize("target", [0, 4, 9])
@pytest.mark.parametrize("k", [1, 7, 48])
def test_frequency_order_equals_the_oracle(target, k):
    generator = torch.Generator().manual_seed(target)
    features = torch.rand(36, 48, generator=generator, dtype=torch.float64).float()
    weight = torch.randn(10, 48, generator=generator)
    labels = torch.full((36,), target)
    order = rank_edges(features, weight, labels, [target], k).orders[target]
    counts = oracle(features, weight, target, k)
    mean = (features * weight[target]).mean(0)
    expected = sorted((j for j in range(48) if mean[j] > 0), key=lambda j: (-counts[j], -mean[j].item(), j))
    assert order.tolist() == expected


def test_ties_go_to_the_lowest_index():
    order = rank_edges(torch.ones(5, 6), torch.ones(2, 6), torch.zeros(5, dtype=torch.int64), [0], 2).orders[0]
    assert order.tolist() == [0, 1, 2, 3, 4, 5]


def test_authors_order_is_by_first_insertion_at_the_argmax():
    features = torch.tensor([[1.0, 3.0, 2.0], [1.0, 2.0, 3.0]])
    weight = torch.tensor([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    labels = torch.zeros(2, dtype=torch.int64)
    order = rank_edges_as_authors(features, weight, None, 2, [0], labels, absolute=False).orders[0]
    assert order.tolist() == [1, 2]  # both named twice; sample 0 named 1 first. Class 0 itself has no relevance at all


def test_authors_edit_of_a_hidden_layer(conv_net, digits):
    probes = digits.split(3)[0]
    state = {n: v.clone() for n, v in conv_net.state_dict().items()}
    result = zsu_fast.forget(conv_net, 3, probes, authors_compat=True)
    k, budget = AUTHORS_PRESETS["mnist_cnn"].scaled(48)
    with torch.no_grad():
        x = torch.relu(conv_net.bn1(conv_net.conv1(probes)))
        x = torch.nn.functional.max_pool2d(x, 2)
        x = torch.nn.functional.max_pool2d(torch.relu(conv_net.bn2(conv_net.conv2(x))), 2).flatten(1)
        features = torch.relu(torch.nn.functional.linear(x, state["hidden.weight"], state["hidden.bias"]))
        winners = torch.nn.functional.linear(features, state["head.weight"], state["head.bias"]).argmax(1)
    counts = Counter()  # the oracle, at the arg-max
    for row, winner in zip(features, winners.tolist(), strict=True):
        counts.update((row * state["head.weight"][winner]).topk(k).indices.tolist())
    picked = [j for j, _ in counts.most_common(budget)]
    assert result.picks == {"head.input": sorted(picked)}
    expected = state["hidden.weight"].clone()
    expected[picked] = 0
    assert torch.equal(conv_net.hidden.weight, expected)
    assert torch.equal(conv_net.hidden.bias, state["hidden.bias"])  # the authors keep it
    expected = state["head.weight"].clone()
    expected[3, picked] = 0
    assert torch.equal(conv_net.head.weight, expected)
    result.patch.revert(conv_net)
    assert all(torch.equal(v, state[n]) for n, v in conv_net.state_dict().items())


def test_authors_edit_of_pooled_features_cuts_every_class(trained_nets, digits):
    import copy

    net = copy.deepcopy(trained_nets["PooledResNet"])
    result = zsu_fast.forget(net, 3, digits.split(3)[0], preset="cifar10_resnet50", authors_compat=True)
    picked = result.picks["fc.input"]
    assert len(picked) == AUTHORS_PRESETS["cifar10_resnet50"].scaled(24)[1]
    assert not net.fc.weight[:, picked].any() and net.fc.weight[:, [i for i in range(24) if i not in picked]].any()


def test_target_path_leaves_the_other_logits_alone(net, digits):
    probes, _, others, _ = digits.split(5)
    with torch.no_grad():
        before = net(others)
        zsu_fast.forget(net, 5, probes)
        after = net(others)
    kept = [c for c in range(10) if c != 5]
    assert torch.equal(before[:, kept], after[:, kept])
    assert (before[:, 5] != after[:, 5]).any()


def test_neuron_path_silences_the_hidden_units(conv_net, digits):
    probes, _, others, _ = digits.split(5)
    result = zsu_fast.forget(conv_net, 5, probes, path="neuron", budget=6)
    seen = []
    handle = conv_net.head.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    conv_net(others)
    handle.remove()
    assert not seen[0][:, result.picks["head.input"]].any()
