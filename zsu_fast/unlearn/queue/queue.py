"""Requests one after the other on one model, each with its own patch, into a folder that goes on where it stopped."""

from __future__ import annotations

import datetime
import importlib.util
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from zsu_fast import folder as folders
from zsu_fast.evaluate.given import check_int
from zsu_fast.evaluate.images import ImageStream, images_digest
from zsu_fast.evaluate.inference import Progress
from zsu_fast.lock import Lock
from zsu_fast.model.tensors import model_digest
from zsu_fast.model.wrapped import bare_model
from zsu_fast.sharded import largest_shard
from zsu_fast.unlearn.checkpoint import NAME, digest_of
from zsu_fast.unlearn.forget import forget
from zsu_fast.unlearn.methods import find_method
from zsu_fast.unlearn.options import check_positive
from zsu_fast.unlearn.queue import ledger as ledgers
from zsu_fast.unlearn.queue.ledger import LEDGER, NAMES, PAGES, UNDO, Ledger, Sign
from zsu_fast.unlearn.queue.look import can_look, left_of
from zsu_fast.unlearn.queue.rows import Row, check_id, keyed
from zsu_fast.unlearn.requests import ForgetClass, Request
from zsu_fast.unlearn.result import ForgetResult, jsonable
from zsu_fast.unlearn.synthetic import SyntheticProbes

Again = Callable[[], tuple[Request, Any] | None]
"""Gives the request and `evaluate_on`, to be looked at again; None if there are no images to look at."""


@dataclass(frozen=True)
class Job:
    """One request as a queue carries it out. `Queue.forget` makes these; the command line has its own.

    asked: JSON-able; what must be the same for the request to be the same. work: makes the edit. given: name -> digest
    of the images given, called after `work` or in its place; an empty one is not compared. again: None if its images
    cannot be looked at. pages: writes the report into a folder and gives the names of its files.
    """

    id: str
    note: str
    asked: Mapping[str, Any]
    work: Callable[[], ForgetResult]
    given: Callable[[], Mapping[str, str]]
    again: Again | None
    pages: Callable[[Path, ForgetResult], Sequence[str]] = lambda folder, result: ()


