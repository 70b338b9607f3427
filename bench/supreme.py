"""The methods of SUPREME (arXiv 2606.00380, MIT licence) beside ours: its published method files, run unchanged.

    pip install --no-deps supreme-unlearning==0.1.5
    ZSU_FAST_DATA=../shared/data python -m bench.supreme benchmark bench/supreme_mnist.yaml --out supreme
    python -m bench.field --keep supreme --json bench/results/supreme_lenet5.json
    python -m bench.field --table bench/results/supreme_lenet5.json --page docs/baselines.md

`python -m bench.supreme` is ``zsu-fast`` with the methods of `METHODS` added, by the entry points other packages use.
Its package asks for torch 2.1 and lightning 2.1, which its methods do not need in one process: while its modules are
imported, small stand-ins take the place of lightning, wandb and torchvision, and of its own modules that watch memory,
open debuggers and set up several GPUs. Its methods and its loops of training run as they are installed.

A method gets what `forget` gets: probes are its forget images, `retain_probes` its retain images, both together its
training set. SUPREME means training images (`data: train` in a config). Left out: bad_teacher, which needs an untrained
net of SUPREME's own, and the variants ssd_det and lfssd_det.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from zsu_fast.evaluate.given import check_int
from zsu_fast.evaluate.inference import model_device
from zsu_fast.unlearn.methods import GROUP
from zsu_fast.unlearn.methods.base import FORGET, RETAIN, Given
from zsu_fast.unlearn.methods.baselines.baseline import (
    Baseline,
    BatchOptions,
    check_floating,
    logits,
    retained,
    with_retain,
)
from zsu_fast.unlearn.options import Options, check_positive, option

PACKAGE = "supreme-unlearning"
VERSION = "0.1.5"
FILES = "supreme.methods.unlearning_methods"
BATCH = 64  # SUPREME's own for classes, and ours; its random_labeling and unsir have theirs fixed


class OneProcess:
    """What the files ask of lightning's Fabric, where one process has the model and all images.

    report: called with (which mini-batch of its pass, of how many).
    """

    global_rank, world_size = 0, 1

    def __init__(self, device: torch.device, report: Callable[[int, int], None]) -> None:
        self.device, self._report = device, report

    def setup(self, module: nn.Module, *optimizers: Any) -> Any:
        return (module, *optimizers) if optimizers else module

    def setup_dataloaders(self, *loaders: DataLoader[Any]) -> Any:
        found = [Batches(loader, self.device, self._report) for loader in loaders]
        return found if len(found) > 1 else found[0]

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def all_reduce(self, value: Any) -> Any:
        return value

    def broadcast(self, value: Any, src: int = 0) -> Any:
        return value

    def barrier(self) -> None:
        pass

    def print(self, *texts: object) -> None:
        """Nothing: progress is told mini-batch by mini-batch."""


class Batches:
    """A DataLoader whose mini-batches come on the model's device and are reported."""

    def __init__(self, loader: DataLoader[Any], device: torch.device, report: Callable[[int, int], None]) -> None:
        self.dataset, self._loader, self._device, self._report = loader.dataset, loader, device, report

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[list[Tensor]]:
        for place, batch in enumerate(self._loader, 1):
            yield [part.to(self._device) for part in batch]
            self._report(place, len(self))


