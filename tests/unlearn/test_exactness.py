"""Masked units are silent behind whatever stands on them, for every input; or masking is refused, with the reason."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune

import zsu_fast
from zsu_fast import Picks
from zsu_fast.unlearn import model_digest
from zsu_fast.unlearn.certificate import PROVED

IMAGES = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class FrozenBatchNorm(nn.Module):
    """As detection backbones have it: buffers, and x * scale + shift."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.rand(channels) + 0.5)
        self.register_buffer("bias", torch.randn(channels))
        self.register_buffer("running_mean", torch.randn(channels))
        self.register_buffer("running_var", torch.rand(channels) + 0.5)

    def forward(self, x):
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1) + shift.reshape(1, -1, 1, 1)


class ChannelsLast(nn.LayerNorm):
    """LayerNorm over channels, as ConvNeXt has it."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Shift(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.shift = nn.Parameter(torch.randn(channels, 1, 1).view(channels))

    def forward(self, x):
        return x + self.shift[:, None, None]


def batch_norm(channels: int, affine: bool = True) -> nn.Module:
    norm = nn.BatchNorm2d(channels, affine=affine)
    nn.init.normal_(norm.running_mean)
    if affine:
        nn.init.normal_(norm.bias)
    return norm


def with_bias(norm: nn.Module) -> nn.Module:
    nn.init.normal_(norm.bias)
    return norm


STANDING = {
    "batch norm": lambda: [batch_norm(6)],
    "batch norm without affine": lambda: [batch_norm(6, affine=False)],
    "batch norm behind an activation": lambda: [nn.ReLU(), batch_norm(6)],
    "batch norm behind pooling": lambda: [nn.MaxPool2d(2), batch_norm(6)],
    "two batch norms": lambda: [batch_norm(6), nn.ReLU(), batch_norm(6)],
    "frozen batch norm": lambda: [FrozenBatchNorm(6)],
    "a shift written out": lambda: [Shift(6)],
    "group norm": lambda: [with_bias(nn.GroupNorm(3, 6))],
    "instance norm": lambda: [with_bias(nn.InstanceNorm2d(6, affine=True))],
    "layer norm": lambda: [with_bias(ChannelsLast(6))],
}


@pytest.mark.parametrize("standing", STANDING.values(), ids=STANDING)
def test_masked_units_are_silent_behind(standing):
    torch.manual_seed(0)
    norms = nn.Sequential(*standing())
    net = nn.Sequential(nn.Conv2d(3, 6, 3), norms, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, 4))
    net.eval()
    seen = []
    norms.register_forward_hook(lambda m, a, out: seen.append(out))
    digest = model_digest(net)
    assert (net(IMAGES) is not None) and (seen[-1][:, [1, 4]] != 0).any()  # it is no test of what is zero anyway
    patch = zsu_fast.perturb_(net, Picks(neurons={"0": [1, 4]}), sample=IMAGES[:1])
    for images in (IMAGES, 100 * IMAGES - 50, torch.zeros_like(IMAGES)):
        net(images)
        assert (seen[-1][:, [1, 4]] == 0).all() and (seen[-1][:, [0, 2, 3, 5]] != 0).any()
    claim = patch.record["certificate"]["units"][0]
    assert claim["layer"] == "0" and claim["units"] == [1, 4] and claim["claim"] == PROVED
    patch.revert(net)
    assert model_digest(net) == digest


def test_a_layer_that_runs_several_times_with_norms_of_its_own():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.conv = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1)
            self.norms, self.head = nn.ModuleList(batch_norm(6) for _ in range(3)), nn.Linear(6, 4)

        def forward(self, x):
            x = F.relu(self.start(x))
            for norm in self.norms:
                x = F.relu(norm(self.conv(x)))
            return self.head(x.mean((2, 3)))

    net = Net().eval()
    seen = []
    for norm in net.norms:
        norm.register_forward_hook(lambda m, a, out: seen.append(out[:, [0, 3]]))
    patch = zsu_fast.perturb_(net, Picks(neurons={"conv": [0, 3]}), sample=IMAGES[:1])
    seen.clear()
    net(IMAGES)
    assert len(seen) == 3 and all((out == 0).all() for out in seen)
    assert patch.record["certificate"]["units"][0]["runs"] == 3


def test_a_norm_over_the_outputs_of_several_layers():
    """As in DenseNet: each unit finds its own elements of the norm that stands on all of them."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 5, 3)
            self.norm, self.head = batch_norm(9), nn.Linear(9, 4)

        def forward(self, x):
            return self.head(F.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1))).mean((2, 3)))

    net = Net().eval()
    seen = []
    net.norm.register_forward_hook(lambda m, a, out: seen.append(out))
    zsu_fast.perturb_(net, Picks(neurons={"b": [2]}), sample=IMAGES[:1])
    net(IMAGES)
    assert (seen[-1][:, 6] == 0).all() and (seen[-1][:, [0, 5, 7]] != 0).any()