class Queue:
    """Requests to forget, carried out one after the other on one model, in place, and kept in a folder.

        with Queue("withdrawn", model) as queue:
            queue.forget("2026-001", 3, probes)
            queue.forget("2026-002", ForgetInstances(x, y), method="margin")

    The same program, run again with the original model after it was killed, goes on after the last request that was
    finished: those in the ledger are not repeated, their edits are put into the model. A new request is added by a new
    call. One that failed is tried again.

    folder: made if it is not there; locked until `close`. Its undo files have back what was forgotten. model: edited in
    place: the original one, or as an earlier run left it. name: what it is called in the ledger. batch_size: images at
    a time when earlier requests are looked at again. report: write one on each request. metadata, beside: of the file
    with the weights, and name -> text of config.json and preprocessor_config.json, which go with it. max_shard_size:
    bytes of a file of weights; default: as they lie there, or one file. sign: makes the signature of what the ledger
    says, each time it is written; without it a ledger that was signed is not any more once it has changed. checkpoint:
    a folder, of this queue alone, in which methods that train keep what they have come to, under the id of the request:
    one that was killed while it trained goes on from there. What lies there is removed once a request has changed the
    model. checkpoint_every: seconds, as in `zsu_fast.forget`.

    Raises:
        BlockingIOError: another run holds the folder.
        ValueError, TypeError, OSError: naming the argument; neither the folder nor the model was changed.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        model: nn.Module,
        *,
        name: str = "the model",
        batch_size: int = 64,
        report: bool = True,
        metadata: dict[str, str] | None = None,
        beside: Mapping[str, str] | None = None,
        max_shard_size: int | None = None,
        sign: Sign | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: float = 30.0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model: expected a torch.nn.Module, got {type(model).__name__}")
        try:
            self.path = Path(folder)
        except TypeError:
            raise TypeError(f"folder: expected a path, got {type(folder).__name__}") from None
        self.model, self.batch_size, self.report = model, batch_size, report
        self._metadata, self._beside = _texts("metadata", metadata), _texts("beside", beside)
        if unknown := self._beside.keys() - set(ledgers.BESIDE):
            raise ValueError(f"beside: expected {' and '.join(ledgers.BESIDE)}, got {min(unknown)!r}")
        check_int("batch_size", batch_size, 1)
        check_positive("checkpoint_every", checkpoint_every, or_zero=True)
        if max_shard_size is not None:
            check_int("max_shard_size", max_shard_size, 1)
        if sign is not None and not callable(sign):
            raise TypeError(f"sign: expected a function of what the ledger says, got {type(sign).__name__}")
        self._sign, self._every = sign, checkpoint_every
        try:
            self._checkpoint = None if checkpoint is None else Path(checkpoint)
        except TypeError:
            raise TypeError(f"checkpoint: expected a path, got {type(checkpoint).__name__}") from None
        if self._checkpoint is not None and self._checkpoint.resolve() == self.path.resolve():
            raise ValueError(f"checkpoint: expected another folder than that of the queue, got {checkpoint}")
        self._again: dict[str, Again] = {}
        self._closed = False
        self._lock = Lock(self.path, "folder")
        try:
            folders.settle(self.path, NAMES)
            self._name, self._files, self._rows = name, dict[str, str](), list[Row]()
            self._original = self._now = model_digest(model)
            self._shard = largest_shard(self.path) if max_shard_size is None else max_shard_size
            if (self.path / LEDGER).is_file():
                self._go_on(Ledger(self.path))
            elif there := folders.found(self.path, NAMES):
                raise ValueError(f"folder: {self.path} holds {there[0]}, and no ledger: give another folder")
        except BaseException:
            self._lock.close()
            raise

    def _go_on(self, found: Ledger) -> None:
        """The edits of the ledger in the model."""
        if self._now not in (found.original, found.now):
            raise ValueError(
                f"model: is another than {found.name} of the ledger in {self.path}: its SHA-256 is {self._now[:12]}.., "
                f"expected {found.original[:12]}.. (the original)"
            )
        made = []
        try:
            for row in found.placed if self._now == found.original else ():
                patch = found.patch(row)
                patch.apply_(self.model)
                made.append(patch)
            if model_digest(self.model) != found.now:
                raise ValueError(f"folder: the undo files in {self.path} do not make the model that its ledger has")
            self._name, self._original, self._now = found.name, found.original, found.now
            self._rows, self._files = list(found.rows), found.files
            if self._sign is not None:
                self._commit(self._rows, self._now)
        except BaseException:
            for patch in reversed(made):
                patch.revert(self.model)
            raise

    @property
    def rows(self) -> tuple[Row, ...]:
        """What the ledger says, in the order in which the requests were finished."""
        return tuple(self._rows)

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let other runs in. The model stays as it is. Safe to repeat."""
        self._lock.close()
        self._closed = True

    def forget(
        self,
        id: str,
        target: Request | int | str | Sequence[int | str],
        probes: Any = None,
        *,
        note: str = "",
        method: str = "lra-npp",
        probe_labels: Tensor | Sequence[int] | None = None,
        class_names: Mapping[int, str] | Sequence[str] | None = None,
        retain_probes: Any = None,
        evaluate_on: Any = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Row:
        """Carry out one request, as `zsu_fast.forget` does, and write it down; or give what the ledger has of it.

        Then the images of all earlier requests of this `Queue` are looked at again: `row.came_back` says of which more
        is remembered than right after it.

        id: up to 64 letters, digits, dots, underscores and hyphens. note: stands in the ledger. The rest as in
        `zsu_fast.forget`; by the images, the labels and the options a request is known to be the same (what loaders
        give as `retain_probes` and `evaluate_on` is not compared). `SyntheticProbes` are refused: give what
        `synthesise` makes of the original model.

        Raises:
            ValueError: the ledger has this id with another request or other options; nothing was done.
            Whatever `zsu_fast.forget` raises: the model is as it was, and the ledger has the request as "failed".
        """
        if "group" in options:
            raise ValueError("group: a queue is for one process")
        if isinstance(probes, SyntheticProbes):  # what the edited model made when the queue goes on would be others
            raise TypeError(
                "probes: expected images, by which the request is known again, got SyntheticProbes; give as target the "
                "request that zsu_fast.unlearn.synthesise makes of the original model, before the queue is opened"
            )
        own: dict[str, Any] = {
            name: options.pop(name) for name in ("checkpoint", "resume", "checkpoint_every") if name in options
        }

        def request() -> Request:
            if not isinstance(target, (ForgetClass, Request)):
                return ForgetClass(target, probes, probe_labels, class_names)
            if probes is not None or probe_labels is not None or class_names is not None:
                raise TypeError("probes: part of the request already, as labels and names are")
            return target

        given = {"retain_probes": retain_probes, "evaluate_on": evaluate_on}
        asked = request()
        stream = asked.probes if isinstance(asked, ForgetClass) and isinstance(asked.probes, ImageStream) else None
        if stream is not None and stream.once:
            raise ValueError("probes: a generator can be read only once; give a DataLoader, a Dataset or a list")

        def digests() -> dict[str, str]:
            beside = {name: digest_of(value) for name, value in given.items() if value is not None}
            return {"request": digest_of(asked) if stream is None else images_digest(stream)} | beside

        return self.carry_out(
            Job(
                id,
                note,
                {"request": asked.describe(), "method": method, **options},
                lambda: forget(
                    self.model,
                    asked,
                    method=method,
                    progress=progress,
                    **given,
                    **({} if "checkpoint" in own else self.kept_for(id, method)) | own,
                    **options,
                ),
                digests,
                (lambda: (asked, evaluate_on)) if can_look(asked) else None,
                lambda folder, result: _page(folder, id, result, self._name) if self.report else [],
            )
        )

    def carry_out(self, job: Job) -> Row:
        """One request, whoever makes the edit; see `forget`."""
        self._check_open()
        check_id(job.id)
        if not isinstance(job.note, str):
            raise TypeError(f"note: expected text, got {type(job.note).__name__}")
        asked = jsonable(dict(job.asked))
        found = next((row for row in self._rows if row.id.casefold() == job.id.casefold()), None)
        if found is not None and found.id != job.id:
            raise ValueError(f"id: {job.id!r} differs from {found.id!r} of the ledger in the case of letters only")
        if found is not None and found.finished:
            self._check_same(found, asked, job)
            if job.again is not None and found.in_place:
                self._again[job.id] = job.again
            return found
        others = [row for row in self._rows if row.id != job.id]
        now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
        begun = time.perf_counter()

        def row(status: str, sentence: str, after: str, **more: Any) -> Row:
            facts: dict[str, Any] = {"given": {}, "edited": False, "images": None, "left": None, "left_now": None}
            facts |= {"until": 0.0, "came_back_with": None} | more
            seconds = round(time.perf_counter() - begun, 3)
            return Row(
                job.id, job.note, status, asked, sentence=sentence, before=self._now, after=after, time=now,
                seconds=seconds, **facts,
            )  # fmt: skip

        try:
            result = job.work()
        except Exception as error:
            said = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self._commit([*others, row("failed", said, self._now)], self._now)
            raise
        try:
            patch, level = result.patch, result.verdict.level
            after = model_digest(self.model)
            (self.path / UNDO).mkdir(mode=0o700, exist_ok=True)
            (self.path / PAGES).mkdir(exist_ok=True)
            new = row(
                {"answers": "done", "features": "done"}.get(level, level), result.verdict.sentence, after,
                given=keyed(job.given(), patch.key), edited=bool(patch.entries), until=float(result.record["until"]),
            )  # fmt: skip
            patch.save(self.path / new.undo_file)
            pages = [f"{PAGES}/{name}" for name in job.pages(self.path / PAGES, result)]
            new = ledgers.with_files(self.path, new, [new.undo_file, *pages])
            if new.in_place:
                if job.again is not None and (counts := self._left(job.again)) is not None:
                    self._again[job.id] = job.again
                    left, images = counts
                    new = replace(new, images=images, left=left, left_now=left)
                others = self._looked_at(others, job.id)
            self._commit([*others, new], after)
        except BaseException:
            # What is on the disk may be the old or the new: who opens the folder next sees which.
            if result.patch.entries:
                result.patch.revert(self.model)
            self.close()
            raise
        if new.in_place:
            self._drop_checkpoints(job.id)
        return new

    def kept_for(self, id: str, method: str) -> dict[str, Any]:
        """Where the training of a request is kept, as `zsu_fast.forget` takes it; empty where it is not."""
        if self._checkpoint is None or not find_method(method).resumable:
            return {}
        return {"checkpoint": self._checkpoint / id, "resume": True, "checkpoint_every": self._every}

    def _drop_checkpoints(self, id: str) -> None:
        """All are of the model before the edit that this request has just made."""
        if self._checkpoint is None:
            return
        places = {self._checkpoint / id}
        for file in list(self._checkpoint.glob(f"*/{NAME.format('*')}")):
            file.unlink()
            places.add(file.parent)
        for place in places:
            with suppress(OSError):  # it is not there, or something else lies in it
                place.rmdir()

    def look_again(self) -> list[Row]:
        """Look at the images of all requests of this `Queue` whose edits are in the model; those that came back."""
        self._check_open()
        self._commit(self._looked_at(self._rows, None), self._now)
        return [row for row in self._rows if row.came_back]

    def _looked_at(self, rows: Sequence[Row], with_: str | None) -> list[Row]:
        """with_: the request that was just carried out."""
        found = []
        for row in rows:
            again = self._again.get(row.id) if row.in_place else None
            counts = None if again is None else self._left(again)
            if counts is None:
                found.append(replace(row, left_now=None) if with_ is not None else row)
                continue
            left, images = counts
            new = replace(row, images=images, left=left if row.left is None else row.left, left_now=left)
            found.append(replace(new, came_back_with=(row.came_back_with or with_) if new.came_back else None))
        return found

    def _left(self, again: Again) -> tuple[int, int] | None:
        found = again()
        return None if found is None else left_of(bare_model(self.model), *found, self.batch_size)

    def _check_same(self, row: Row, asked: dict[str, Any], job: Job) -> None:
        other = [
            f"{name} was {row.asked.get(name)!r} and is {asked.get(name)!r}"
            for name in sorted({*row.asked, *asked})
            if row.asked.get(name) != asked.get(name)
        ]
        given = {} if other else job.given()
        if given:
            now = keyed(given, Ledger(self.path).patch(row).key)
            other = [
                f"what is given as {name} is not what was given then"
                for name in sorted({*now, *row.given})
                if now.get(name) != row.given.get(name)
            ]
        if other:
            raise ValueError(
                f"request {row.id!r}: is in the ledger already, and {'; '.join(other)}: a changed request needs an id "
                "of its own"
            )

    def _commit(self, rows: Sequence[Row], now: str) -> None:
        state = None
        if now != self._now or not (self.path / LEDGER).is_file():
            state = bare_model(self.model).state_dict()
        beside = None if self._files else self._beside
        ledgers.commit(
            self.path, self._name, self._original, now, rows, self._files, state, self._metadata, beside, self._shard,
            self._sign,
        )  # fmt: skip
        found = Ledger(self.path)
        self._rows, self._now, self._files = list(found.rows), now, found.files

    def _check_open(self) -> None:
        if self._closed:
            raise ValueError("queue: is closed; open the folder again")


def _texts(name: str, given: object) -> dict[str, str]:
    """TypeError for what does not say one text by another."""
    found = {} if given is None else given
    if not isinstance(found, Mapping) or not all(isinstance(text, str) for pair in found.items() for text in pair):
        raise TypeError(f"{name}: expected texts by name, got {given!r}")
    return dict(found)


def _page(folder: Path, id: str, result: ForgetResult, name: str) -> list[str]:
    """The report on one request: with charts where they can be drawn, else Markdown; none of an unknown kind."""
    from zsu_fast.report.of_result import KINDS

    if result.record["request"]["kind"] not in KINDS:
        return []
    file = f"{id}.{'md' if importlib.util.find_spec('matplotlib') is None else 'html'}"
    result.report(folder / file, model=name)
    return [file]
