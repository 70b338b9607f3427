"""A small classifier with its weights and images on the disk, as a user has them; and a way to run commands."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("typer")
pytest.importorskip("PIL")

CLASSES = 4

MODULE = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 24, 3, padding=1)
        self.norm = nn.BatchNorm2d(24)
        self.head = nn.Linear(96, 4)

    def forward(self, x):
        x = torch.relu(self.norm(self.conv(x)))
        return self.head(nn.functional.adaptive_avg_pool2d(x, 2).flatten(1))

def build():
    torch.manual_seed(0)
    return Net()

def build_with_mapping():
    return build(), {"mean": [0.5], "std": [0.25], "size": 8}

def build_with_callable():
    return build(), lambda images: torch.tensor(images).permute(0, 3, 1, 2).float() / 255

def not_a_model():
    return 3
"""


@dataclass
class Workplace:
    """Files of a user: tinynet.py, weights.safetensors, weights.pt, *.npz, and class folders."""

    folder: Path
    model: nn.Module
    images: np.ndarray[Any, Any]
    labels: np.ndarray[Any, Any]


def make_images(count: int, seed: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """uint8 [count, 8, 8, 3]: noise, and one quadrant bright; which one is the class."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    images = draw.integers(0, 120, (count, 8, 8, 3))
    for image, label in zip(images, labels, strict=True):
        row, column = divmod(int(label), 2)
        image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4] += 90
    return images.astype(np.uint8), labels.astype(np.int64)


def fit_head(model: Any, images: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> None:
    """The classifier by ridge regression on the random convolution's features: a trained model without training."""
    batch = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        hidden = torch.relu(model.norm(model.conv(batch)))
        found = nn.functional.adaptive_avg_pool2d(hidden, 2).flatten(1).double()
        found = torch.cat([found, torch.ones(len(found), 1, dtype=torch.float64)], 1)
        aim = nn.functional.one_hot(torch.from_numpy(labels), CLASSES).double()
        solution = torch.linalg.solve(found.T @ found + 0.1 * torch.eye(found.shape[1]).double(), found.T @ aim)
        model.head.weight.copy_(solution[:-1].T * 10)
        model.head.bias.copy_(solution[-1] * 10)


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    from PIL import Image

    folder = tmp_path_factory.mktemp("work")
    (folder / "tinynet.py").write_text(MODULE)
    namespace: dict[str, Any] = {}
    exec(MODULE, namespace)
    model = namespace["build"]().eval()
    fit_head(model, *make_images(400, 1))
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "weights.safetensors", {"arch": "tiny"}
    )
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "weights.pt")
    images, labels = make_images(160, 2)
    np.savez(folder / "test.npz", images=images, labels=labels, classes=np.array(["nw", "ne", "sw", "se"]))
    probes, probe_labels = make_images(96, 3)
    np.savez(folder / "probes.npz", x=probes, y=probe_labels)
    np.savez(folder / "mislabelled.npz", x=images, y=(labels + 1) % CLASSES)
    np.savez(folder / "class2.npz", x=probes[probe_labels == 2])
    for i, image in enumerate(probes[:32]):
        for name in (str(i % CLASSES), ["nw", "ne", "sw", "se"][i % CLASSES]):
            place = folder / ("by_index" if name.isdecimal() else "by_name") / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(place / f"{i:02d}.png")
    return Workplace(folder, model, images, labels)


@dataclass
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def run(workplace: Workplace, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """Run a command in the workplace, in this process."""
    from typer.testing import CliRunner

    from zsu_fast.cli.app import app

    monkeypatch.chdir(workplace.folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setenv("COLUMNS", "100")
    # A command's console listens to the log: later tests would write to its stderr, which is closed by then.
    monkeypatch.setattr(logging.getLogger("zsu_fast"), "handlers", [])

    def call(*arguments: object) -> Outcome:
        result = CliRunner().invoke(app, [str(a) for a in arguments])
        return Outcome(result.exit_code, result.stdout, result.stderr)

    return call
