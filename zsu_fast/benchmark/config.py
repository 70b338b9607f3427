"""A benchmark as a YAML file: read as data, every part checked by name before anything is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zsu_fast.benchmark.settings import Entry, Few, Measures, check_json, check_keys, settings_of
from zsu_fast.evaluate.given import check_int, check_seed
from zsu_fast.extras import require

PARTS = ("name", "device", "models", "classes", "methods", "seeds", "few", "measure")
MODEL_PARTS = (
    "model", "weights", "num_classes", "images", "lessons", "test", "train", "most", "oracles", "classes", "mean",
    "std", "size", "published",
)  # fmt: skip
PUBLISHED_PARTS = ("method", "answers", "others", "seconds", "source")
Classes = tuple[int | str, ...] | None


@dataclass(frozen=True)
class ModelEntry:
    """A model of the config: what to load, as the command line takes it.

    model, weights, num_classes, mean, std, size: as of ``zsu-fast forget``. lessons, test: labelled unseen images, a
    folder, .npz or ``python:module:callable`` that gives (uint8 [N, H, W, C], labels); or images: one set, of which
    half of each class becomes lessons. train: what the model learned from. most: so many lessons are taken, and so many
    that judge, as many of each class. oracles: class -> file, a path with ``{class}`` in it, or
    ``python:module:callable`` that takes a class and gives the retrained model or None.
    """

    name: str
    model: str
    weights: str | None = None
    num_classes: int | None = None
    images: str | None = None
    lessons: str | None = None
    test: str | None = None
    train: str | None = None
    most: int | None = None
    oracles: str | Mapping[Any, str] | None = None
    classes: Classes = None
    mean: str | None = None
    std: str | None = None
    size: str | None = None
    published: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True)
class Config:
    """What ``zsu-fast benchmark`` runs."""

    name: str
    models: tuple[ModelEntry, ...]
    methods: tuple[Entry, ...]
    classes: Classes = None
    seeds: tuple[int, ...] = (0,)
    few: Few = field(default_factory=Few)
    measures: Measures = field(default_factory=Measures)
    device: str = "cpu"

    @property
    def classes_by_model(self) -> dict[str, tuple[int | str, ...]]:
        """Where the config names them."""
        asked = {entry.name: entry.classes or self.classes for entry in self.models}
        return {name: classes for name, classes in asked.items() if classes is not None}

    @property
    def needs_training_images(self) -> bool:
        """Whether a method, or membership inference, needs what the models were trained on."""
        return self.measures.membership or any(entry.data == "train" for entry in self.methods)


def read_config(path: str | os.PathLike[str]) -> Config:
    """A config from a YAML file. Its paths are relative to its folder; ``~`` and ``$NAME`` are replaced.

    Raises:
        ImportError: pyyaml is missing (extra "benchmark").
        ValueError, TypeError: naming the setting.
    """
    yaml = require("yaml", "benchmark")
    file = Path(path)
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"config: cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"config: {file} is not YAML: {error}") from None
    return parse_config(given, file.resolve().parent, file.stem)


def parse_config(given: object, folder: Path, name: str = "benchmark") -> Config:
    """A config from what its YAML says."""
    if not isinstance(given, Mapping):
        raise TypeError(f"config: expected settings by name ({', '.join(PARTS)}), got {type(given).__name__}")
    check_keys("", given, PARTS)
    for part in ("models", "methods"):
        if not isinstance(given.get(part), Mapping) or not given[part]:
            raise TypeError(f"{part}: expected a mapping, name: settings, of at least one, got {given.get(part)!r}")
    seeds = given.get("seeds", [0])
    seeds = list(range(check_int("seeds", seeds, 1))) if isinstance(seeds, int) else seeds
    if not isinstance(seeds, list) or not seeds:
        raise TypeError(f"seeds: expected a list, or how many, got {seeds!r}")
    return Config(
        name=_text("name", given.get("name", name)),
        models=tuple(_model(str(key), value, folder) for key, value in given["models"].items()),
        methods=tuple(Entry.of(str(key), value) for key, value in given["methods"].items()),
        classes=_classes("classes", given.get("classes")),
        seeds=tuple(check_seed(seed) for seed in seeds),
        few=settings_of(Few, "few", given.get("few")),
        measures=settings_of(Measures, "measure", given.get("measure")),
        device=_text("device", given.get("device", "cpu")),
    )


def _model(name: str, given: object, folder: Path) -> ModelEntry:
    where = f"models.{name}"
    if not isinstance(given, Mapping):
        raise TypeError(f"{where}: expected settings by name ({', '.join(MODEL_PARTS)}), got {given!r}")
    check_keys(where, given, MODEL_PARTS)
    values: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if "model" not in values:
        raise ValueError(f"{where}.model: is missing")
    if ("images" in values) == ("lessons" in values or "test" in values):
        raise ValueError(f"{where}: needs lessons and test, or images to be halved into both")
    if ("lessons" in values) != ("test" in values):
        raise ValueError(f"{where}.{'test' if 'lessons' in values else 'lessons'}: is missing")
    for key in ("weights", "images", "lessons", "test", "train"):
        if key in values:
            values[key] = _path(f"{where}.{key}", values[key], folder)
    values["model"] = _expanded(f"{where}.model", values["model"])
    if isinstance(oracles := values.get("oracles"), Mapping):
        values["oracles"] = {k: _path(f"{where}.oracles.{k}", v, folder) for k, v in oracles.items()}
    elif oracles is not None:
        values["oracles"] = _path(f"{where}.oracles", oracles, folder)
        if not values["oracles"].startswith("python:") and "{class}" not in values["oracles"]:
            raise ValueError(f"{where}.oracles: expected a path with {{class}} in it, python:.. or files by class")
    for key in ("mean", "std", "size"):  # as on the command line: text
        if isinstance(values.get(key), list):
            values[key] = ("x" if key == "size" else ",").join(map(str, values[key]))
        elif key in values:
            values[key] = str(values[key])
    for key in ("most", "num_classes"):
        if key in values:
            check_int(f"{where}.{key}", values[key], 2)
    values["classes"] = _classes(f"{where}.classes", values.get("classes"))
    values["published"] = _published(f"{where}.published", values.get("published", []))
    return ModelEntry(name, **values)


def _classes(name: str, given: object) -> Classes:
    """Indices or names; "all" or nothing: every class that there are images of."""
    if given is None or given == "all":
        return None
    if not isinstance(given, list) or not given or not all(type(one) in (int, str) for one in given):
        raise TypeError(f"{name}: expected a list of class indices or names, or all, got {given!r}")
    return tuple(given)


def _published(name: str, given: object) -> tuple[Mapping[str, Any], ...]:
    if not isinstance(given, list):
        raise TypeError(f"{name}: expected a list of rows, got {given!r}")
    for row in given:
        if not isinstance(row, Mapping) or not {"method", "source"} <= set(row):
            raise ValueError(f"{name}: each row needs method and source, got {row!r}")
        check_keys(name, row, PUBLISHED_PARTS)
        check_json(name, row)
        for key in ("answers", "others", "seconds"):
            if key in row and (isinstance(row[key], bool) or not isinstance(row[key], (int, float))):
                raise TypeError(f"{name}: {key} of {row['method']} must be a number, got {row[key]!r}")
    return tuple(dict(row) for row in given)


def _path(name: str, given: object, folder: Path) -> str:
    text = _expanded(name, given)
    return text if text.startswith("python:") else str(folder / text)


def _expanded(name: str, given: object) -> str:
    text = os.path.expandvars(os.path.expanduser(_text(name, given)))
    if unknown := re.search(r"\$\{?\w+\}?", text):
        raise ValueError(f"{name}: the environment has no {unknown.group()}")
    return text


def _text(name: str, given: object) -> str:
    if not isinstance(given, str) or not given.strip():
        raise TypeError(f"{name}: expected text, got {given!r}")
    return given
