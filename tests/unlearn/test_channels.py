"""Method "channels": masked neurons are silent for every input, whatever stands behind the layer."""

import pytest
import torch
from torch import nn

import zsu_fast
from zsu_fast.unlearn import Picks, perturb_
from zsu_fast.unlearn.picks import largest_shares, rank_units

IMAGE = torch.rand(1, 1, 8, 8)


def watch(net, module, images):
    seen = []
    handle = getattr(net, module).register_forward_hook(lambda m, args, out: seen.append(out.clone()))
    with torch.no_grad():
        net(images)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("layer, norm", [("conv1", "bn1"), ("conv2", "bn2"), ("hidden", "hidden")])
def test_masked_units_are_exactly_zero_behind_batch_norm(conv_net, layer, norm):
    with torch.no_grad():  # BatchNorm statistics that would leak: beta - mean * gamma / sigma is far from zero
        for bn in (conv_net.bn1, conv_net.bn2):
            bn.running_mean.fill_(2.0)
            bn.bias.fill_(1.0)
    perturb_(conv_net, Picks(neurons={layer: [1, 4]}), sample=IMAGE)
    out = watch(conv_net, norm, torch.randn(8, 1, 8, 8))
    assert not out[:, [1, 4]].any() and out[:, [0, 2, 3]].any()


def test_masked_heads_are_exactly_zero(vit):
    before = watch(vit, "proj", IMAGE)
    perturb_(vit, Picks(neurons={"heads": [2]}), sample=IMAGE)
    seen = []
    handle = vit.proj.register_forward_pre_hook(lambda m, args: seen.append(args[0]))
    after = watch(vit, "proj", IMAGE)
    handle.remove()
    assert not seen[0][..., 16:24].any() and seen[0][..., :16].any() and seen[0][..., 24:].any()
    assert (before != after).any()


def test_fc1_units_are_silent_behind_gelu(vit):
    perturb_(vit, Picks(neurons={"fc1": [0, 63]}), sample=IMAGE)
    assert not watch(vit, "fc1", torch.randn(4, 1, 8, 8))[..., [0, 63]].any()


def test_scaling_a_neuron_scales_its_batch_norm_output(conv_net):
    images = torch.randn(4, 1, 8, 8)
    before = watch(conv_net, "bn2", images)
    perturb_(conv_net, Picks(neurons={"conv2": [3]}), sample=IMAGE, mode="scale", strength=0.5)
    torch.testing.assert_close(watch(conv_net, "bn2", images)[:, 3], before[:, 3] / 2)


def order_of(*args, **kwargs) -> list[tuple[str, int]]:
    ranking = rank_units(*args, **kwargs)
    found = [(ranking.names[i], unit) for i, unit in zip(ranking.layers.tolist(), ranking.units.tolist(), strict=True)]
    for budget in range(len(found) + 2):
        assert list(ranking.take(budget).neurons) == list(dict(found[:budget]))
        assert [(n, u) for n, units in ranking.take(budget).neurons.items() for u in units] == sorted(
            found[:budget], key=lambda pick: list(dict(found)).index(pick[0])
        )
    return found


def test_scores_and_scopes():
    labels = torch.tensor([0, 0])
    relevance = {"a": torch.tensor([[4.0, 3.0, -1.0, 0.5]] * 2), "b": torch.tensor([[9.0, 1.0]] * 2)}
    kwargs = {"k": 0.25, "score": "mean"}
    assert order_of(relevance, labels, [0], scope="layer", **kwargs) == [
        ("a", 0), ("a", 1), ("b", 0), ("a", 3), ("b", 1),
    ]  # fmt: skip
    assert order_of(relevance, labels, [0], scope="global", **kwargs) == [
        ("b", 0), ("a", 0), ("a", 1), ("b", 1), ("a", 3),
    ]  # fmt: skip
    retain = {"a": torch.tensor([[9.0, 1.0, 1.0, 0.0]]), "b": torch.tensor([[1.0, 1.0]])}
    against = largest_shares(retain, torch.tensor([1]))
    contrastive = order_of(relevance, labels, [0], scope="global", score="contrastive", k=0.25, against=against)
    assert contrastive[:2] == [("b", 0), ("a", 1)]


@pytest.mark.filterwarnings("error")
def test_labels_that_are_every_second_of_others():
    relevance = {"a": torch.tensor([[3.0, 1.0], [1.0, 3.0]])}
    found = largest_shares(relevance, torch.tensor([1, 9, 2, 9])[::2])
    assert torch.equal(found["a"], largest_shares(relevance, torch.tensor([1, 2]))["a"])


def test_ties_go_to_the_lower_layer_then_the_lower_unit():
    relevance = {"b": torch.ones(1, 2), "a": torch.ones(1, 4), "none": -torch.ones(1, 3)}
    kwargs = {"k": 1.0, "score": "frequency"}
    in_order = [("b", 0), ("b", 1), ("a", 0), ("a", 1), ("a", 2), ("a", 3)]
    assert order_of(relevance, torch.tensor([0]), [0], scope="global", **kwargs) == in_order
    assert order_of(relevance, torch.tensor([0]), [0], scope="layer", **kwargs) == [
        ("a", 0), ("b", 0), ("a", 1), ("a", 2), ("b", 1), ("a", 3),
    ]  # fmt: skip


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_forgets_with_retain_probes(net, digits, scope):
    probes, unseen, others, labels = digits.split(6)
    retain, judged = slice(0, 200), slice(200, None)
    before = zsu_fast.evaluate(net, others[judged], labels[judged], 6).retain_accuracy
    result = zsu_fast.forget(
        net, 6, probes, method="channels", retain_probes=(others[retain], labels[retain]), scope=scope,
        until=0.3, utility_floor=0.5,
    )  # fmt: skip
    if not result.reached:  # small nets share their neurons: then it must say so and leave the model alone
        assert result.record["reason"] and result.record["model"]["before"] == result.record["model"]["after"]
        return
    assert result.before["forget_accuracy"] > 0.8
    assert zsu_fast.evaluate(net, unseen, torch.full((len(unseen),), 6), 6).forget_accuracy <= 0.6
    assert result.after["retain_accuracy"] >= 0.5 < before


def test_several_layers_by_name(conv_net, digits):
    probes = digits.split(2)[0]
    result = zsu_fast.forget(conv_net, 2, probes, method="channels", layers=["conv2"], budget=3)
    assert set(result.picks) == {"conv2"} and len(result.picks["conv2"]) == 3
    with pytest.raises(ValueError, match="layers.*nonsense"):
        zsu_fast.forget(conv_net, 2, probes, method="channels", layers=["nonsense"])


def test_low_memory_picks_the_same(digits):
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(3)]
    net = nn.Sequential(nn.Flatten(), *blocks, nn.Linear(64, 10)).eval()
    given = {"probes": digits.split(2)[0], "method": "channels", "layers": ["1.0", "2.0", "3.0"], "budget": 9}
    picks = [zsu_fast.select(net, 2, **given, memory=memory) for memory in ("normal", "low")]
    assert picks[0] == picks[1] and len(picks[0]) == 9
    with pytest.raises(ValueError, match="memory: expected one of normal, low"):
        zsu_fast.select(net, 2, **given, memory="little")
