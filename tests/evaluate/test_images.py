"""Whatever images come from, the same batches come out, or a refusal that names the argument."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import zsu_fast
from tests.sources import SOURCES, STREAMS, Loader, Pairs, Shards, batches
from zsu_fast.evaluate import ImageStream, features, images_of, membership
from zsu_fast.evaluate.images import batches_at, held, images_digest, labelled_images

X, Y = torch.rand(23, 1, 4, 4, generator=torch.Generator().manual_seed(3)), torch.arange(23) % 3


@pytest.mark.parametrize("size", [1, 4, 7, 23, 100])
@pytest.mark.parametrize("source", SOURCES)
def test_batches_are_those_of_the_tensor(source, size) -> None:
    images, beside = images_of("images", SOURCES[source](X, Y))
    assert isinstance(images, ImageStream) is (source in STREAMS)
    for _ in range(2):
        assert all(torch.equal(a, b) for a, b in zip(images.split(size), X.split(size), strict=True))
    assert torch.equal(torch.as_tensor(images.labels if isinstance(images, ImageStream) else beside), Y)
    assert tuple(images.shape) == X.shape and images.dtype == X.dtype and len(images) == 23
    assert images_digest(images) == images_digest(X) != images_digest(X.flip(0))
    assert torch.equal(held(images), X) and torch.equal(images[:3], X[:3])


@pytest.mark.parametrize("source", STREAMS)
@pytest.mark.parametrize("where", [Y == 1, torch.arange(23), torch.tensor([22]), torch.tensor([], dtype=torch.int64)])
def test_parts(source, where) -> None:
    images, _ = images_of("images", STREAMS[source](X, Y))
    part = images[where]
    assert torch.equal(torch.cat([X[:0], *part.split(4)]), X[where]) and len(part) == len(X[where])
    assert torch.equal(part.labels, Y[where]) and part.digest() == images_digest(X[where])
    again = part[torch.arange(len(part)) % 2 == 0]
    assert torch.equal(torch.cat([X[:0], *again.split(4)]), X[where][::2])
    if where.dtype != torch.bool and len(where):
        for (at, batch), (expected, there) in zip(batches_at(images, where, 4), batches_at(X, where, 4), strict=True):
            assert torch.equal(at, expected) and torch.equal(batch, there)
    with pytest.raises(ValueError, match="^images: .* in its own order"):
        images[torch.tensor([3, 2])]


def test_a_part_reads_no_more_than_itself() -> None:
    data = Pairs(X, Y)
    for source in (data, DataLoader(data, 4)):
        images, _ = images_of("images", source)
        part, data.read = images[Y == 1], 0
        list(part.split(3))
        assert data.read == int((Y == 1).sum())


def test_workers() -> None:
    images, _ = images_of("images", DataLoader(Pairs(X, Y), 5, num_workers=1))
    assert torch.equal(held(images), X) and torch.equal(held(images[Y == 2]), X[Y == 2])


def test_a_generator_is_read_once() -> None:
    images, _ = images_of("images", batches(X, Y, 6))
    assert images.once and torch.equal(images[:2], X[:2])
    assert all(torch.equal(a, b) for a, b in zip(images.split(5), X.split(5), strict=True))
    assert torch.equal(images.labels, Y) and images.digest() == images_digest(X) and torch.equal(images[:1], X[:1])
    with pytest.raises(ValueError, match="^images: a generator can be read only once"):
        list(images.split(5))


class Restless(Loader):
    """Other images at every reading: augmentation."""

    def __iter__(self):
        return batches(torch.rand_like(self.x), self.y, self.size)


@pytest.mark.parametrize("source", [Restless(X, Y, 5), DataLoader(TensorDataset(X, Y), 5, shuffle=True)])
def test_other_images_at_the_second_reading_are_refused(source) -> None:
    images, _ = images_of("images", source)
    with pytest.raises(ValueError, match="^images: read again, it gives other images or another order"):
        len(images), list(images.split(5))


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        (None, TypeError, "got NoneType"),
        ("images/", TypeError, "got str"),
        ({"x": X}, TypeError, "got dict"),
        (5, TypeError, "got int"),
        ([1.0, 2.0], TypeError, "got list of float"),
        ([], ValueError, "N >= 1, got none"),
        ([X[0], X[0, :, :2]], ValueError, r"of one kind, torch.float32 \(1, 4, 4\), got .* at 1"),
        (np.array(["a"]), TypeError, "array of <U1"),
        (DataLoader([{"x": X[0]}]), TypeError, "images or .images, labels., got dict; a transform or a collate_fn"),
        (Pairs(X[:, 0, 0, 0], None), ValueError, r"got shape \(1,\)"),
        (Loader(X[:0], None, 4), ValueError, "N >= 1, got none"),
        (Loader(X, Y.float(), 4), TypeError, "labels: expected 4 class indices, got torch.float32"),
        (Loader(X, Y[:22], 23), ValueError, r"labels: expected 23 class indices, got shape \(22,\)"),
        ([X[:3, 0], X[:2, 0]], ValueError, "of one kind"),
        ((a for a in (X[:2], (X[:2], Y[:2]))), ValueError, "some of its batches come with labels"),
        ((a for a in (X[:2], X[:2, :, :3])), ValueError, "of one kind, .* at 2"),
        ((a for a in (X[:2], X[:2].double())), ValueError, "of one kind, .* at 2"),
    ],
)
def test_refusals(given, error, text) -> None:
    with pytest.raises(error, match=f"^images.*{text}"):
        len(images_of("images", given)[0])


def test_finite() -> None:
    spoilt = X.clone()
    spoilt[9, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match="^probes: expected finite values"):
        len(images_of("probes", Pairs(spoilt, None), finite=True)[0])
    assert len(images_of("probes", Pairs(spoilt, None))[0]) == 23


def test_strange_arrays() -> None:
    read_only = X.numpy().copy()
    read_only.flags.writeable = False
    for array in (X.numpy()[::-1], read_only, np.asfortranarray(X.numpy())):
        assert np.array_equal(images_of("images", array)[0].numpy(), array)


def test_pairs_of_a_stream_and_labels_beside_it() -> None:
    images, labels = labelled_images("images", (Pairs(X, None), Y.tolist()))
    assert torch.equal(labels, Y) and len(images) == 23
    with pytest.raises(TypeError, match=r"^images: expected a pair \(images, labels\), got Pairs"):
        labelled_images("images", Pairs(X, None))
    with pytest.raises(ValueError, match="^images: a generator can be read only once"):
        labelled_images("images", batches(X, Y, 4))


NET = nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 3))


@pytest.mark.parametrize("source", SOURCES)
def test_evaluate(source) -> None:
    expected = zsu_fast.evaluate(NET, X, Y, 1, batch_size=6)
    seen = []
    told = {"batch_size": 6, "progress": lambda done, total, text: seen.append((done, total))}
    assert zsu_fast.evaluate(NET, SOURCES[source](X, Y), target=1, **told) == expected
    assert zsu_fast.evaluate(NET, SOURCES[source](X, None), Y, 1, batch_size=6) == expected
    assert seen[-1] == (23, 23)
    assert torch.equal(features(NET, SOURCES[source](X, Y), batch_size=6), features(NET, X, batch_size=6))
    with pytest.raises(TypeError, match="^labels: expected 23 class indices, got NoneType"):
        zsu_fast.evaluate(NET, SOURCES[source](X, None), target=1)


def test_evaluate_reads_a_stream_once() -> None:
    data = Pairs(X, Y)
    zsu_fast.evaluate(NET, DataLoader(data, 4), target=1)
    assert data.read <= 23 + 4  # the first batch also tells what kind of images they are
    assert zsu_fast.evaluate(NET, batches(X, Y, 4), target=1) == zsu_fast.evaluate(NET, X, Y, 1)


def test_membership() -> None:
    pytest.importorskip("sklearn")
    images, labels = torch.cat([X, X + 0.1, X - 0.1]), Y.repeat(3)
    found = membership(NET, Pairs(images, labels), Shards(X.flip(0), Y.flip(0), 4))
    assert found == membership(NET, (images, labels), (X.flip(0), Y.flip(0)))
