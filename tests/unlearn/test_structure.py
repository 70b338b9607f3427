"""What the tracer finds out about a model: layers, BatchNorm followers, heads, classifier, producers."""

import torch
from torch import nn
from torch.nn import functional as F

from zsu_fast.unlearn import model_digest
from zsu_fast.unlearn.structure import Norm
from zsu_fast.unlearn.watch import classifier_inputs, trace_structure

IMAGE = torch.rand(1, 1, 8, 8)


def norms(layer):
    return [norm.tensor for norm in layer.norms]


def test_conv_net(conv_net):
    structure = trace_structure(conv_net, IMAGE)
    assert list(structure.layers) == ["conv1", "conv2", "hidden", "head"]
    assert norms(structure.layers["conv1"]) == ["bn1.weight", "bn1.bias"]
    assert structure.layers["conv1"].bias is None and structure.layers["conv2"].bias == "conv2.bias"
    assert structure.head.name == "head" and structure.head.producer == "hidden"
    assert torch.equal(structure.head.producer_units, torch.arange(48))
    assert structure.neurons() == {"conv1": 16, "conv2": 32, "hidden": 48}


def test_residual_sum_hides_the_producer(trained_nets):
    structure = trace_structure(trained_nets["PooledResNet"], IMAGE)
    assert structure.head.producer is None
    assert norms(structure.layers["conv2"]) == ["bn2.weight", "bn2.bias"]
    assert not structure.layers["conv2"].activated and structure.layers["conv1"].activated


def test_attention_heads(vit):
    structure = trace_structure(vit, IMAGE)
    heads = structure.heads["heads"]
    assert heads.layer == "qkv" and len(heads.rows) == 4
    assert torch.equal(heads.rows[1], torch.arange(64 + 8, 64 + 16))
    assert structure.neurons() == {"fc1": 64, "heads": 4}


def test_multihead_attention_module():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(12, 3, batch_first=True), nn.Linear(12, 5)

        def forward(self, x):
            x = x.flatten(1).reshape(len(x), -1, 12)
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    structure = trace_structure(Net().eval(), torch.rand(1, 1, 8, 12))
    assert [r.tolist() for r in structure.heads["attention.heads"].rows] == [
        list(range(24 + 4 * h, 28 + 4 * h)) for h in range(3)
    ]
    assert structure.layers["attention.in_proj_weight"].bias == "attention.in_proj_bias"
    assert structure.head.name == "head"


def test_pooled_and_flattened_producer_units():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(1, 3, 3), nn.Linear(12, 2)

        def forward(self, x):
            return self.head(F.adaptive_avg_pool2d(F.relu(self.conv(x)), 2).flatten(1))

    structure = trace_structure(Net(), IMAGE)
    assert structure.head.producer_units.tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_batch_norm_without_affine_is_masked_by_its_mean():
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2))
    assert trace_structure(net.eval(), IMAGE).layers["0"].norms == [Norm("1.running_mean", {0: (0,), 1: (1,), 2: (2,)})]


def test_classifiers_behind_a_readout_and_a_slice():
    body = [nn.Flatten(), nn.Linear(64, 4)]
    soft = trace_structure(nn.Sequential(*body, nn.Softmax(1)), IMAGE).head
    assert soft.readout == ["softmax"] and soft.rows == [0, 1, 2, 3]

    class Sliced(nn.Sequential):
        def forward(self, x):
            return 3 * super().forward(x)[:, 1:]

    assert trace_structure(Sliced(*body), IMAGE).head.rows == [1, 2, 3]


def test_logits_that_are_not_a_linear_layers_output():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU())
    assert trace_structure(net, IMAGE).head is None


def test_the_model_is_untouched(conv_net):
    before, identities = model_digest(conv_net), [id(p) for p in conv_net.parameters()]
    versions = [p._version for p in conv_net.parameters()]
    trace_structure(conv_net, IMAGE)
    assert model_digest(conv_net) == before and [id(p) for p in conv_net.parameters()] == identities
    assert [p._version for p in conv_net.parameters()] == versions
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in conv_net.modules())


def test_classifier_inputs(conv_net):
    images = torch.rand(7, 1, 8, 8)
    features, logits = classifier_inputs(conv_net, conv_net.head.weight, images.split(3))
    assert features.shape == (7, 48)
    torch.testing.assert_close(conv_net.head(features), logits)
    torch.testing.assert_close(conv_net(images), logits)


def test_a_grouped_convolution_is_no_classifier():
    """Each of its classes sees inputs of its own: rows cannot be compared."""
    net = nn.Sequential(nn.Conv2d(1, 8, 8), nn.Conv2d(8, 4, 1, groups=2), nn.Flatten())
    structure = trace_structure(net, IMAGE)
    assert structure.head is None and "'1' is no linear map of all its inputs" in structure.no_head
