"""`batch_size="auto"` becomes one number, with which a later call has the same bits; a smaller one if memory ends."""

import copy

import pytest
import torch
from torch import nn

import zsu_fast
from tests.sources import batches
from zsu_fast.evaluate import batch_size as module
from zsu_fast.model.tensors import model_digest

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = pytest.mark.parametrize("method", ["lra-npp", "channels"])


class Bounded(nn.Module):
    """Runs out of memory on more than `most` images, after `calls` forward passes."""

    def __init__(self, net, most, calls=0):
        super().__init__()
        self.net, self.most, self.calls = net, most, calls

    def forward(self, x):
        self.calls -= 1
        if self.calls < 0 and len(x) > self.most:
            torch.empty(2**55, dtype=torch.uint8)
        return self.net(x)


def forget(net, digits, method, **options):
    probes, _, others, labels = digits.split(4)
    options |= {"method": method, "utility_floor": 0.3, "until": 0.5}
    return zsu_fast.forget(net, 4, probes, retain_probes=(others[:90], labels[:90]), **options)


def check_same(net, other, result, expected):
    assert model_digest(net) == model_digest(other) and result.patch.entries
    for part in ("request", "verdict", "picks", "edits", "metrics", "search"):
        assert result.record[part] == expected.record[part], part


@METHODS
def test_what_there_is_room_for_is_recorded_and_has_the_same_bits_again(conv_net, digits, method, monkeypatch):
    nets = [conv_net, *(copy.deepcopy(conv_net) for _ in range(3))]
    ample = forget(nets[0], digits, method)
    assert ample.record["request"]["batch_size"] == 16
    check_same(nets[0], nets[1], ample, forget(nets[1], digits, method, batch_size=16))
    # Room for so many floats of the first layer's output, [16, 8, 8], of which a few are alive at once.
    monkeypatch.setattr(module, "free_memory", lambda device: 2 * 4 * 16 * 64 * 24)
    tight = forget(nets[2], digits, method)
    size = tight.record["request"]["batch_size"]
    assert size in (2, 4, 8)
    monkeypatch.undo()
    check_same(nets[2], nets[3], tight, forget(nets[3], digits, method, batch_size=size))


@METHODS
@pytest.mark.parametrize("calls", [0, 6])
def test_out_of_memory(conv_net, digits, method, calls):
    small, other, strict = (Bounded(copy.deepcopy(conv_net), 5, calls) for _ in range(3))
    digest = model_digest(strict)
    result = forget(small, digits, method)
    assert result.record["request"]["batch_size"] == 4
    other.most = 16
    check_same(small, other, result, forget(other, digits, method, batch_size=4))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        forget(strict, digits, method, batch_size=16)
    assert model_digest(strict) == digest


def test_not_again_what_is_gone(conv_net, digits):
    probes, _, _, _ = digits.split(4)
    net = Bounded(conv_net, 5)
    digest = model_digest(net)
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        zsu_fast.forget(net, 4, batches(probes, None, 7))
    assert model_digest(net) == digest
    net.calls = net.most = 0
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        zsu_fast.forget(net, 4, probes)
