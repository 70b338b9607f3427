"""Oracles: models that were trained without a class by the very recipe, and from the very seed, of their originals.

    python -m bench.oracles --data ../shared/data --models lenet5_mnist resnet20_cifar10 --classes 3 5 8

For each model: the original, then one oracle per class. What is finished is in --cache (`<model>_all.safetensors`,
`<model>_without_3.safetensors`) and is not trained again; what was killed goes on from its last epoch, with the same
bits on the same machine with as many threads. `trained` gives one to other benchmarks.

The nets for CIFAR-10 learn from its training images 0..44999; the others stay unseen.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench import cifar
from bench.training import Recipe, train

CACHE = Path.home() / ".cache" / "zsu_fast"
SEEN = 45_000
BATCH = 500  # of inference


class SmallCNN(nn.Module):
    """conv32, conv64, pooling, 512 hidden units: the net that LRA-NPP (arXiv 2410.23693) forgets digits with."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(channels, 32, 3), nn.Conv2d(32, 64, 3)
        self.hidden, self.head = nn.Linear(64 * (size // 2 - 2) ** 2, 512), nn.Linear(512, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.conv2(F.relu(self.conv1(x)))), 2).flatten(1)
        return self.head(F.relu(self.hidden(x)))


@dataclass(frozen=True)
class Model:
    """likeness: the model of the data folder whose preprocessing, and where `build` is None whose class, it has.

    build: makes one, given the module that defines the models of the data folder.
    """

    dataset: str  # "mnist" | "cifar10"
    likeness: str
    recipe: Recipe
    build: Callable[[Any], nn.Module] | None = None


MODELS = {
    "lenet5_mnist": Model("mnist", "lenet5_mnist", Recipe(epochs=5, peak=0.05)),
    "cnn_mnist": Model("mnist", "vit_mnist", Recipe(epochs=3, peak=0.05), lambda _: SmallCNN(1, 28)),
    # patches of 7 x 7 pixels, 64 wide, four blocks of four heads: an eleventh of the data folder's arithmetic
    "vit_mnist": Model(
        "mnist", "vit_mnist", Recipe(epochs=10, peak=0.1), lambda known: known.ViT(1, 7, 16, 64, 4, 4, 16, 128, 10)
    ),
    "lenet_cifar10": Model("cifar10", "lenet_cifar10", Recipe(epochs=15, peak=0.02, augment=True)),
    "cnn_cifar10": Model(
        "cifar10", "lenet_cifar10", Recipe(epochs=10, peak=0.05, augment=True), lambda _: SmallCNN(3, 32)
    ),
    "resnet20_cifar10": Model("cifar10", "resnet20_cifar10", Recipe(epochs=10, peak=0.3, augment=True)),
}


@dataclass
class Data:
    """What a model learns from and is tested on, model-ready."""

    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor

    def without(self, target: int | None) -> tuple[Tensor, Tensor]:
        kept = torch.ones_like(self.labels, dtype=torch.bool) if target is None else self.labels != target
        return self.images[kept], self.labels[kept]


def definitions(data: Path) -> Any:
    sys.path.insert(0, str(data))
    return importlib.import_module("models")  # stands beside the weights


def data_of(model: Model, known: Any, cache: Path) -> Data:
    preprocess = known.MODELS[model.likeness][1]
    if model.dataset == "mnist":
        (x, y), (test_x, test_y) = known.images("mnist", "train"), known.images("mnist", "test")
    else:
        x, y = (some[:SEEN] for some in cifar.training_set(cache))
        test_x, test_y = known.images("cifar10_test")
    return Data(preprocess(x), torch.as_tensor(y), preprocess(test_x), torch.as_tensor(test_y))


def file_of(name: str, target: int | None, cache: Path) -> Path:
    return cache / "oracles" / f"{name}_{'all' if target is None else f'without_{target}'}.safetensors"


def trained(
    name: str, target: int | None, known: Any, data: Data, cache: Path, say: Callable[[str], None] = print
) -> nn.Module:
    """The model trained on all classes, or without one; from the cache if it is there."""
    model, path = MODELS[name], file_of(name, target, cache)
    path.parent.mkdir(parents=True, exist_ok=True)
    build = partial(model.build, known) if model.build else known.MODELS[model.likeness][0]
    return train(build, model.recipe, *data.without(target), path, lambda text: say(f"{path.stem}: {text}"))


def accuracies(model: nn.Module, data: Data) -> Tensor:
    """[classes], on the test images."""
    with torch.no_grad():
        right = torch.cat([model(batch).argmax(1) for batch in data.test_images.split(BATCH)]) == data.test_labels
    return torch.stack([right[data.test_labels == label].float().mean() for label in data.test_labels.unique()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="folder with models.py and its files")
    parser.add_argument(
        "--cache", type=Path, default=CACHE, help="folder of downloads and trained weights (%(default)s)"
    )
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--classes", nargs="+", type=int, default=list(range(10)), help="classes to leave out, in turn")
    parser.add_argument(
        "--threads", type=int, default=1, help="of torch; another number gives other bits (%(default)s)"
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    known = definitions(arguments.data)
    for name in arguments.models:
        data = data_of(MODELS[name], known, arguments.cache)
        for target in (None, *arguments.classes):
            found = accuracies(trained(name, target, known, data, arguments.cache, say), data)
            said = f"all classes {100 * found.mean():.2f} %"
            if target is not None:
                others = found[torch.arange(len(found)) != target]
                said = f"class {target} {100 * found[target]:.2f} %, the others {100 * others.mean():.2f} %"
            print(f"{file_of(name, target, arguments.cache).stem}: {said}", flush=True)


if __name__ == "__main__":
    main()
