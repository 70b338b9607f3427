"""The file of ``zsu-fast forget --requests``: CSV or YAML, read as data, every row checked before anything is done."""

from __future__ import annotations

import csv
import datetime
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zsu_fast.cli.declared import WAYS_TO_WORDS
from zsu_fast.cli.parsing import parse_latent, parse_model, parse_range, split_key
from zsu_fast.extras import require
from zsu_fast.unlearn import method_options
from zsu_fast.unlearn.forget import configured
from zsu_fast.unlearn.methods import find_method
from zsu_fast.unlearn.queue.rows import check_id

CLASSIFIER, LANGUAGE_MODEL, GENERATOR = "a classifier", "a language model", "a generator"


@dataclass(frozen=True)
class Kind:
    """A kind of request. of: the model that it is asked of. method: by default. must, may: its columns, as the options
    of its command are called.
    """

    of: str
    method: str
    must: tuple[str, ...]
    may: tuple[str, ...]


_GENERATED = ("judge_weights", "range", "draws")
KINDS = {
    "class": Kind(CLASSIFIER, "lra-npp", ("target",), ("probes", "synthetic", "retain", "eval")),
    "instances": Kind(CLASSIFIER, "margin", ("images",), ("goal", "to", "unseen", "retain", "eval")),
    "concept": Kind(
        CLASSIFIER, "concept", ("with", "without"), ("concept", "bank", "layer", "used_by", "retain", "eval")
    ),
    "text": Kind(LANGUAGE_MODEL, "text-poison", ("records",), ("anchors", "held_out", "words")),
    "generator": Kind(
        GENERATOR, "substitute", ("target", "judge", "latent"), ("second_judge", "second_weights", *_GENERATED)
    ),
    "items": Kind(GENERATOR, "hunt", ("items", "unseen", "latent"), ("instead", "judge", *_GENERATED)),
}
COMMON = ("id", "kind", "note", "method", "options")
PATHS = (
    "probes", "retain", "eval", "images", "unseen", "with", "without", "bank", "records", "anchors", "held_out",
    "judge_weights", "second_weights", "items", "instead",
)  # fmt: skip
LISTS = ("target", "used_by")
"""Several are separated by semicolons, or are a list in YAML."""


@dataclass(frozen=True)
class Line:
    """One request as the file has it. given: column -> text, or list of texts; of `PATHS` a path. asked: as typed."""

    id: str
    kind: str
    note: str
    method: str
    given: Mapping[str, Any]
    options: Mapping[str, Any]
    asked: Mapping[str, Any]

    @property
    def of(self) -> str:
        """The model that it is asked of: `CLASSIFIER`, `LANGUAGE_MODEL`, `GENERATOR`."""
        return KINDS[self.kind].of

    @property
    def seed(self) -> int:
        return int(self.options.get("seed", 0))

    def path(self, name: str) -> Path | None:
        found: Path | None = self.given.get(name)
        return found


def read_requests(file: Path) -> list[Line]:
    """The requests of a .csv, .yaml or .yml file, in its order. Paths are relative to the folder of the file.

    Raises:
        ImportError: pyyaml is missing (extra "cli"), for YAML.
        ValueError: naming the request and the column.
    """
    try:
        rows = _csv(file) if file.suffix.lower() == ".csv" else _yaml(file)
    except OSError as error:
        raise ValueError(f"--requests: cannot read {file}: {error.strerror}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"--requests: {file} cannot be read as text: {error}") from None
    lines = []
    for number, row in enumerate(rows, 1):
        who = f"--requests: {file}, request {row.get('id') or number}"
        try:
            lines.append(_line(row, file.parent))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{who}: {error}") from None
    if not lines:
        raise ValueError(f"--requests: {file} holds no request")
    known: dict[str, str] = {}
    for line in lines:
        if (other := known.get(line.id.casefold())) is not None:
            raise ValueError(f"--requests: {file} has the id {line.id!r} twice ({other!r}): each needs its own")
        known[line.id.casefold()] = line.id
        if line.of != lines[0].of:
            raise ValueError(
                f"--requests: {file}, request {line.id}: kind: {line.kind!r} is asked of {line.of}, and {lines[0].id} "
                f"({lines[0].kind!r}) of {lines[0].of}: a queue is of one model"
            )
    return lines


def _csv(file: Path) -> list[dict[str, Any]]:
    """Empty cells are left out; values of other columns than ours are JSON, or else text."""
    with file.open(newline="", encoding="utf-8-sig") as opened:
        reader = csv.DictReader(opened, strict=True)
        rows = list(reader)
    columns = [name.strip() for name in reader.fieldnames or ()]
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t|"):
        raise ValueError(f"--requests: {file}: expected columns parted by commas, got {columns[0]!r}")
    if twice := next((name for name in columns if columns.count(name) > 1), None):
        raise ValueError(f"--requests: {file}: two columns are called {twice!r}")
    found = []
    for number, row in enumerate(rows, 1):
        if None in row:
            raise ValueError(f"--requests: {file}, request {row.get('id') or number}: has more cells than columns")
        cells = {name.strip(): (value or "").strip() for name, value in row.items()}
        texts = _columns(cells.get("kind") or "class") - {"options"}
        found.append({name: value if name in texts else _json(value) for name, value in cells.items() if value})
    return [row for row in found if row]


def _columns(kind: str) -> set[str]:
    """Those that are no options of the method, which may be called as a column of another kind is."""
    of_kind = KINDS.get(kind)
    return {*COMMON, *((*of_kind.must, *of_kind.may) if of_kind else ())}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _yaml(file: Path) -> list[dict[str, Any]]:
    """A list of mappings, or a mapping with such a list under `requests`."""
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise ValueError(f"--requests: expected a .csv, .yaml or .yml file, got {file}")
    yaml = require("yaml", "cli")
    try:
        given = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"--requests: {file} is no YAML: {' '.join(str(error).split())}") from None
    rows = given.get("requests") if isinstance(given, dict) and set(given) == {"requests"} else given
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"--requests: {file} must hold a list of requests, each a mapping")
    return rows