class SharedValues(nn.Module):
    """Four heads, each two of which share their keys and values."""

    def __init__(self, expand: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.expand = expand
        self.q, self.kv, self.out = nn.Linear(12, 16), nn.Linear(12, 16), nn.Linear(16, 12)
        self.head = nn.Linear(12, 4)

    def forward(self, x):
        n = len(x)
        x = x.reshape(n, -1, 12)
        q = self.q(x).reshape(n, -1, 4, 4).transpose(1, 2)
        k, v = self.kv(x).reshape(n, -1, 2, 2, 4).permute(2, 0, 3, 1, 4)
        if self.expand:
            k, v = (t[:, :, None].expand(-1, -1, 2, -1, -1).reshape(n, 4, -1, 4) for t in (k, v))
        heads = F.scaled_dot_product_attention(q, k, v, enable_gqa=not self.expand)
        return self.head(self.out(heads.transpose(1, 2).reshape(n, -1, 16)).mean(1))


@pytest.mark.parametrize("expand", [False, True], ids=["enable_gqa", "expand"])
def test_heads_that_share_their_values_are_masked_one_by_one(expand):
    net = SharedValues(expand).eval()
    images = torch.rand(3, 3, 4, 4)
    inputs = []
    net.out.register_forward_pre_hook(lambda m, a: inputs.append(a[0]))
    before = net(images)
    with torch.no_grad():
        silenced = inputs[-1].clone()
        silenced[..., 4:8] = 0  # head 1 alone
        expected = net.head(F.linear(silenced, net.out.weight, net.out.bias).mean(1))
    zsu_fast.perturb_(net, Picks(neurons={"heads": [1]}), sample=images[:1])
    torch.testing.assert_close(net(images), expected)
    assert not torch.allclose(net(images), before)


def test_heads_and_units_of_the_projection_that_they_enter(tmp_path):
    """Rows and columns of one weight cross: each element is edited once, and comes back."""
    net = SharedValues().eval()
    images, digest = torch.rand(3, 3, 4, 4), model_digest(net)
    expected = copy.deepcopy(net.out)
    with torch.no_grad():
        expected.weight[:, 4:8] = 0
        expected.weight[[2, 7]] = 0
        expected.bias[[2, 7]] = 0
    picks = Picks(neurons={"heads": [1], "out": [2, 7]})
    patch = zsu_fast.perturb_(net, picks, sample=images[:1])
    assert torch.equal(net.out.weight, expected.weight) and torch.equal(net.out.bias, expected.bias)
    claims = {claim["layer"]: claim for claim in patch.record["certificate"]["units"]}
    assert claims["out"]["units"] == [2, 7] and "no effect" in claims["out.weight"]["claim"]
    patch.save(tmp_path / "undo.safetensors")
    zsu_fast.Patch.load(tmp_path / "undo.safetensors").revert(net)
    assert model_digest(net) == digest
    with pytest.raises(ValueError, match="rows and columns of out.weight cross; scale the one"):
        zsu_fast.perturb_(net, picks, sample=images[:1], mode="scale", strength=0.5)
    assert model_digest(net) == digest


class Adapted(nn.Linear):
    """An adapter beside the layer, folded nowhere."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs)
        self.down, self.up = nn.Parameter(torch.randn(2, inputs)), nn.Parameter(torch.randn(outputs, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.down.T @ self.up.T


class Wrapped(nn.Module):
    """An adapter around the layer, as peft has it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.base_layer = nn.Linear(inputs, outputs)
        self.down, self.up = nn.Linear(inputs, 2, bias=False), nn.Linear(2, outputs, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


@pytest.mark.parametrize(("adapter", "name"), [(Adapted, "1"), (Wrapped, "1.base_layer")])
def test_a_layer_with_an_adapter_beside_it_is_refused(adapter, name):
    net = nn.Sequential(nn.Flatten(), adapter(192, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    digest = model_digest(net)
    with pytest.raises(ValueError, match="cannot be masked exactly.*adapter"):
        zsu_fast.perturb_(net, Picks(neurons={name: [3]}), sample=IMAGES[:1])
    assert model_digest(net) == digest


def test_a_norm_that_gives_silent_units_a_value_is_refused():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.GroupNorm(3, 6, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(216, 4)
    )
    with pytest.raises(ValueError, match="group_norm without weight and bias"):
        zsu_fast.perturb_(net, Picks(neurons={"0": [3]}), sample=IMAGES[:1])


def test_tied_tensors_are_refused_by_name():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(192, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.c.weight = self.b.weight
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            return self.head(F.relu(self.c(F.relu(self.b(F.relu(self.a(x.flatten(1))))))))

    net = Net()
    for name, other in (("b", "c.weight"),):
        with pytest.raises(ValueError, match=f"shared with {other}"):
            zsu_fast.perturb_(net, Picks(neurons={name: [0]}), sample=IMAGES[:1])
    zsu_fast.perturb_(net, Picks(neurons={"a": [0]}), sample=IMAGES[:1])


def test_a_tied_classifier_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.first, self.head = nn.Linear(192, 6), nn.Linear(6, 6), nn.Linear(6, 6)
            self.head.weight = self.first.weight

        def forward(self, x):
            return self.head(F.relu(self.first(F.relu(self.body(x.flatten(1))))))

    with pytest.raises(ValueError, match="classifier.*shared with|runs 2 times"):
        zsu_fast.forget(Net(), 1, IMAGES)


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (parametrizations.weight_norm, "parametrization.*remove_parametrizations"),
        (parametrizations.spectral_norm, "parametrization.*remove_parametrizations"),
        (lambda layer: prune.l1_unstructured(layer, "weight", 0.3), "prune.remove"),
    ],
)
def test_computed_weights_are_refused_with_the_way_to_fold_them(compute, words):
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 8), nn.ReLU(), nn.Linear(8, 4)
    ).eval()
    compute(net[0])
    with pytest.raises(ValueError, match=f"'0' is computed, by.*{words}"):
        zsu_fast.perturb_(net, Picks(neurons={"0": [1]}), sample=IMAGES[:1])
    compute(net[5])
    with pytest.raises(ValueError, match=f"'5' is computed, by.*{words}"):
        zsu_fast.forget(net, 1, IMAGES)


def test_only_the_row_of_the_class_is_edited_and_the_others_are_the_same_function(conv_net, digits):
    probes, _, others, _ = digits.split(3)
    before = conv_net(others)
    result = zsu_fast.forget(conv_net, 3, probes)
    kept = [c for c in range(10) if c != 3]
    assert result.certificate["others"]["rows"] == [3]
    assert torch.equal(conv_net(others)[:, kept], before[:, kept]) and not torch.equal(conv_net(others), before)


def test_a_layer_whose_output_is_written_to_in_place():
    """timm and torchvision add the shortcut in place: behind that, the units are not the layer's alone."""

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.conv, self.norm = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
            self.head = nn.Linear(6, 4)

        def forward(self, x):
            shortcut = F.relu(self.stem(x))
            x = self.norm(self.conv(shortcut))
            x += shortcut
            return self.head(F.relu(x).mean((2, 3)))

    net = Block().eval()
    patch = zsu_fast.perturb_(net, Picks(neurons={"conv": [2]}), sample=IMAGES[:1])
    assert not net.conv.weight[2].any() and not net.norm.bias[2].any()
    assert patch.record["certificate"]["units"][0]["claim"] == "zero for every finite input"
