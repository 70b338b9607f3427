"""FSDP2 models: each process holds a part of every parameter. Relevance is that of the whole model."""

import copy
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

import zsu_fast
from tests.distributed.launch import Ranks, needs_gloo
from zsu_fast.lrp import functions
from zsu_fast.lrp.distributed import is_freed
from zsu_fast.model.shards import is_sharded

pytestmark = needs_gloo


class Net(nn.Module):
    """Layers whose nodes are fused across modules, tied weights, a tensor of the root's own, attention and padding."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Conv2d(8, 9, 3))
        self.norm = nn.LayerNorm(9)
        self.attention = nn.MultiheadAttention(9, 3, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(9, 13), nn.GELU(), nn.Linear(13, 9))
        self.gain = nn.Parameter(torch.rand(9))
        self.head = nn.Linear(9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.deep(self.stem(x)))
        x = x.flatten(2).mT
        normed = self.norm(x)
        x = x + self.attention(normed, normed, normed, need_weights=False)[0]
        x = x + self.mlp(x) * self.gain
        return self.head(x.mean(1))


def a_net() -> Net:
    torch.manual_seed(0)
    net = Net().eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.weight, 0.6, 0.6)
    return net


def sharded(net: nn.Module, wrap: str, **policy: object) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    net = copy.deepcopy(net)
    if wrap == "layers":  # each a group of its own: what is fused then spans groups
        for module in (*net.stem, *net.deep, net.norm, *net.mlp, net.head):
            fully_shard(module, **policy)
    elif wrap == "blocks":
        for module in (net.stem, net.deep, net.mlp):
            fully_shard(module, **policy)
    fully_shard(net, **policy)
    return net


def compare(net: nn.Module, plain: nn.Module, x: Tensor, y: Tensor, **arguments: object) -> None:
    ours = zsu_fast.relevance(net, x, [1, None], **arguments)
    theirs = zsu_fast.relevance(plain, y, [1, None], **arguments)
    for one, other in zip(ours, theirs, strict=True):
        assert list(one.neurons) == list(other.neurons)
        assert torch.equal(one.input, other.input) and torch.equal(one.logits, other.logits)
        for name, relevance in one.neurons.items():
            assert torch.equal(relevance, other.neurons[name]), (arguments, name)


def same_relevance(wrap: str, reshard: bool) -> None:
    plain = a_net()
    net = sharded(plain, wrap, reshard_after_forward=reshard)
    x = torch.rand(3, 3, 9, 9)
    for again in (False, True):
        for composite in ("epsilon_plus_flat",) if again else ("epsilon", "epsilon_alpha2_beta1", "attnlrp"):
            compare(net, plain, x, x, composite=composite)
        compare(net, plain, x, x, at_input=False, layers=["deep.1", "mlp.0"])
        assert again or all(is_sharded(parameter) for parameter in net.parameters())
        with torch.no_grad():
            net(x)  # leaves the parameters of the root as they ran


@pytest.mark.parametrize("reshard", [True, False])
@pytest.mark.parametrize("wrap", ["root", "blocks", "layers"])
def test_relevance_is_that_of_the_whole_model(ranks: Ranks, wrap: str, reshard: bool) -> None:
    ranks.run(same_relevance, wrap, reshard)


def weights_held() -> int:
    """How many weights are whole at once in the relevance pass, of those that it has come to."""
    from torch.distributed.fsdp import fully_shard

    net = nn.Sequential(*(layer for _ in range(8) for layer in (nn.Linear(16, 16), nn.ReLU())))
    for layer in net[::2]:
        fully_shard(layer)
    fully_shard(net)
    met: list[Tensor] = []
    held = []

    def look(weight: Tensor) -> bool:
        met.append(weight)
        held.append(sum(not is_freed(each) for each in met))
        return is_freed(weight)

    with patch.object(functions, "is_freed", look):
        zsu_fast.relevance(net, torch.rand(4, 16), 1, composite="epsilon_plus")
    assert len(held) == 8
    return max(held)


def test_only_the_layer_at_hand_is_whole(ranks: Ranks) -> None:
    assert max(ranks.run(weights_held)) <= 2


def same_in_bfloat16() -> None:
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(245, 7), nn.LayerNorm(7), nn.Linear(7, 3)
    )
    plain = copy.deepcopy(net).bfloat16()
    for module in (net[0], net[3], net):
        fully_shard(module, mp_policy=MixedPrecisionPolicy(param_dtype=torch.bfloat16))
    x = torch.rand(3, 3, 9, 9)
    ours, theirs = zsu_fast.relevance(net, x, 1), zsu_fast.relevance(plain, x.bfloat16(), 1)
    assert ours.input.dtype == torch.float32
    assert list(ours.neurons) == list(theirs.neurons) == ["0", "3", "5"]
    assert all(torch.equal(relevance, theirs.neurons[name]) for name, relevance in ours.neurons.items())


def test_under_mixed_precision_it_is_that_of_the_rounded_weights(ranks: Ranks) -> None:
    ranks.run(same_in_bfloat16)


def classifier() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    labels = torch.arange(120) % 3
    images = torch.rand(3, 1, 4, 4)[labels] + 0.1 * torch.randn(120, 1, 4, 4)
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()
    return net.eval(), images[labels == 1]


def forgets_in_parts(folder: str) -> None:
    from torch.distributed.fsdp import fully_shard

    plain, probes = classifier()
    original, net = copy.deepcopy(plain), copy.deepcopy(plain)
    for module in (net[1], net):  # the classifier in the group of the root, which stays whole after a run
        fully_shard(module)
    before = zsu_fast.unlearn.model_digest(plain)
    assert zsu_fast.unlearn.model_digest(net) == before
    for path in ("target", "neuron"):  # rows of the weight before, too
        theirs = zsu_fast.forget(plain, 1, probes, budget=3, path=path)
        ours = zsu_fast.forget(net, 1, probes, budget=3, path=path)
        net.reshard()
        assert ours.patch.digests == theirs.patch.digests and ours.picks == theirs.picks
        assert all(torch.equal(tensor.full_tensor(), plain.get_parameter(n)) for n, tensor in net.named_parameters())
        assert torch.equal(net(probes), plain(probes))
        found = [zsu_fast.evaluate(model, probes, torch.ones(40, dtype=torch.int64), 1) for model in (net, plain)]
        assert found[0] == found[1]
        ours.patch.save(f"{folder}/{path}{dist.get_rank()}.safetensors")
        dist.barrier()
        other = zsu_fast.unlearn.Patch.load(f"{folder}/{path}{1 - dist.get_rank()}.safetensors")
        other.revert(plain)  # of one process, by the patch of another
        other.revert(net)
        assert zsu_fast.unlearn.model_digest(net) == zsu_fast.unlearn.model_digest(plain) == before
    other.apply_(net)
    net.reshard()
    state = net.state_dict()
    other.revert(state)
    assert zsu_fast.unlearn.model_digest(net) == before
    assert torch.equal(net(probes), original(probes))

    reached = zsu_fast.forget(net, 1, probes)  # with a search for the edit
    assert reached.patch.digests == zsu_fast.forget(plain, 1, probes).patch.digests and reached.patch.entries
    reached.patch.revert(net)
    with pytest.raises(ValueError, match="probes: not the same in all processes"):
        zsu_fast.forget(net, 1, probes[dist.get_rank() :])
    assert zsu_fast.unlearn.model_digest(net) == before


def test_forget_edits_the_parts_as_it_does_the_whole(ranks: Ranks, tmp_path: Path) -> None:
    ranks.run(forgets_in_parts, str(tmp_path))


def same_edit(net: nn.Module, plain: nn.Module, probes: Tensor, target: int = 1, **options: object) -> None:
    """`forget` of an FSDP2 model is that of the whole, and so is what it costs and certifies; both are taken back."""
    before = zsu_fast.unlearn.model_digest(plain)
    ours, theirs = (zsu_fast.forget(model, target, probes, **options) for model in (net, plain))
    assert ours.patch.entries and ours.patch.digests == theirs.patch.digests and ours.picks == theirs.picks
    told = [{k: v for k, v in r.record.items() if k not in ("time", "probes", "retain_probes")} for r in (ours, theirs)]
    assert told[0] == told[1]
    assert zsu_fast.unlearn.model_digest(net) == zsu_fast.unlearn.model_digest(plain) != before
    ours.patch.revert(net)
    theirs.patch.revert(plain)
    assert zsu_fast.unlearn.model_digest(net) == zsu_fast.unlearn.model_digest(plain) == before


def masks_in_parts() -> None:
    plain, images = a_net(), torch.rand(40, 3, 9, 9)
    with torch.no_grad():
        plain.head.bias -= plain(images).mean(0)  # for answers of all kinds
        answers = plain(images).argmax(1)
    target = int(answers.mode().values)
    probes, others = images[answers == target], answers != target
    options = {"method": "channels", "layers": ["stem.0", "deep.1", "mlp.0", "attention.heads"], "scope": "global"}
    for wrap, budget in (("layers", 20), ("root", 5)):
        same_edit(sharded(plain, wrap), plain, probes, target, budget=budget, **options)
    searched = {"retain_probes": (images[others], answers[others]), "until": 0.5, "utility_floor": 0.0}
    same_edit(sharded(plain, "blocks"), plain, probes, target, **searched, **options)
    net, edit = sharded(plain, "blocks"), {"sample": images[:1], "path": "all"}
    with pytest.raises(ValueError, match='memory: "low"'):
        zsu_fast.forget(net, target, probes, method="channels", budget=3, memory="low")
    picks = zsu_fast.Picks({target: [2]}, {"deep.1": [0, 7], "attention.heads": [1]})
    made = zsu_fast.perturb_(net, picks, **edit)
    assert made.digests == zsu_fast.perturb_(plain, picks, **edit).digests


def test_channels_are_masked_in_the_parts_as_in_the_whole(ranks: Ranks) -> None:
    ranks.run(masks_in_parts)


def in_copies() -> None:
    """HSDP: each slice is held by two processes, each copy by two others."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("copies", "parts"))
    plain, probes = classifier()
    net = copy.deepcopy(plain)
    for module in (net[1], net):
        fully_shard(module, mesh=mesh)
    compare(net, plain, probes[:3], probes[:3], composite="epsilon_plus")
    same_edit(net, plain, probes, budget=3, path="neuron")
    same_edit(net, plain, probes, method="channels", budget=3)
    with pytest.raises(ValueError, match="probes: not the same in all processes"):  # of one copy, not of the other
        zsu_fast.forget(net, 1, probes[dist.get_rank() // 2 :])
    part = copy.deepcopy(plain)
    fully_shard(part, mesh=init_device_mesh("cpu", (4,)))
    same_edit(part, plain, probes, budget=3)  # some processes have no row of the classifier


def test_copies_of_parts(four: Ranks) -> None:
    four.run(in_copies)


def refusals() -> None:
    net = sharded(a_net(), "root")
    x = torch.rand(2, 3, 9, 9)
    for _ in range(2):
        with pytest.raises(TypeError, match="model: it is sharded .*forget on the whole.*apply the patch to the parts"):
            zsu_fast.forget(net, 1, x, method="deep")
        with pytest.raises(ValueError, match="cannot be planned, because it is sharded"):
            zsu_fast.relevance(net, x, plan=True)
        net(x)  # after which its parameters are whole until the next backward pass

    class Inplace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3)
            self.head = nn.Linear(147, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            x.mul_(2)
            return self.head(x.flatten(1) if self.flat else self.unflat(x))

    net = Inplace()
    net.flat, net.unflat = False, sharded(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten()), "root")
    with pytest.raises(zsu_fast.lrp.UncoveredFunctionError, match="'unflat' is given was written to in place"):
        zsu_fast.relevance(net, x)


def test_what_cannot_be_is_refused_by_name(ranks: Ranks) -> None:
    ranks.run(refusals)
