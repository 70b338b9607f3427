"""`forget` with nothing but a class and 36 unseen images of it, on trained models; judged on other unseen images."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

import zsu_fast
from zsu_fast.unlearn import model_digest

SETS = {"cifar10": ("cifar10_test",), "mnist": ("mnist", "test")}


@pytest.mark.data
@pytest.mark.parametrize(
    "name", ["lenet_cifar10", "resnet20_cifar10", "vit_p8_45k_cifar10", "lenet5_mnist", "vit_mnist"]
)
def test_defaults(data_dir: Path, name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(data_dir))
    definitions = importlib.import_module("models")
    net, preprocess = definitions.load(name)
    pixels, labels = definitions.images(*SETS[name.rpartition("_")[2]])
    images, labels = preprocess(pixels[:1200]), torch.as_tensor(labels[:1200])
    sys.modules.pop("models")
    digest = model_digest(net)
    before, after = [], []
    for target in (1, 4):
        own = (labels == target).nonzero()[:, 0]
        probes, judged = images[own[:36]], torch.ones(len(labels), dtype=torch.bool)
        judged[own[:36]] = False
        before.append(zsu_fast.evaluate(net, images[judged], labels[judged], target))
        result = zsu_fast.forget(net, target, probes)
        assert result.reached
        after.append(zsu_fast.evaluate(net, images[judged], labels[judged], target))
        result.patch.revert(net)
        assert model_digest(net) == digest
    assert sum(a.forget_accuracy for a in after) / 2 <= 0.10
    for was, now in zip(before, after, strict=True):
        assert now.retain_accuracy >= was.retain_accuracy - 0.01
