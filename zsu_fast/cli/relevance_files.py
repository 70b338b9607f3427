"""What ``zsu-fast relevance`` found, and the files that it writes: pictures or arrays, with JSON beside."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsu_fast import plot
from zsu_fast.cli.images import ImageSet
from zsu_fast.cli.session import Session
from zsu_fast.evaluate.inference import Progress
from zsu_fast.extras import require
from zsu_fast.lrp import Conservation
from zsu_fast.report.files import write_text
from zsu_fast.version import __version__

# Panels of neurons: a few layers over the depth if none were asked for, else as many as can be looked at.
FEW_PANELS, MOST_PANELS = 6, 24


@dataclass(frozen=True)
class Findings:
    """Relevance of N images for each target.

    Attributes:
        targets: class indices; None is each image's answer.
        titles: what to call them.
        inputs: for each target the relevance of the inputs, [n, ...] of the first n images; empty if none was kept.
        neurons: for each target that of the units, by layer, [N, units].
        logits: [N, classes].
        books: for each target the conservation of the first batch, if it was checked.
    """

    targets: list[int | None]
    titles: list[str]
    inputs: list[Tensor]
    neurons: list[dict[str, Tensor]]
    logits: Tensor
    books: list[Conservation]

    def summary(self, top: int) -> dict[str, Any]:
        """Means over the images, as JSON; None where a number is not finite."""
        told = []
        for target, title, neurons in zip(self.targets, self.titles, self.neurons, strict=True):
            logits = self.logits.max(1).values if target is None else self.logits[:, target]
            layers = [{"layer": name, **strongest(values.mean(0), top)} for name, values in neurons.items()]
            told.append({"target": target, "name": title, "mean_logit": number(logits.mean()), "layers": layers})
        for one, books in zip(told, self.books, strict=False):
            one["conservation"] = _finite(books.to_dict())
        return {"zsu_fast": __version__, "images": len(self.logits), "targets": told}

    def remarks(self) -> list[str]:
        """What a reader should know before believing the numbers."""
        bad = [name for neurons in self.neurons for name, values in neurons.items() if not values.isfinite().all()]
        return [f"relevance is not finite everywhere, first in layer {bad[-1]}"] if bad else []


class RelevanceFiles:
    """Files named after one, which is NAME.png, NAME.svg or NAME.npz.

    Raises:
        ValueError: another suffix.
        FileExistsError: one of the files is there and ``force`` is not given.
        ImportError: matplotlib is missing (extra "report"), and pictures are asked for.
    """

    def __init__(self, path: Path, force: bool, check: bool = False) -> None:
        self.path, self.suffix = path, path.suffix.lower()
        self.arrays = self.suffix == ".npz"
        if self.suffix not in (".png", ".svg", ".npz"):
            raise ValueError(f"--out must end in .png, .svg or .npz, got {path}")
        if not self.arrays:
            require("matplotlib", "report")
        names = ["", ".json"] + ([] if self.arrays else [".layers", ".neurons"] + [".conservation"] * check)
        there = [file for file in map(self._file, names) if file.exists()]
        if there and not force:
            raise FileExistsError(f"--out: {there[0]} is there already (--force overwrites)")

    def write(
        self,
        findings: Findings,
        result: dict[str, Any],
        session: Session,
        images: ImageSet,
        *,
        overlay: bool,
        cell: int | None,
        all_layers: bool,
        progress: Progress,
    ) -> dict[str, str]:
        """Write everything; returns the paths by what they hold."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        files: dict[str, str] = {}
        if self.arrays:
            _write_arrays(findings, self.path)
            files["arrays"] = str(self.path)
        else:
            named = dict(zip(findings.titles, findings.neurons, strict=True))
            layers = list(findings.neurons[0])
            if all_layers:  # but the last: it is the classifier, whose relevance lies on the target by definition
                layers = _evenly(layers[:-1] or layers, FEW_PANELS)
            layers = _evenly(layers, MOST_PANELS // len(named))
            pictures = {
                "heatmaps": ("", lambda: self._heatmaps(findings, session, images, overlay, cell)),
                "layers": (".layers", lambda: plot.layers(named)),
                "neurons": (".neurons", lambda: plot.neurons(named, layers)),
            }
            if findings.books:
                books = dict(zip(findings.titles, findings.books, strict=True))
                pictures["conservation"] = (".conservation", lambda: plot.conservation(books))
            if findings.inputs[0].dim() != 4:  # no images
                del pictures["heatmaps"]
            for done, (what, (middle, draw)) in enumerate(pictures.items(), 1):
                plot.save(draw(), self._file(middle))
                files[what] = str(self._file(middle))
                progress(done, len(pictures), "pictures")
        files["json"] = str(self._file(".json"))
        write_text(json.dumps(result | {"files": files}, indent=2, allow_nan=False) + "\n", files["json"])
        return files

    def _file(self, kind: str) -> Path:
        return self.path.with_suffix(".json" if kind == ".json" else kind + self.path.suffix)

    def _heatmaps(self, findings: Findings, session: Session, images: ImageSet, overlay: bool, cell: int | None) -> Any:
        shown = images.take(range(len(findings.inputs[0])))
        side = min(findings.inputs[0].shape[2:])
        return plot.heatmaps(
            dict(zip(findings.titles, findings.inputs, strict=True)),
            session.photos(session.tensor(shown)),
            overlay=overlay,
            samples=_captions(findings, session, shown),
            scale="sample",
            cell=cell or max(1, side // 64),
        )


def _captions(findings: Findings, session: Session, shown: ImageSet) -> Sequence[str] | None:
    """What an image is: its label, else the model's answer if that is what is explained, else its file."""
    if shown.labels is not None:
        indices: list[int] = shown.labels.tolist()
    elif findings.targets == [None]:
        indices = findings.logits[: len(shown)].argmax(1).tolist()
    else:
        return [path.name for path in shown.files] or None
    return [session.names.get(index, f"class {index}") for index in indices]


def _write_arrays(findings: Findings, path: Path) -> None:
    """Arrays with the targets as first dimension."""
    arrays: dict[str, Any] = {
        f"neurons/{name}": torch.stack([neurons[name] for neurons in findings.neurons]).numpy()
        for name in findings.neurons[0]
    }
    answers = findings.logits.argmax(1)
    targets = [answers if target is None else torch.full_like(answers, target) for target in findings.targets]
    with path.open("wb") as file:  # a file object: numpy would append .npz to NAME.NPZ
        np.savez_compressed(
            file,
            input=torch.stack(findings.inputs).numpy(),
            logits=findings.logits.numpy(),
            targets=torch.stack(targets).numpy(),
            **arrays,
        )


def strongest(average: Tensor, top: int) -> dict[str, Any]:
    """A layer's units, the sum of their relevance, and those of most, as JSON."""
    size, strongest = average.abs().nan_to_num(0.0, 0.0).topk(min(top, len(average)))
    picks = [{"unit": unit, "relevance": number(average[unit])} for unit in strongest[size > 0].tolist()]
    return {"units": len(average), "sum": number(average.sum()), "top": picks}


def number(value: Tensor) -> float | None:
    """For JSON, which knows no NaN."""
    found = float(value)
    return found if math.isfinite(found) else None


def _finite(value: Any) -> Any:
    """JSON knows no NaN: None in its place."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _evenly(names: list[str], most: int) -> list[str]:
    """At most so many of the names, evenly over the depth, the last included."""
    most = max(1, most)
    if len(names) <= most:
        return names
    return [names[round((i + 1) * len(names) / most) - 1] for i in range(most)]
