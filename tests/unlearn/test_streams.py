"""`forget` from streams of images: the edit, its bits and its record are those of the tensors."""

import copy

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import zsu_fast
from tests.sources import SOURCES, STREAMS, Loader, Pairs, batches
from zsu_fast.model.tensors import model_digest
from zsu_fast.unlearn import ForgetClass, select

pytestmark = pytest.mark.usefixtures("one_thread")


def given(digits, make, target=4):
    """The arguments of `forget`, made of tensors by `make(images, labels or None)`."""
    probes, unseen, others, labels = digits.split(target)
    judging = torch.cat([unseen, others[90:]]), torch.cat([torch.full((len(unseen),), target), labels[90:]])
    return {
        "probes": make(probes, None),
        "retain_probes": make(others[:90], labels[:90]),
        "evaluate_on": make(*judging),
    }


def same(net, other, result, expected):
    """Decision, bits and what the record says of the images."""
    assert model_digest(net) == model_digest(other)
    assert result.verdict == expected.verdict and result.picks == expected.picks
    assert (result.before, result.after, result.budget) == (expected.before, expected.after, expected.budget)
    for part in ("picks", "edits", "metrics", "evaluation", "search", "cost"):
        assert result.record[part] == expected.record[part], part
    assert result.record["probes"]["shape"] == expected.record["probes"]["shape"]


@pytest.mark.parametrize("source", STREAMS)
def test_forget(conv_net, digits, source):
    forgotten_alike(conv_net, digits, source, "lra-npp")


@pytest.mark.parametrize("method", ["lra-npp", "channels"])
def test_other_models(net, digits, method):
    forgotten_alike(net, digits, "DataLoader", method)


def forgotten_alike(net, digits, source, method):
    other = copy.deepcopy(net)
    options = {"method": method, "batch_size": 8, "utility_floor": 0.3, "until": 0.5}
    expected = zsu_fast.forget(other, 4, **options, **given(digits, SOURCES["tensor"]))
    result = zsu_fast.forget(net, 4, **options, **given(digits, SOURCES[source]))
    assert result.patch.entries
    if method == "channels":  # a stream is judged in its own order, so fewer or more may be run before it is clear
        result.record["cost"]["images_forwarded"] = expected.record["cost"]["images_forwarded"]
    same(net, other, result, expected)


@pytest.mark.parametrize("source", ["array", "list", "Dataset"])
def test_methods_that_train_get_tensors(conv_net, digits, source):
    other = copy.deepcopy(conv_net)
    expected = zsu_fast.forget(other, 4, method="finetune", epochs=1, **given(digits, SOURCES["tensor"]))
    result = zsu_fast.forget(conv_net, 4, method="finetune", epochs=1, **given(digits, SOURCES[source]))
    same(conv_net, other, result, expected)


def test_labels_come_with_the_probes(conv_net, digits):
    other = copy.deepcopy(conv_net)
    own = torch.isin(digits.unseen_y, torch.tensor([1, 7]))
    x, y = digits.unseen_x[own][:80], digits.unseen_y[own][:80]
    expected = zsu_fast.forget(other, [1, 7], x, probe_labels=y)
    for probes in (Loader(x, y, 9), (x, y), (Pairs(x, None), y)):
        again = copy.deepcopy(conv_net)
        same(again, other, zsu_fast.forget(again, [1, 7], probes), expected)
    digest = model_digest(conv_net)
    with pytest.raises(ValueError, match=r"^probe_labels: expected each of the targets \[1\]"):
        zsu_fast.forget(conv_net, 1, Loader(x, y, 9))
    with pytest.raises(ValueError, match="^probe_labels: needed with several targets"):
        zsu_fast.forget(conv_net, [1, 7], Loader(x, None, 9))
    assert model_digest(conv_net) == digest


def test_retained_images_without_labels(conv_net, digits):
    other = copy.deepcopy(conv_net)
    probes, _, others, _ = digits.split(4)
    mixed = torch.cat([others[:40], probes[:3], others[40:70]])
    expected = zsu_fast.forget(other, 4, probes, retain_probes=mixed, method="channels")
    result = zsu_fast.forget(conv_net, 4, Pairs(probes, None), retain_probes=Loader(mixed, None, 8), method="channels")
    result.record["cost"]["images_forwarded"] = expected.record["cost"]["images_forwarded"]
    same(conv_net, other, result, expected)