def _line(row: Mapping[str, Any], base: Path) -> Line:
    kind = _text("kind", row.get("kind", "class"))
    if kind not in KINDS:
        raise ValueError(f"kind: expected {', '.join(KINDS)}, got {kind!r}")
    must, may = KINDS[kind].must, KINDS[kind].may
    method = _text("method", row.get("method", KINDS[kind].method))
    options = row.get("options", {})
    if not isinstance(options, dict):
        raise ValueError(f"options: expected a mapping (in CSV a JSON object), got {options!r}")
    known = method_options(method)
    more = {name: value for name, value in row.items() if name not in (*COMMON, *must, *may)}
    for name in (*more, *options):
        if name not in known:
            raise ValueError(
                f"{name}: a request of kind {kind!r} has {', '.join((*COMMON, *must, *may))}, and the options of "
                f"method {method!r}: {', '.join(known)}"
            )
        if name in more and name in options:
            raise ValueError(f"{name}: is given twice, as a column and under options")
    options = {**more, **options}
    configured(method, options)
    if kind not in find_method(method).takes:
        raise ValueError(f"method: {method!r} does not take requests of kind {kind!r}")
    typed = {name: row[name] for name in (*must, *may) if row.get(name) is not None}
    for name in must:
        if name not in typed:
            raise ValueError(f"{name}: a request of kind {kind!r} needs it")
    if kind == "class" and ("probes" in typed) == ("synthetic" in typed):
        raise ValueError("one of probes (images of the class) and synthetic (none) must be given")
    if "bank" in typed and "layer" in typed:
        raise ValueError("layer: the bank says which")
    for judge, weights in (("judge", "judge_weights"), ("second_judge", "second_weights")):
        if weights in typed and judge not in typed:
            raise ValueError(f"{weights}: goes with {judge}")
    given = {name: _value(name, value, base) for name, value in typed.items()}
    asked = {"kind": kind, "method": method} | {
        name: [*map(str, value)] if name in LISTS else str(typed[name]) for name, value in given.items()
    }
    id = row.get("id")
    id = str(id) if isinstance(id, (int, datetime.date)) and not isinstance(id, bool) else id
    return Line(
        check_id(id), kind, _text("note", row.get("note", "")), method, given, options, asked | {"options": options}
    )


def _value(name: str, value: Any, base: Path) -> Any:
    if name in LISTS:
        parts: Iterable[Any] = value if isinstance(value, list) else _text(name, value).split(";")
        return [_text(name, part).strip() for part in parts]
    text = _text(name, value)
    if name in PATHS or (name == "latent" and text.endswith(".npz")):
        return base / Path(text).expanduser()
    if name in _PARSED:
        return _PARSED[name](text, name)
    return text


def _count(text: str, name: str) -> int:
    if not text.isdecimal():
        raise ValueError(f"{name}: expected a whole number, got {text!r}")
    return int(text)


def _way_to_words(text: str, name: str) -> str:
    if text not in WAYS_TO_WORDS:
        raise ValueError(f"{name}: expected {', '.join(WAYS_TO_WORDS)}, got {text!r}")
    return text


def _model(text: str, name: str) -> str:
    parse_model(text, name)
    return text


_PARSED: Mapping[str, Callable[[str, str], Any]] = {
    "latent": parse_latent,
    "range": parse_range,
    "draws": _count,
    "words": _way_to_words,
    "judge": _model,
    "second_judge": _model,
}


def _text(name: str, value: Any) -> str:
    if not isinstance(value, (str, int, float)) or isinstance(value, bool):
        raise ValueError(f"{name}: expected text, got {value!r}")
    return str(value)


def missing_files(lines: Sequence[Line]) -> None:
    """ValueError for the first file of these requests that is not there."""
    for line in lines:
        for name, path in line.given.items():
            if isinstance(path, Path) and not split_key(path)[0].exists():
                raise ValueError(f"--requests: request {line.id}: {name}: no such file or folder: {path}")
