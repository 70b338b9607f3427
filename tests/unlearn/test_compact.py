"""Masked units are taken out: the logits are the same, the model is smaller, what cannot go stays and is named."""

import copy
import os

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

import zsu_fast
from tests.unlearn.conftest import ConvNet, PooledResNet, TinyViT
from zsu_fast.unlearn import Picks, compact, coupling, load_compact, model_digest

IMAGES = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def lively(net: nn.Module) -> nn.Module:
    """Norms that scale and shift, as after training."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return net.eval()


class Gated(nn.Module):
    """A depthwise convolution between two others, a gate on its channels, a scale for each of them, a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.expand, self.norm1 = nn.Conv2d(1, 12, 1), nn.BatchNorm2d(12)
        self.depth, self.norm2 = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12)
        self.squeeze, self.excite = nn.Conv2d(12, 5, 1), nn.Conv2d(5, 12, 1)
        self.scale = nn.Parameter(torch.rand(12, 1, 1))
        self.project, self.side = nn.Conv2d(12, 6, 1), nn.Conv2d(1, 4, 3, padding=1)
        self.head = nn.Linear(10 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = F.hardswish(self.norm1(self.expand(x)))
        y = F.relu6(self.norm2(self.depth(y)))
        y = y * torch.sigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True))))) * self.scale
        y = torch.cat([self.project(y), self.side(x)], 1)
        return self.head(F.adaptive_avg_pool2d(F.silu(y), 2).flatten(1))