def test_select(conv_net, digits):
    images = given(digits, SOURCES["tensor"]), given(digits, SOURCES["DataLoader"])
    for arguments in images:
        del arguments["evaluate_on"]
    for method in ("lra-npp", "channels"):
        tensors, streams = (select(conv_net, 4, budget=7, method=method, **arguments) for arguments in images)
        assert tensors == streams and len(tensors) == 7


def test_a_generator_is_read_once(conv_net, digits):
    other, untouched, digest = copy.deepcopy(conv_net), copy.deepcopy(conv_net), model_digest(conv_net)
    probes, _, others, labels = digits.split(4)
    expected = zsu_fast.forget(other, 4, probes, retain_probes=(others[:90], labels[:90]))
    retained = batches(others[:90], labels[:90], 7)
    result = zsu_fast.forget(conv_net, 4, batches(probes, None, 7), retain_probes=retained)
    images, again = (images for images, _ in batches(others[:90], labels[:90], 7)), copy.deepcopy(untouched)
    beside = zsu_fast.forget(again, 4, probes, retain_probes=(images, labels[:90]))
    for found, net in ((result, conv_net), (beside, again)):
        assert found.record["cost"]["images_forwarded"] == len(probes) + 90  # each once
        found.record["cost"] = expected.record["cost"]
        same(net, other, found, expected)
    for message, arguments in {
        "^probes: a generator can be read only once, and method 'channels' runs them": {"method": "channels"},
        "^probes: a generator can be read only once, and method 'lra-npp' along path 'neuron'": {"path": "neuron"},
        "^retain_probes: a generator .* must bring labels": {"retain_probes": batches(others, None, 7)},
        "^retain_probes labels: the model has classes": {"retain_probes": batches(others, labels + 5, 7)},
        "^retain_probes: hold images of the classes": {"retain_probes": batches(digits.unseen_x, digits.unseen_y, 7)},
        "^evaluate_on: a generator can be read only once": {"evaluate_on": batches(others, labels, 7)},
    }.items():
        with pytest.raises(ValueError, match=message):
            zsu_fast.forget(untouched, 4, batches(probes, None, 7), **arguments)
        assert model_digest(untouched) == digest
    for method in ({"method": "channels"}, {"path": "rows"}, {"preset": "mnist_cnn"}, {"authors_compat": True}):
        retained = batches(others, labels, 7)
        with pytest.raises(ValueError, match="^retain_probes: a generator can be read only once, and method"):
            zsu_fast.forget(untouched, 4, probes, retain_probes=retained, **method)
        assert len(next(retained)[0]) == 7 and model_digest(untouched) == digest


def test_what_is_wrong_with_a_stream_is_said_before_any_edit(conv_net, digits):
    probes, _, others, labels = digits.split(4)
    digest = model_digest(conv_net)
    spoilt = probes.clone()
    spoilt[20, 0, 0, 0] = torch.inf
    shuffled = DataLoader(TensorDataset(probes), 7, shuffle=True)
    for message, arguments in {
        "^probes: expected finite values": {"probes": Pairs(spoilt, None)},
        "^probes: torch.float64, the model is torch.float32": {"probes": Pairs(probes.double(), None)},
        r"^probes: the model does not take a batch of shape \(\d, 1, 8, 4\)": {"probes": Pairs(probes[..., :4], None)},
        "^probes: read again, it gives other images or another order": {"probes": shuffled},
        "^retain_probes: hold images of the classes": {"retain_probes": Pairs(digits.unseen_x, digits.unseen_y)},
        "^evaluate_on: holds no image of class 4": {"evaluate_on": Loader(others, labels, 9)},
        "^evaluate_on: expected a pair": {"evaluate_on": Loader(others, None, 9)},
        r"^evaluate_on: the model does not take a batch of shape \(1, 1, 8, 4\)": {
            "evaluate_on": Pairs(digits.unseen_x[..., :4], digits.unseen_y)
        },
    }.items():
        with pytest.raises((ValueError, TypeError), match=message):
            zsu_fast.forget(conv_net, 4, **{"probes": probes} | arguments)
        assert model_digest(conv_net) == digest
    with pytest.raises(ValueError, match="^probes: expected images .* got none"):
        zsu_fast.forget(conv_net, ForgetClass(4, Pairs(probes[:0], None)))
