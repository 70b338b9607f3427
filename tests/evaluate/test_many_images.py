"""Relevance of a stream of images is that of the images, and its means are the means."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import zsu_fast
from tests.sources import SOURCES, batches
from zsu_fast.evaluate import mean_relevance, relevance_batches

torch.manual_seed(0)
NET = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
X, Y = torch.rand(23, 1, 4, 4, generator=torch.Generator().manual_seed(3)), torch.arange(23) % 3


def joined(found):
    found = list(found)
    neurons = {name: torch.cat([each.neurons[name] for each in found]) for name in found[0].neurons}
    return torch.cat([each.input for each in found]), neurons, [len(each.logits) for each in found]


@pytest.mark.parametrize("source", SOURCES)
def test_batches(source):
    for given, target in ((None, None), (Y, Y), (Y, "labels"), (None, 2), (None, Y.tolist())):
        told: list[tuple] = []
        tell = partial(lambda told, *given: told.append(given), told)
        found = relevance_batches(NET, SOURCES[source](X, given), target, batch_size=6, progress=tell)
        inputs, neurons, sizes = joined(found)
        of_all = target is None or isinstance(target, int)
        parts = [slice(at, at + 6) for at in range(0, 23, 6)]
        expected = joined(zsu_fast.relevance(NET, X[part], target if of_all else Y[part]) for part in parts)
        assert torch.equal(inputs, expected[0]) and sizes == [6, 6, 6, 5] and told[-1] == (23, 23, "relevance")
        assert all(torch.equal(neurons[name], expected[1][name]) for name in ("0", "3", "5"))


def test_means():
    whole = zsu_fast.relevance(NET, X, Y, layers=["0", "3"])
    for images in (X, batches(X, None, 7)):
        found = mean_relevance(NET, images, Y, layers=["0", "3"], k=0.4, batch_size=5)
        assert found.images == 23 and list(found.mean) == ["0", "3"]
        for name, values in whole.neurons.items():
            torch.testing.assert_close(found.mean[name], values.double().mean(0))
            torch.testing.assert_close(found.magnitude[name], values.double().abs().mean(0))
            named = values.argsort(descending=True, stable=True)[:, :2]  # 0.4 of 6 and of 5
            assert torch.equal(found.counts[name], torch.bincount(named.flatten(), minlength=values.shape[1]))


def test_a_class_may_be_an_integer_of_numpy():
    found, expected = (joined(relevance_batches(NET, X, target)) for target in (np.int64(2), 2))
    assert torch.equal(found[0], expected[0])


@pytest.mark.parametrize("batch_size", ["auto", 4])
def test_of_no_images_there_is_nothing(batch_size):
    assert list(relevance_batches(NET, X[:0], 1, batch_size=batch_size)) == []
    assert mean_relevance(NET, X[:0], 1, batch_size=batch_size).images == 0


def test_a_generator_of_images_is_read_once():
    assert torch.equal(joined(relevance_batches(NET, batches(X, Y, 4), 1))[0], joined(relevance_batches(NET, X, 1))[0])


@pytest.mark.parametrize("count", [22, 24])
def test_targets_of_a_generator_are_counted_as_it_comes(count):
    with pytest.raises(ValueError, match=f"^target: expected one for each image, got {count}"):
        list(relevance_batches(NET, batches(X, None, 4), torch.arange(count) % 3))


class Bounded(nn.Module):
    def forward(self, x):
        if len(x) > 3:
            torch.empty(2**55, dtype=torch.uint8)
        return NET(x)


def test_out_of_memory_halves_what_is_left():
    inputs, _, sizes = joined(relevance_batches(Bounded(), X, Y))
    torch.testing.assert_close(inputs, zsu_fast.relevance(NET, X, Y).input)
    assert sizes == [2] * 8 + [2, 2, 2, 1]
    with pytest.raises(RuntimeError, match="can't allocate memory"):
        list(relevance_batches(Bounded(), X, Y, batch_size=8))


def test_refusals():
    for message, error, call in (
        ("^images: expected a tensor", TypeError, lambda: relevance_batches(NET, "x/")),
        ("^target: expected 23 class indices", ValueError, lambda: relevance_batches(NET, X, Y[:4])),
        ("^target: expected a class index >= 0", ValueError, lambda: relevance_batches(NET, X, -1)),
        ('^target: expected a class, integers .N., "labels"', ValueError, lambda: relevance_batches(NET, X, "cat")),
        ('^target: "labels" needs', ValueError, lambda: relevance_batches(NET, X, "labels")),
        ("^images: a generator", ValueError, lambda: relevance_batches(NET, batches(X, Y, 4), "labels")),
        ("^batch_size: expected at least 1", ValueError, lambda: relevance_batches(NET, X, batch_size=0)),
        ("^k: expected a share", ValueError, lambda: mean_relevance(NET, X, k=3)),
        ("^k: expected a share", TypeError, lambda: mean_relevance(NET, X, k="all")),
        ("relevance_batches", TypeError, lambda: zsu_fast.relevance(NET, [X])),
    ):
        with pytest.raises(error, match=message):
            call()
