"""What a pass takes is measured, what fits is run, and where memory runs out all the same it is run in halves."""

from functools import partial

import pytest
import torch
from torch import nn

import zsu_fast
from bench.memory import peak_memory as by_the_profiler
from tests.sources import SOURCES
from zsu_fast.evaluate import batch_size, features, relevance_batches
from zsu_fast.evaluate.batch_size import fitting, halving, peak_memory

MIB = 2**20


def blocks(images, each=1, fixed=5):
    """Holds `fixed` MiB and `each` MiB for every image."""
    return [torch.zeros(fixed * MIB, dtype=torch.uint8), torch.zeros(each * MIB * len(images), dtype=torch.uint8)]


def test_peak_of_what_is_alive_at_once():
    def run(x):
        twice = x * 2
        view = twice[1:]  # no bytes of its own
        sums = view + 1  # the peak: both
        del twice, view
        return sums.relu_() + 1

    x = torch.zeros(257, MIB // 4 // 256)  # a MiB and 4 KiB
    assert peak_memory(run, x) == 2 * x.nbytes - x[0].nbytes
    assert peak_memory(lambda x: x.view(-1), x) == 0


@pytest.mark.parametrize("memory", ["normal", "low"])
def test_peak_of_relevance_is_that_of_the_profiler(memory):
    layers = [nn.TransformerEncoderLayer(32, 4, 64, batch_first=True) for _ in range(4)]
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 5)).eval()
    call = partial(zsu_fast.relevance, net, memory=memory)
    x = torch.randn(4, 16, 32)
    call(x)
    expected = by_the_profiler(lambda: call(x), x.device)  # which also sees what kernels have for themselves
    assert peak_memory(call, x) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(
    ("free", "expected", "runs"), [(1000, 64, 1), (150, 64, 2), (130, 32, 2), (16, 2, 2), (12, 1, 2), (1, 1, 2)]
)
def test_what_fits(monkeypatch, free, expected, runs):
    """Half of what is free is there for 5 MiB and 1 MiB for each image."""
    monkeypatch.setattr(batch_size, "free_memory", lambda device: free * MIB)
    seen = []
    assert fitting(lambda x: (seen.append(len(x)), blocks(x)), torch.zeros(1, 4), 64) == expected
    assert seen == [1, 2][:runs]


def test_what_is_not_known_is_left_as_it_is(monkeypatch):
    monkeypatch.setattr(batch_size, "free_memory", lambda device: None)
    assert fitting(pytest.fail, torch.zeros(1, 4), 64) == 64


def test_too_large_for_two(monkeypatch):
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 12 * MIB)

    def run(images):
        if len(images) > 1:
            torch.empty(2**55, dtype=torch.uint8)
        return blocks(images)

    assert fitting(run, torch.zeros(1, 4), 64) == 1


class Small:
    """Takes `most` images at once, and notes how many it was given."""

    def __init__(self, most):
        self.most, self.seen = most, []

    def __call__(self, images):
        self.seen.append(len(images))
        if len(images) > self.most:
            torch.empty(2**55, dtype=torch.uint8)
        return images * 2


def test_halves_from_the_batch_on_that_was_too_much():
    x = torch.arange(23.0)[:, None]
    run = Small(3)
    found = list(halving(run, x.split(8)))
    assert torch.equal(torch.cat(found), x * 2)
    assert run.seen == [8, 4, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]
    run.most, run.seen = 8, []
    growing = halving(run, iter(x.split(8)))
    assert len(next(growing)) == 8
    run.most = 4
    assert [len(part) for part in growing] == [4, 4, 4, 3] and run.seen == [8, 8, 4, 4, 4, 3]


def test_one_image_too_much_and_other_errors_are_raised():
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        list(halving(Small(0), torch.zeros(5, 1).split(5)))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        list(halving(nn.Linear(3, 2), torch.zeros(4, 5).split(4)))


class Net(nn.Module):
    """Runs out of memory on more than `most` images."""

    def __init__(self, most):
        super().__init__()
        self.most, self.fc = most, nn.Linear(4, 3)

    def forward(self, x):
        if len(x) > self.most:
            torch.empty(2**55, dtype=torch.uint8)
        return self.fc(x)


class Pairs(nn.Module):
    """Takes no single image, as nets do that squeeze what they are given."""

    def forward(self, x):
        if len(x) == 1:
            raise ValueError("expected more than one")
        return x @ torch.eye(4)[:, :3]


def test_what_takes_no_single_image_is_tried_on_two(monkeypatch):
    net, x, y = Pairs(), torch.randn(40, 4), torch.arange(40) % 3
    assert zsu_fast.evaluate(net, x, y, 1, batch_size="auto") == zsu_fast.evaluate(net, x, y, 1)
    assert [len(found.logits) for found in relevance_batches(net, x, 1)] == [16, 16, 8]
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 30 * MIB)
    assert fitting(lambda x: (net(x), blocks(x)), torch.zeros(2, 4), 64) == 8  # 5 MiB, and 1 for each
    with pytest.raises(ValueError, match="more than one"):
        fitting(net, x[:1], 64)


@pytest.mark.parametrize("source", ["tensor", "DataLoader"])
def test_evaluate_and_features(source):
    net, x, y = Net(5), torch.randn(40, 4), torch.arange(40) % 3
    plain = nn.Sequential(net.fc)
    given = SOURCES[source](x, y)
    assert zsu_fast.evaluate(net, given, target=1, batch_size="auto") == zsu_fast.evaluate(plain, x, y, 1)
    assert torch.allclose(features(net, given, batch_size="auto"), features(plain, x))
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        zsu_fast.evaluate(net, given, target=1)
    for wrong in (0, "all", 2.0, True):
        with pytest.raises((TypeError, ValueError), match="^batch_size"):
            zsu_fast.evaluate(net, given, target=1, batch_size=wrong)


@pytest.mark.cuda
def test_on_cuda():
    device = torch.device("cuda")
    x = torch.zeros(4, MIB // 4, device=device)
    assert peak_memory(lambda x: (x + 1).relu(), x) == pytest.approx(2 * x.nbytes, rel=0.01)
    net = nn.Sequential(nn.Linear(64, 4096), nn.ReLU(), nn.Linear(4096, 3)).to(device)
    assert fitting(net, torch.zeros(1, 64, device=device), 64) == 64
