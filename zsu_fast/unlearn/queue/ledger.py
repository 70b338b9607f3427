"""The folder of a queue: the model as it is now, one undo file for each request, and the ledger that names them.

`ledger.json` is the point of commit. What has a name of its own (undo files, pages) is written before it and is nothing
until it is named there; the model and the page of the queue are moved into place together with it (`zsu_fast.folder`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from zsu_fast import folder
from zsu_fast.folder import file_digest
from zsu_fast.lock import Lock
from zsu_fast.model.tensors import model_digest
from zsu_fast.sharded import INDEX, SHARDS, WEIGHTS, largest_shard, read_index, write_model, written_in
from zsu_fast.unlearn.patch import Patch
from zsu_fast.unlearn.queue.chain import laid_on, undone
from zsu_fast.unlearn.queue.rows import Row
from zsu_fast.version import __version__

LEDGER, PAGE = "ledger.json", "report.html"
BESIDE = ("config.json", "preprocessor_config.json")
NAMES = (*BESIDE, SHARDS, WEIGHTS, f"{WEIGHTS}{INDEX}", PAGE, LEDGER)
"""What is moved into place together, as `zsu_fast.folder` takes it: the ledger last."""
UNDO, PAGES = "undo", "reports"
FORMAT, VERSION = "zsu_fast.ledger", 1
LIMIT = 256 * 2**20

Sign = Callable[[dict[str, Any]], dict[str, str]]
"""Makes the signature of what a ledger says."""


class Ledger:
    """The ledger of a queue of requests, as it stands in its folder. Nothing is changed but by `undo`.

    rows: in the order in which they were finished. name: what the model is called. original, now: SHA-256 of the model
    before the first request and as it is. signed: whether it has a signature, by whomever.

    Raises:
        FileNotFoundError: no ledger is there.
        ValueError: it is damaged.
        BlockingIOError: a run that was killed has left something, and another run is at it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        try:
            self.path = Path(path)
        except TypeError:
            raise TypeError(f"folder: expected a path, got {type(path).__name__}") from None
        if self.path.is_dir():
            folder.settle_left_over(self.path, NAMES, "folder")
        if not (self.path / LEDGER).is_file():
            raise FileNotFoundError(f"folder: {self.path} holds no {LEDGER}: it is no queue of requests")
        self._read()

    def _read(self) -> None:
        file = self.path / LEDGER
        try:
            if file.stat().st_size > LIMIT:
                raise ValueError("larger than any ledger")
            content = json.loads(file.read_text(encoding="utf-8"), parse_constant=_refused)
            if (content["format"], content["version"]) != (FORMAT, VERSION):
                raise ValueError(f"format {content['format']!r}, version {content['version']!r}")
            self.rows = tuple(Row.of(row) for row in content["requests"])
            self.name, self.original, self.now = (str(content["model"][part]) for part in ("name", "original", "now"))
            self.files = {str(name): str(digest) for name, digest in content["files"].items()}
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ValueError(f"folder: {file} is damaged ({type(error).__name__}: {error})") from None
        self.signed = "signature" in content
        self._content: dict[str, Any] = content

    @property
    def placed(self) -> tuple[Row, ...]:
        """Those whose edits are in the model, the first one first."""
        return tuple(row for row in self.rows if row.in_place)

    def to_dict(self) -> dict[str, Any]:
        """As it stands in the file."""
        return dict(self._content)

    def row(self, id: str) -> Row:
        """ValueError for one that is not there."""
        for row in self.rows:
            if row.id == id:
                return row
        known = ", ".join(row.id for row in self.rows)
        raise ValueError(f"request: {id!r} is not in the ledger of {self.path}, which has {known or 'none'}")

    def patch(self, row: Row) -> Patch:
        """The undo file of a request; without entries where nothing was edited."""
        return Patch.load(self.path / row.undo_file)

    def state(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The model as it is, a state dict on the CPU, and the metadata of its file."""
        file = written_in(self.path) or self.path / WEIGHTS
        return _read_weights(file) if file.name == WEIGHTS else read_index(file, _read_weights)

    def undo(self, id: str, *, sign: Sign | None = None) -> list[str]:
        """Take the edit of one request out of the model, also from the middle; the ids of those laid anew.

        Those after it are undone, then it, then they are laid anew: their elements are bit for bit what they were, and
        where only this request had edited the model is bit for bit what it was before it. A later edit that reaches the
        same elements fits only if it is a mask.

        What is left of the others is not looked at here: `left_now` is None until the queue looks again. Without `sign`
        the ledger has no signature afterwards.

        Raises:
            ValueError: it is not there or not in place; or a later one does not fit: it says which, and what to undo
                first. Or a file is not what the ledger says. Nothing was changed.
        """
        with closing(Lock(self.path, "folder")):
            folder.settle(self.path, NAMES)
            self._read()
            return self._undo(id, sign)

    def _undo(self, id: str, sign: Sign | None) -> list[str]:
        row = self.row(id)
        if not row.in_place:
            what = "is undone already" if row.status == "undone" else f"edited nothing ({row.status})"
            raise ValueError(f"request: {id!r} {what}")
        later = self.placed[self.placed.index(row) + 1 :]
        state, metadata = self.state()
        if model_digest(state) != self.now:
            raise ValueError(f"folder: {WEIGHTS} is not the model that the ledger describes")
        for one in (row, *later):
            if not _is_file(self.path, one.undo_file, one.files.get(one.undo_file, "")):
                raise ValueError(f"folder: {one.undo_file} is missing or not the file that the ledger names")
        patches = {one.id: self.patch(one) for one in (row, *later)}
        for one in reversed((row, *later)):
            state = self._without(state, one, patches[one.id])
        changed = {one.id: replace(one, left_now=None, came_back_with=None) for one in self.placed}
        changed[id] = replace(changed[id], status="undone")
        new, now = {}, row.before
        for one in later:
            try:
                patch = laid_on(patches[one.id], state)
            except ValueError as error:
                order = ", ".join(other.id for other in reversed((row, *later)))
                raise ValueError(
                    f"request: {id!r} cannot be undone by itself: {one.id!r}, made after it, {error}; "
                    f"undo from the end: {order}"
                ) from None
            before, now = now, model_digest(state)
            again = replace(changed[one.id], before=before, after=now)
            if patch.digests != patches[one.id].digests:
                again = replace(again, revision=one.revision + 1)
                again = replace(again, files={n: d for n, d in one.files.items() if n != one.undo_file})
                new[again.undo_file] = patch
            changed[one.id] = again
        for name, patch in new.items():
            patch.save(self.path / name)
        rows = [changed.get(one.id, one) for one in self.rows]
        rows = [with_files(self.path, one, [n for n in (one.undo_file,) if n in new]) for one in rows]
        commit(
            self.path, self.name, self.original, now, rows, self.files, state, metadata,
            shard=largest_shard(self.path), sign=sign,
        )  # fmt: skip
        self._read()
        return [one.id for one in later]

    def before_all(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """The original, by undoing the edits one by one, the last one first, and the metadata of the model's file.

        Raises:
            ValueError: at some step the model is not the one of the hash that the ledger has.
        """
        state, metadata = self.state()
        if model_digest(state) != self.now:
            raise ValueError(f"folder: {WEIGHTS} is not the model that the ledger describes")
        expected = self.now
        for row in reversed(self.placed):
            if row.after != expected:
                raise ValueError(f"folder: the ledger is broken after {row.id}: the next step began elsewhere")
            state, expected = self._without(state, row, self.patch(row)), row.before
        if expected != self.original:
            raise ValueError("folder: the ledger is broken: its first edit began from another model than the original")
        return state, metadata

    def problems(self) -> tuple[list[str], list[str], dict[str, Tensor] | None]:
        """What is wrong with the files, and with the chain of edits, a line each; the original, if undoing leads to it.

        Every file is what the ledger says, and so is the model at each step from the last edit back to the original.
        """
        files = [f"{name} is missing or not the file that was written" for name in wrong_files(self)]
        try:
            return files, [], self.before_all()[0]
        except (ValueError, OSError) as error:
            return files, [str(error).removeprefix("path: ").removeprefix("folder: ")], None

    def _without(self, state: dict[str, Tensor], row: Row, patch: Patch) -> dict[str, Tensor]:
        try:
            state = undone(state, patch, row.before)
        except ValueError as error:
            raise ValueError(f"folder: the undo file of {row.id} does not fit the model: {error}") from None
        if model_digest(state) != row.before:
            raise ValueError(f"folder: without {row.id} the model is not the one that the ledger has before it")
        return state


def wrong_files(ledger: Ledger) -> list[str]:
    """Names of files that are not, byte for byte, what the ledger says, or of which it says nothing."""
    there = [name for name in folder.found(ledger.path, NAMES) if name != LEDGER]
    named = dict.fromkeys([PAGE, *there], "not named") | ledger.files
    for row in ledger.rows:
        named |= row.files
        if row.finished:
            named.setdefault(row.undo_file, "not named")
    return [name for name, digest in named.items() if not _is_file(ledger.path, name, digest)]


def commit(
    path: Path,
    name: str,
    original: str,
    now: str,
    rows: Sequence[Row],
    files: Mapping[str, str],
    state: Mapping[str, Any] | None,
    metadata: dict[str, str],
    beside: Mapping[str, str] | None = None,
    shard: int | None = None,
    sign: Sign | None = None,
) -> None:
    """The new ledger, page and model replace the old ones. To be called under the lock, on a settled folder.

    files: name -> SHA-256 in the ledger before. state: of the model, None if its file is as it was. beside: name ->
    text of files that belong to the model. shard: bytes of a file of weights, None for one.
    """
    from zsu_fast.report.queue import render  # the roof, which stands on this floor

    new = folder.begin(path)
    try:
        for one, text in (beside or {}).items():
            (new / one).write_text(text, encoding="utf-8")
        if state is not None:
            write_model(state, new, metadata, shard)
        (new / PAGE).write_text(render(name, original, now, rows), encoding="utf-8")
        kept = {one: digest for one, digest in files.items() if one in BESIDE or (state is None and one != PAGE)}
        digests = kept | {one: file_digest(new / one) for one in folder.found(new, NAMES)}
        content = content_of(name, original, now, rows, digests)
        if sign is not None:
            content["signature"] = sign(content)
        (new / LEDGER).write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        folder.commit(path, NAMES, keep=kept)
    except BaseException:
        folder.settle(path, NAMES)
        raise
    sweep(path, rows)


def _read_weights(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(str(file), framework="pt") as opened:
            names = opened.keys()
            return {name: opened.get_tensor(name).clone() for name in names}, dict(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise ValueError(f"folder: {file} is not a whole safetensors file ({error})") from None


def content_of(name: str, original: str, now: str, rows: Sequence[Row], files: Mapping[str, str]) -> dict[str, Any]:
    """What stands in the file. files: name -> SHA-256 of those that are moved into place with it."""
    return {
        "format": FORMAT, "version": VERSION, "zsu_fast": __version__,
        "model": {"name": name, "original": original, "now": now},
        "requests": [row.to_dict() for row in rows],
        "files": dict(files),
    }  # fmt: skip


def sweep(path: Path, rows: Sequence[Row]) -> None:
    """Take away what no row names: undo files of an earlier revision, and what a run that was killed had written."""
    named = {file for row in rows for file in (*row.files, row.undo_file)}
    for part in (UNDO, PAGES):
        for file in (path / part).glob("*"):
            if f"{part}/{file.name}" not in named and file.is_file():
                file.unlink()


def with_files(path: Path, row: Row, names: Sequence[str]) -> Row:
    """The row with the digests of files that were written for it."""
    return replace(row, files=row.files | {name: file_digest(path / name) for name in names})


def _refused(constant: str) -> None:
    """ValueError for what is no number in JSON."""
    raise ValueError(f"{constant} is no number")


def _is_file(path: Path, name: str, digest: str) -> bool:
    parts = Path(name).parts
    inside = len(parts) == 1 or (len(parts) == 2 and parts[0] in (UNDO, PAGES) and ".." not in parts)
    return inside and (path / name).is_file() and file_digest(path / name) == digest