class Attention(nn.Module):
    """Heads of which the code counts none (as in transformers), queries, keys and values apart."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(8, 12), nn.LayerNorm(12)
        self.q, self.k, self.v = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(12, 16)
        self.out, self.head = nn.Linear(16, 12), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(1, 2))
        y = self.norm(x)
        q, k, v = (layer(y).unflatten(-1, (-1, 4)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return self.head(x.mean(1))


class Counting(nn.Module):
    """As timm has it: the module says how many heads it has, and how wide they are together."""

    def __init__(self) -> None:
        super().__init__()
        self.num_heads, self.attn_dim = 3, 12
        self.qkv, self.proj, self.head = nn.Linear(8, 36), nn.Linear(12, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1, 2)
        q, k, v = self.qkv(x).reshape(*x.shape[:2], 3, self.num_heads, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(*x.shape[:2], self.attn_dim)
        return self.head((x + self.proj(y)).mean(1))


STREAM = {"stem": [3, 7], "conv1": [0], "conv2": [7]}
HEAD = list(range(4, 8))  # rows of the second head
CASES = {  # net, units to mask, units that go, layers of which some stay
    "chain": (
        ConvNet,
        {"conv1": [1, 3], "conv2": [0, 31], "hidden": [2]},
        {"conv1": [1, 3], "conv2": [0, 31], "hidden": [2]},
        [],
    ),
    "in a residual block": (PooledResNet, {"conv1": [1, 5]}, {"conv1": [1, 5]}, []),
    "residual stream": (PooledResNet, STREAM, {"stem": [7], "conv1": [0], "conv2": [7]}, ["stem"]),
    "mlp": (TinyViT, {"fc1": [0, 63]}, {"fc1": [0, 63]}, []),
    "depthwise": (Gated, {"depth": [4]}, {"expand": [4], "depth": [4], "excite": [4]}, []),
    "gate": (Gated, {"squeeze": [1]}, {"squeeze": [1]}, []),
    "concatenated": (Gated, {"project": [5], "side": [0]}, {"project": [5], "side": [0]}, []),
    "heads": (Attention, {"heads": [1]}, {"q": HEAD, "k": HEAD, "v": HEAD}, []),
    "counted heads": (Counting, {"heads": [1]}, {"qkv": [*HEAD, *range(16, 20), *range(28, 32)]}, []),
}


@pytest.mark.parametrize(("build", "masked", "gone", "stays"), CASES.values(), ids=CASES)
def test_the_same_logits_of_a_smaller_model(build, masked, gone, stays, tmp_path):
    net = lively(build())
    zsu_fast.perturb_(net, Picks(neurons=masked), sample=IMAGES[:1])
    digest = model_digest(net)
    small = zsu_fast.compact(net, IMAGES[:1])
    assert small.removed == gone and list(small.left) == stays
    assert model_digest(net) == digest
    before, after = (sum(p.numel() for p in model.parameters()) for model in (net, small.model))
    assert small.parameters == (before, after) and after < before
    others = 3 * torch.randn(40, 1, 8, 8)
    torch.testing.assert_close(small.model(others), net(others), rtol=1e-5, atol=1e-6)
    double = small.model.double()(others.double()), net.double()(others.double())
    torch.testing.assert_close(*double, rtol=0, atol=1e-12 * max(1.0, double[1].abs().max().item()))
    assert small.difference <= 1e-6 and small.difference_float64 is not None


@pytest.mark.parametrize("build", [ConvNet, Counting])
def test_a_file_of_it(build, tmp_path):
    net = lively(build())
    layer = "conv2" if build is ConvNet else "heads"
    zsu_fast.perturb_(net, Picks(neurons={layer: [0, 1]}), sample=IMAGES[:1])
    small = compact(net, IMAGES)
    small.save(tmp_path / "small.safetensors")
    fresh = lively(build())
    loaded = load_compact(fresh, tmp_path / "small.safetensors")
    torch.testing.assert_close(loaded(IMAGES), small.model(IMAGES))
    assert model_digest(loaded) == model_digest(small.model) and not loaded.training
    torch.save(net.state_dict(), tmp_path / "large.pt")
    assert os.path.getsize(tmp_path / "small.safetensors") < os.path.getsize(tmp_path / "large.pt")
    result = zsu_fast.forget(loaded, 1, IMAGES, budget=2)  # a model as any other
    result.patch.revert(loaded)
    assert model_digest(loaded) == model_digest(small.model)
    with pytest.raises(ValueError, match="do not have the same tensors"):
        load_compact(TinyViT(), tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match="is .* in the file"):
        load_compact(lively(build()).double(), tmp_path / "small.safetensors")
    result.patch.save(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"path: .*other.safetensors was not written by Compact.save"):
        load_compact(fresh, tmp_path / "other.safetensors")
    whole = (tmp_path / "small.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-9])
    save_file(small.model.state_dict(), tmp_path / "bare.safetensors", {"format": "zsu_fast compact 1"})
    for name in ("cut", "bare"):
        with pytest.raises(ValueError, match=f"path: .*{name}.safetensors was not written .*, or is damaged"):
            load_compact(fresh, tmp_path / f"{name}.safetensors")
    with pytest.raises(FileNotFoundError, match="path: no such file"):
        load_compact(fresh, tmp_path / "none.safetensors")
    with pytest.raises(TypeError, match="path: expected a path, got NoneType"):
        load_compact(fresh, None)


def test_what_is_bound_to_units_that_live_stays_and_is_named():
    net = lively(PooledResNet())
    zsu_fast.perturb_(net, Picks(neurons={"stem": [3]}), sample=IMAGES[:1])
    with pytest.raises(ValueError, match="none of its masked units .*: stem: .*fc reads them, bound to units of conv2"):
        compact(net, IMAGES)
    net = lively(TinyViT())
    zsu_fast.perturb_(net, Picks(neurons={"patch": [3]}), sample=IMAGES[:1])
    with pytest.raises(ValueError, match="patch: .* (mix|binds) them"):
        compact(net, IMAGES)
    net = lively(Gated())
    zsu_fast.perturb_(net, Picks(neurons={"expand": [3]}), sample=IMAGES[:1])
    with pytest.raises(ValueError, match="expand: they are not zero where project reads them, bound to .*excite"):
        compact(net, IMAGES)


def test_code_that_counts_its_units_keeps_them():
    """The net reshapes by a number of its own: its heads stay, the hidden units go."""
    net = lively(TinyViT())
    zsu_fast.perturb_(net, Picks(neurons={"heads": [1], "fc1": [5]}), sample=IMAGES[:1])
    small = compact(net, IMAGES)
    assert small.removed == {"fc1": [5]} and "code fails: shape" in small.left["qkv"]
    assert small.model.heads == 4


def test_a_removal_that_would_change_the_answers_is_not_made(monkeypatch):
    """Were units taken for silent that are not, the comparison of the logits would say so."""
    net = lively(ConvNet())
    nn.init.ones_(net.bn2.bias)  # so that it lives
    zsu_fast.perturb_(net, Picks(neurons={"hidden": [1]}), sample=IMAGES[:1])
    groups = coupling.Coupling.groups

    def wrong(self):
        found = [group for group in groups(self) if ("conv2", 3) in group.units or group.why is None]
        return [coupling.Group(group.slots, group.units, group.units, None) for group in found]

    monkeypatch.setattr(coupling.Coupling, "groups", wrong)
    small = compact(net, IMAGES)
    assert small.removed == {"hidden": [1]} and "the logits differ by" in small.left["conv2"]


def test_units_without_effect_and_layers_without_units():
    """What nothing reads goes too; of a layer that is masked as a whole one unit stays."""
    net = lively(ConvNet())
    with torch.no_grad():
        net.head.weight[:, [4, 9]] = 0  # what path "all" of the classifier's inputs leaves
    small = compact(net, IMAGES)
    assert small.removed == {"hidden": [4, 9]}
    net = lively(ConvNet())
    zsu_fast.perturb_(net, Picks(neurons={"hidden": list(range(48))}), sample=IMAGES[:1])
    small = compact(net, IMAGES)
    assert len(small.removed["hidden"]) == 47 and len(small.removed["conv2"]) == 31  # which nothing reads any more
    assert small.left == dict.fromkeys(("conv2", "hidden"), "the last unit stays")


def test_nothing_to_take_out():
    for path in ("target", "rows"):
        net = lively(ConvNet())
        if path == "target":
            zsu_fast.perturb_(net, Picks(edges={1: [0, 1]}), sample=IMAGES[:1])  # paths to one class are no units
        with pytest.raises(ValueError, match="model: no unit is masked"):
            compact(net, IMAGES)
    with pytest.raises(TypeError, match="model: expected a torch.nn.Module"):
        compact(torch.sin, IMAGES)
    with pytest.raises(ValueError, match="sample"):
        compact(lively(ConvNet()), torch.rand(2, 3))


def test_tied_and_reused_layers():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again, self.head = nn.Linear(64, 20), nn.Linear(20, 20), nn.Linear(20, 4)
            self.other = nn.Linear(20, 20)
            self.other.weight, self.other.bias = self.again.weight, self.again.bias

        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.first(x.flatten(1)))
            return self.head(F.relu(self.other(F.relu(self.again(F.relu(self.again(x)))))))

    net = Tied().eval()
    with torch.no_grad():
        for layer in (net.first, net.again):
            layer.weight[3], layer.bias[3] = 0, 0
            layer.weight[5], layer.bias[5] = 0, 0
        net.first.bias[5] = 1  # lives
    small = compact(net, IMAGES)
    assert small.removed == {"first": [3], "again": [3]} and "bound to units of first" in small.left["again"]
    assert small.model.other.weight is small.model.again.weight and small.model.again.out_features == 19


def test_wrapped_models_and_flags():
    net = lively(ConvNet()).train()
    zsu_fast.perturb_(net, Picks(neurons={"hidden": [1]}), sample=IMAGES[:1])
    net.conv1.weight.requires_grad_(False)
    net.hidden.weight.requires_grad_(False)
    digest = model_digest(net)
    small = compact(torch.compile(nn.DataParallel(net), backend="eager"), IMAGES)
    assert model_digest(net) == digest
    assert net.training and not small.model.training and isinstance(small.model, ConvNet)
    kept = {name: p.requires_grad for name, p in small.model.named_parameters()}
    assert kept == {name: p.requires_grad for name, p in net.named_parameters()}
    again = copy.deepcopy(small.model)
    with pytest.raises(ValueError, match="no unit is masked"):
        compact(again, IMAGES)


class Returning(nn.Module):
    """Code that touches its units in other ways than layers, norms and activations."""

    def __init__(self, touch) -> None:
        super().__init__()
        self.conv, self.head, self.touch = nn.Conv2d(1, 6, 3), nn.Linear(6, 4), touch

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.touch(F.relu(self.conv(x))).mean((2, 3)))


def overwritten(x: Tensor) -> Tensor:
    x = x.clone()
    x[:, 3:] = 1.0
    return x


@pytest.mark.parametrize(
    ("touch", "words"),
    [
        (overwritten, "__setitem__ may mix them"),
        (lambda x: 1 - x, "sub.* may mix them|not zero where head reads them"),
        (lambda x: torch.add(x, other=x), "add may mix them"),
        (lambda x: x / x.sum(1, keepdim=True), "sum may mix them"),
        (lambda x: x.softmax(1), "softmax may mix them"),
        (lambda x: x.cumsum(1), "cumsum may mix them"),
        (lambda x: F.pad(x, (1, 1, 1, 1), value=1.0), "pad may mix them"),
        (lambda x: x + torch.arange(6.0)[:, None, None], "add.* may mix them"),
        (lambda x: x * torch.linspace(1, 2, 6)[:, None, None], "mul.* may mix them"),
    ],
)
def test_what_functions_may_mix_stays(touch, words):
    net = Returning(touch).eval()
    with torch.no_grad():
        net.conv.weight[4], net.conv.bias[4] = 0, 0
    with pytest.raises(ValueError, match=f"conv: .*({words})"):
        compact(net, IMAGES)
    for kept in (lambda x: F.pad(x, (1, 1, 1, 1)), lambda x: F.interpolate(x, scale_factor=2), lambda x: 2 * x):
        net.touch = kept
        assert compact(net, IMAGES).removed == {"conv": [4]}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_dtypes(dtype):
    net = lively(ConvNet()).to(dtype)
    zsu_fast.perturb_(net, Picks(neurons={"conv2": [1]}), sample=IMAGES[:1].to(dtype))
    small = compact(net, IMAGES.to(dtype))
    assert small.removed == {"conv2": [1]} and small.model(IMAGES.to(dtype)).dtype == dtype
