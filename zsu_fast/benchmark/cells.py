"""Cells: what is measured, each under a key that says all that decides its outcome; and the folder that keeps them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsu_fast.atomic import remove_partial, replacing
from zsu_fast.benchmark.case import Case
from zsu_fast.benchmark.settings import ORIGINAL, RETRAINED, TRAIN, Entry, Few, Measures
from zsu_fast.model.tensors import model_digest
from zsu_fast.version import __version__

KIND, FORMAT = "zsu_fast benchmark cell", 1
FOLDER, SETTINGS = "cells", "benchmark.json"


@dataclass(frozen=True)
class Cell:
    """One measurement. method: the name of an entry, or of `REFERENCES`; config: all that decides the outcome."""

    model: str
    target: int
    method: str
    seed: int | None
    config: dict[str, Any]

    @property
    def key(self) -> str:
        return key_of(self.config)

    @property
    def label(self) -> str:
        seed = "" if self.seed is None else f", seed {self.seed}"
        return f"{self.model}, class {self.target}, {self.method}{seed}"


def key_of(config: dict[str, Any]) -> str:
    """SHA-256 of a config's canonical JSON."""
    return hashlib.sha256(canonical(config).encode()).hexdigest()


def canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def planned(
    name: str,
    case: Case,
    entries: Sequence[Entry],
    targets: Sequence[int],
    seeds: Sequence[int],
    few: Few,
    measures: Measures,
) -> Iterator[Cell]:
    """The cells of one model: for each class its references first, then every method with every seed."""
    for target in targets:
        shared = {
            "format": FORMAT,
            "version": __version__,
            "model": case.digests["model"],
            "lessons": case.digests["lessons"],
            "test": case.digests["test"],
            "class": target,
            "measure": measures.to_dict(),
        }
        if measures.membership:
            shared["train"] = case.digests["train"]
        yield Cell(name, target, ORIGINAL, None, shared | {"reference": ORIGINAL})
        if (oracle := case.oracle_of(target)) is not None:
            yield Cell(name, target, RETRAINED, None, shared | {"reference": RETRAINED, "oracle": model_digest(oracle)})
        for seed in seeds:
            for entry in entries:
                config = shared | entry.to_dict() | {"seed": seed}
                if entry.data == TRAIN:
                    config["train"] = case.digests["train"]
                else:
                    config["few"] = {"probes": few.probes, "retain": few.retain}
                yield Cell(name, target, entry.name, seed, config)


class Store:
    """The folder of a benchmark: `benchmark.json`, what all its cells have in common, and `cells/KEY.json`.

    Raises:
        ValueError: the folder holds cells of another config, or files that are no cells.
    """

    def __init__(self, folder: Path, common: dict[str, Any]) -> None:
        self.folder, self.cells = folder, folder / FOLDER
        self._check_common(common)
        self.cells.mkdir(exist_ok=True)
        remove_partial(self.cells)

    def get(self, cell: Cell) -> dict[str, Any] | None:
        """What was measured, or None."""
        path = self.cells / f"{cell.key}.json"
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            if found["kind"] != KIND or found["config"] != cell.config or not isinstance(found["outcome"], str):
                raise ValueError
        except (ValueError, KeyError, TypeError):
            raise ValueError(f"out: {path} is damaged, or of another config than its name says; remove it") from None
        return found

    def put(self, cell: Cell, measured: dict[str, Any]) -> None:
        """Whole or not at all, also when killed."""
        content = {"kind": KIND, "label": cell.label, "config": cell.config} | measured
        _write(self.cells / f"{cell.key}.json", content)

    def _check_common(self, common: dict[str, Any]) -> None:
        """Models, images and measures of one name are the same in all cells: else a table would compare what cannot be
        compared. More models, methods, classes and seeds may come."""
        path = self.folder / SETTINGS
        known: dict[str, Any] = {}
        if path.exists():
            try:
                known = json.loads(path.read_text(encoding="utf-8"))["common"]
                differs = next(_differences(known, common, ""), None)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise ValueError(f"out: {path} was not written by a benchmark, or is damaged") from None
            if differs is not None:
                raise ValueError(
                    f"out: {self.folder} holds results of another config: {differs}; give another folder, or remove it"
                )
        elif self.cells.exists() and any(self.cells.glob("*.json")):
            raise ValueError(f"out: {self.folder} holds cells, and no {SETTINGS} that says of what")
        _write(path, {"kind": "zsu_fast benchmark", "common": _merged(known, common)})


def _write(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _differences(old: dict[str, Any], new: dict[str, Any], where: str) -> Iterator[str]:
    """What both say, and differently."""
    for key in old:
        if key not in new:
            continue
        name = f"{where}{key}"
        if isinstance(old[key], dict) and isinstance(new[key], dict):
            yield from _differences(old[key], new[key], f"{name}.")
        elif old[key] != new[key]:
            was, now = (text if len(text) <= 40 else f"{text[:12]}…" for text in map(str, (old[key], new[key])))
            yield f"{name} was {was}, now it is {now}"


def _merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    both = old | new
    for key in old.keys() & new.keys():
        if isinstance(old[key], dict):
            both[key] = _merged(old[key], new[key])
    return both


def common_to(cases: dict[str, dict[str, str]], measures: Measures) -> dict[str, Any]:
    """What `Store` holds a folder to: model name -> digests, and the measures."""
    return {"version": __version__, "measure": measures.to_dict(), "models": cases}
