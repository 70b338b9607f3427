"""What every command does first: the model, its preprocessing, the classes it knows, its images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsu_fast.class_names import ClassNames, read_class_map, read_class_names
from zsu_fast.cli.images import ImageSet, Stream, read_images
from zsu_fast.cli.models import LoadedModel, imagenet_names, load_model
from zsu_fast.cli.parsing import parse_numbers, parse_size
from zsu_fast.cli.processes import current, part
from zsu_fast.evaluate import ProbeResult
from zsu_fast.evaluate.accuracy import Evaluation, predict, summarise
from zsu_fast.evaluate.batch_size import fitting
from zsu_fast.evaluate.inference import Progress, answers_of, inference_mode, logits_of, model_device
from zsu_fast.evaluate.probe import features_and_logits, probe_on_halves
from zsu_fast.unlearn.group import ALONE

HELD = 2**30  # bytes of model-ready images: to decode pictures anew for every look at them takes time


@dataclass
class Session:
    """A loaded model and the sizes in which to run it.

    Attributes:
        class_map: image folder -> class, as the user gave it; None: the folders' names tell.
        note: says something to the user.
    """

    loaded: LoadedModel
    batch_size: int
    device: str
    classes: int | None = None
    class_map: dict[str, int] | None = None
    note: Callable[[str], None] = lambda _: None
    sources: dict[str, list[bytes]] | None = None  # option -> digests of what was read for it; None: not kept

    @property
    def names(self) -> ClassNames:
        return self.loaded.names

    def read(self, path: Path, option: str) -> ImageSet:
        """Images, with labels that are classes of the model."""
        images = read_images(path, self.names, option, self.class_map)
        for remark in images.left_out():
            self.note(f"{option}: {remark}")
        self.adopt(images)
        self.was_given(option, images.digests)
        return images

    def was_given(self, option: str, digests: Callable[[], list[bytes]]) -> None:
        """Keep them in `sources`, if these are kept."""
        if self.sources is not None:
            self.sources[option] = digests()

    def read_labelled(self, path: Path, option: str) -> ImageSet:
        found = self.read(path, option)
        if found.labels is None:
            raise ValueError(f"{option} must be labelled (class folders, or labels in the .npz), got {path}")
        return found

    def adopt(self, images: ImageSet) -> None:
        """Refuse images that are not of the model's classes; their names of the classes are the model's from here."""
        if self.classes is None:
            self.classes = self._count_classes(images)
            if self.names and max(self.names) >= self.classes:
                raise ValueError(
                    f"--class-names go up to {max(self.names)}, the model has classes 0..{self.classes - 1}"
                )
        images.check_classes(self.classes)
        if images.names and not self.loaded.names:
            self.loaded = replace(self.loaded, names=ClassNames(images.names))

    def tensor(self, images: ImageSet) -> Tensor:
        """All images that this process reads, model-ready, on the model's device."""
        if current() is not ALONE:
            whole, images = images, part(images)
            if not len(images):
                return whole.take([0]).tensor(self.loaded.preprocess).to(self.device)[:0]
        return images.tensor(self.loaded.preprocess, self.batch_size).to(self.device)

    def fit(self, images: ImageSet, run: Callable[[Tensor], object]) -> None:
        """A smaller `batch_size`, if there is no memory for `run` of that many images."""
        one = images.take([0]).tensor(self.loaded.preprocess).to(self.device)
        with inference_mode(self.loaded.model):
            self.batch_size = fitting(run, one, self.batch_size)

    def pair(self, images: ImageSet) -> Tensor | tuple[Tensor, Tensor]:
        """All images that this process reads, with their labels if they have some, as `zsu_fast.forget` takes them."""
        found, labels = self.tensor(images), part(images).labels
        return found if labels is None else (found, labels.to(found.device))

    def given(self, images: ImageSet, streams: bool) -> Tensor | tuple[Tensor, Tensor] | Stream:
        """As `pair`; if the method streams, more images than are to be held are read anew each time instead."""
        if streams and current() is ALONE and len(images):
            one = images.take([0]).tensor(self.loaded.preprocess)
            if one.nbytes * len(images) > HELD:
                return images.stream(self.loaded.preprocess, self.batch_size)
        return self.pair(images)

    def retain_and_eval(self, retain: Path | None, evaluation: Path | None) -> dict[str, Any]:
        """Those that are given, by the names that `zsu_fast.forget` has for them. Read first: they may name classes."""
        found = {}
        if retain is not None:
            found["retain_probes"] = self.pair(self.read(retain, "--retain"))
        if evaluation is not None:
            found["evaluate_on"] = self.pair(self.read_labelled(evaluation, "--eval"))
        return found

    def photos(self, batch: Tensor) -> np.ndarray[Any, Any]:
        """Model-ready images [n, C, H, W] as people see them: uint8 [n, H, W, 1 or 3]."""
        values = self.loaded.preprocess.inverse(batch.detach().float().cpu())
        values = values if values.shape[1] in (1, 3) else values.mean(1, keepdim=True)
        return (values.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()

    def evaluate(
        self, images: ImageSet, targets: Sequence[int], progress: Progress, text: str, probe_seed: int | None = None
    ) -> tuple[Evaluation, ProbeResult | None]:
        """As `zsu_fast.evaluate`, but batch by batch from the disk: the images need not fit into memory.

        With ``probe_seed`` also a linear probe: it learns from the features of half of the images of each class,
        drawn with that seed, and is judged on the other half.
        """
        assert images.labels is not None
        model, answers, read, own = self.loaded.model, [torch.empty(0, dtype=torch.int64)], [], part(images)
        for batch in own.batches(self.loaded.preprocess, self.batch_size):
            if probe_seed is None:
                answers.append(predict(model, batch, batch_size=self.batch_size))
            else:
                values, logits = features_and_logits(model, batch, batch_size=self.batch_size)
                found = answers_of(logits)
                answers.append(found)
                read.append(values)
            progress(min((len(answers) - 1) * self.batch_size, len(own)), len(own), text)
        result = summarise(current().gather(torch.cat(answers)), images.labels, targets)
        if probe_seed is None:
            return result, None
        return result, probe_on_halves(torch.cat(read), images.labels, targets, probe_seed)

    def targets(self, given: Sequence[str], option: str = "--target") -> list[int]:
        """Class indices from what the user typed: indices or class names."""
        found = [self.names.find(text, option) for text in given]
        for index in found:
            if index < 0 or (self.classes is not None and index >= self.classes):
                raise ValueError(f"{option} must be one of the classes 0..{(self.classes or 0) - 1}, got {index}")
        if len(set(found)) != len(found):
            raise ValueError(f"{option} must not name a class twice, got {', '.join(given)}")
        return found

    def label(self, index: int) -> str:
        """ "3 (cat)", or "3" if the class has no name."""
        return f"{index} ({self.names[index]})" if index in self.names else str(index)

    def _count_classes(self, images: ImageSet) -> int:
        """Classes of the model, by running it on one image; also where a preprocessing that does not fit is told."""
        model = self.loaded.model
        batch = images.take([0]).tensor(self.loaded.preprocess).to(model_device(model, torch.device("cpu")))
        try:
            with inference_mode(model):
                return logits_of(model(batch)).shape[1]
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise ValueError(
                f"the model does not take the images of {images.source}, which come as {list(batch.shape)} "
                f"(see --size, --mean, --std): {reason}"
            ) from error


def open_session(
    spec: str,
    weights: Path | None,
    *,
    classes: int | None,
    device: str,
    batch_size: int,
    mean: str | None,
    std: str | None,
    size: str | None,
    class_names: str | None = None,
    class_map: Path | None = None,
    note: Callable[[str], None] = lambda _: None,
) -> Session:
    """Load the model and apply what the user said about its preprocessing and its classes."""
    changes: dict[str, Any] = {
        "mean": parse_numbers(mean, "--mean"),
        "std": parse_numbers(std, "--std"),
        "size": parse_size(size),
    }
    check_device(device)
    loaded = load_model(spec, weights, classes=classes, device=device, note=note)
    if any(value is not None for value in changes.values()):
        loaded = replace(loaded, preprocess=loaded.preprocess.overridden(**changes))
    loaded = named(loaded, class_names)
    folders = None if class_map is None else read_class_map(class_map, loaded.names)
    return Session(loaded, batch_size, device, class_map=folders, note=note)


def named(loaded: LoadedModel, class_names: str | None) -> LoadedModel:
    """With the names of its classes that the user gave, if any."""
    if class_names is None:
        return loaded
    return replace(loaded, names=imagenet_names() if class_names == "imagenet" else read_class_names(class_names))


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or that is not there."""
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"--device {device!r} cannot be used: {str(error).strip().splitlines()[0]}") from None