class Triples(Dataset[tuple[Tensor, int, int]]):
    """(image, label, label): SUPREME tells subclasses from classes, here they are the same."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images, self.targets = images.cpu(), labels.tolist()

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.images[index], self.targets[index], self.targets[index]


class Answers(nn.Module):
    """A model that gives its logits as a tensor, and that the files do not take for a wrapper. It counts its images.

    learned: images that were run for a gradient.
    """

    def __init__(self, student: nn.Module) -> None:
        super().__init__()
        self.student, self.learned = student, 0

    def forward(self, images: Tensor) -> Tensor:
        self.learned += len(images) if torch.is_grad_enabled() else 0
        return logits(self.student, images)


class Supreme(Baseline):
    """A method file of SUPREME. Its options are the arguments of the file's function, under their names there.

    file: name of the module and of its function. one_class: it forgets no more at a time. ImportError where the package
    is not installed, or is another.
    """

    options: ClassVar[type[Options]] = Options
    file: ClassVar[str]
    one_class: ClassVar[bool] = False

    def check_model(self, structure: Any) -> None:
        published(self.file)  # an error before any work

    def check_probes(self, images: Tensor, targets: Sequence[int]) -> None:
        """ValueError where the file cannot take them."""
        check_floating("probes", images, self.name)
        if self.one_class and len(targets) != 1:
            raise ValueError(f"target: {self.name!r} forgets one class at a time, got {len(targets)}")

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        self.check_probes(images, given.targets)
        fabric = OneProcess(
            model_device(student, images.device),
            lambda done, total: given.progress(done, total, f"{self.name}, a pass"),
        )
        known = {f.name for f in fields(Options)}
        asked = {f.name: getattr(self.asked, f.name) for f in fields(self.asked) if f.name not in known}
        size = asked.pop("train_batch_size", BATCH)

        def loader(images: Tensor, labels: Tensor) -> Any:
            return fabric.setup_dataloaders(DataLoader(Triples(images, labels), size, shuffle=True))

        forget = loader(images, labels) if FORGET in self.needs else None
        retain = loader(*retained(given)) if RETAIN in self.needs else None
        full = loader(*with_retain(given, images, labels)) if RETAIN in self.needs else None
        net = Answers(student)
        with as_single_process(self.asked.seed):
            published(self.file)(
                fabric=fabric,
                num_gpus=1,
                wandb_logging_flag=False,
                model=net,
                type_of_unlearning_strategy="fullclass",
                num_labels=given.forward(given.images[:1]).shape[1],
                forget_label_id=given.targets[0],
                forget_train_dataloader=forget,
                retain_train_dataloader=retain,
                full_train_dataloader=full,
                trainset=full and full.dataset,
                forget_test_dataloader=forget,  # the loops print an accuracy of these, which decides nothing
                retain_test_dataloader=retain,
                **asked,
            )
        given.count(net.learned)
        if not all(bool(parameter.isfinite().all()) for parameter in student.parameters()):
            raise ValueError(f"method: {self.name!r} left parameters that are infinite or NaN")

    def described(self, given: Given) -> dict[str, Any]:
        """What ran."""
        source = Path(inspect.getfile(published(self.file)))
        return {
            "needs": sorted(self.needs),
            "package": f"{PACKAGE} {metadata.version(PACKAGE)}",
            "file": source.name,
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        }


@dataclass(frozen=True)
class SsdOptions(BatchOptions):
    """The values that SUPREME gives its files for classes of CIFAR-100."""

    selection_weighting: float = option("alpha of the paper.", 10.0)
    dampening_constant: float = option("lambda of the paper.", 1.0)

    def check(self) -> None:
        super().check()
        check_positive("selection_weighting", self.selection_weighting)
        check_positive("dampening_constant", self.dampening_constant, or_zero=True)


@dataclass(frozen=True)
class JitOptions(BatchOptions):
    n_epochs: int = option("Passes through the images of the class.", 1)
    n_samples: int = option("Noisy copies of each image.", 10)
    learning_rate: float = option("Of SGD.", 0.001)
    jit_weighting: float = option("Standard deviation of the noise.", 0.1)

    def check(self) -> None:
        super().check()
        check_int("n_epochs", self.n_epochs, 1)
        check_int("n_samples", self.n_samples, 1)
        check_positive("learning_rate", self.learning_rate)
        check_positive("jit_weighting", self.jit_weighting)


@dataclass(frozen=True)
class ScrubOptions(BatchOptions):
    sgda_epochs: int = option("Passes through the retain images.", 10)
    sgda_learning_rate: float = option("Of Adam; a tenth after each of the epochs 5, 8 and 9.", 0.0005)
    sgda_weight_decay: float = option("Of Adam.", 0.1)
    msteps: int = option("Epochs that first go away from the original on the class.", 3)
    gamma: float = option("Weight of the cross entropy on the retain images.", 1.0)
    alpha: float = option("Weight of the divergence from the original there.", 0.5)
    smoothing: float = option("Weight of the distance of the parameters from the original's.", 0.5)

    def check(self) -> None:
        super().check()
        check_int("sgda_epochs", self.sgda_epochs, 1)
        check_int("msteps", self.msteps, 0)
        check_positive("sgda_learning_rate", self.sgda_learning_rate)
        for name in ("sgda_weight_decay", "gamma", "alpha", "smoothing"):
            check_positive(name, getattr(self, name), or_zero=True)


class Ssd(Supreme):
    name, file, options = "supreme-ssd", "ssd", SsdOptions
    needs = frozenset({FORGET, RETAIN})


class LossFreeSsd(Ssd):
    name, file = "supreme-lfssd", "lfssd"


class AdaptiveSsd(Ssd):
    """It sets `selection_weighting` itself and takes the given one where it cannot."""

    name, file = "supreme-assd", "assd"


class Jit(Supreme):
    name, file, options = "supreme-jit", "jit", JitOptions


class Scrub(Supreme):
    name, file, options = "supreme-scrub", "scrub", ScrubOptions
    needs = frozenset({FORGET, RETAIN})


class NegGrad(Supreme):
    """Five epochs at 0.02, which the file fixes."""

    name, file, options = "supreme-neggrad", "neg_grad", BatchOptions


class Finetune(Supreme):
    """Five epochs at 0.02, which the file fixes."""

    name, file, options = "supreme-finetune", "finetune", BatchOptions
    needs = frozenset({RETAIN})


class RandomLabel(Supreme):
    """Three epochs of mini-batches of 128 at 0.0001, which the file fixes."""

    name, file, one_class = "supreme-random-label", "random_labeling", True
    needs = frozenset({FORGET, RETAIN})


class Unsir(Supreme):
    """Its noise has the size of square images with three channels; all else is fixed too."""

    name, file, one_class = "supreme-unsir", "unsir", True
    needs = frozenset({RETAIN})

    def check_probes(self, images: Tensor, targets: Sequence[int]) -> None:
        super().check_probes(images, targets)
        if images.dim() != 4 or images.shape[1] != 3 or images.shape[2] != images.shape[3]:
            raise ValueError(f"probes: {self.name!r} takes images [N, 3, S, S], got {list(images.shape)}")


METHODS: tuple[type[Supreme], ...] = (
    Ssd, LossFreeSsd, AdaptiveSsd, Jit, Scrub, NegGrad, Finetune, RandomLabel, Unsir,
)  # fmt: skip


@lru_cache
def published(file: str) -> Callable[..., Any]:
    """The function of a method file. ImportError, saying what to install, where there is none."""
    try:
        metadata.version(PACKAGE)  # for the record
        with stand_ins():
            return getattr(importlib.import_module(f"{FILES}.{file}"), file)
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"method: {file!r} of SUPREME does not import ({error}); it comes with: "
            f"pip install --no-deps {PACKAGE}=={VERSION}"
        ) from error


@contextmanager
def stand_ins() -> Iterator[None]:
    """Within it SUPREME's modules import without what one process does not need; after it no module is another."""

    def module(name: str, **content: Any) -> ModuleType:
        made = ModuleType(name)
        made.__path__ = []  # of a package: it may have submodules
        vars(made).update(content)
        return made

    def untracked(measure: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *given, **named: {"metric_value_dict": measure(*given, **named)}

    made = [
        module("lightning"),
        module("lightning.fabric", Fabric=OneProcess),
        module("wandb"),
        module("torchvision"),
        module("torchvision.transforms", v2=module("torchvision.transforms.v2", Compose=Compose)),
        module("supreme.utils.fabric.fabric_setup", setup_model_for_inference=lambda fabric, model, strategy: model),
        module("supreme.utils.memory_utils", load_weights_efficiently=None),
        module("supreme.utils.debug_utils", export_train_test_data=None, export_retain_forget_class_distribution=None),
        module("supreme.utils.unlearning.evaluation_utils", track_evaluation_metric=untracked),
    ]
    names = {one.__name__ for one in made}

    def touched() -> dict[str, ModuleType]:
        return {n: m for n, m in sys.modules.items() if n in names or n.partition(".")[0] == "supreme"}

    before = touched()
    for name in before:
        del sys.modules[name]
    sys.modules.update({one.__name__: one for one in made})
    try:
        yield
    finally:
        for name in touched():
            del sys.modules[name]
        sys.modules.update(before)


class Compose:
    """Transforms, one after the other."""

    def __init__(self, transforms: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.transforms = transforms

    def __call__(self, images: Tensor) -> Tensor:
        for transform in self.transforms:
            images = transform(images)
        return images


@contextmanager
def as_single_process(seed: int) -> Iterator[None]:
    """Python's generator, from which files draw labels, seeded, and SUPREME's loaders without workers; then as before.

    SCALENE is its own switch for that.
    """
    state = random.getstate()
    random.seed(seed)
    try:
        with mock.patch.dict(os.environ, {"SCALENE": "1"}):
            yield
    finally:
        random.setstate(state)


class _Entries(metadata.Distribution):
    """What an installed package with these methods would say of itself."""

    def read_text(self, filename: str) -> str | None:
        entries = "".join(f"{kind.name} = bench.supreme:{kind.__name__}\n" for kind in METHODS)
        texts = {"METADATA": "Name: bench-supreme\nVersion: 0\n", "entry_points.txt": f"[{GROUP}]\n{entries}"}
        return texts.get(filename)

    def locate_file(self, path: Any) -> Any:
        return Path(__file__).parent / path


class _Finder(metadata.DistributionFinder):
    def find_spec(self, *_: Any) -> None:
        """It has no modules."""

    def find_distributions(self, context: Any = None) -> list[metadata.Distribution]:
        return [_Entries()] if context is None or context.name in (None, "bench-supreme") else []


@contextmanager
def registered() -> Iterator[None]:
    """Within it `zsu_fast` finds the methods by their names."""
    finder = _Finder()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


def main() -> None:
    from zsu_fast.cli import main as zsu_fast_main

    with registered():
        zsu_fast_main()


if __name__ == "__main__":
    main()
