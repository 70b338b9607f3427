"""A line of the requests file as a `Job` of a queue: what it names read, forgotten, reported, looked at again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from zsu_fast.cli.forget_run import Run
from zsu_fast.cli.request_kinds import Asked, Showing, read
from zsu_fast.cli.requests_file import CLASSIFIER, Line
from zsu_fast.cli.session import Session
from zsu_fast.evaluate.inference import Progress
from zsu_fast.model.tensors import model_digest
from zsu_fast.report import write_report
from zsu_fast.unlearn import ForgetResult
from zsu_fast.unlearn.queue import Job, Ledger
from zsu_fast.unlearn.requests import Request

SUFFIX = {"html": ".html", "md": ".md", "pdf": ".pdf", "card": "~card.md"}
"""Form of a report -> end of the file's name; an id has no tilde, so that no two requests have a file in common."""


class Work:
    """What is read for one line, once, and what is done with it.

    known: the ledger has it. Then what it names may be gone, as images of a person who asked for it should be.
    """

    def __init__(self, session: Session, line: Line, showing: Showing, progress: Progress, known: bool) -> None:
        self.session, self.line, self.known = session, line, known
        self._showing, self._progress = showing, progress
        self._sources: dict[str, list[bytes]] = {}
        self._asked: Asked | None = None
        self._run: Run | None = None

    def asked(self) -> Asked:
        """ValueError, OSError: cannot be read."""
        if self._asked is None:
            self.session.sources = self._sources
            self._asked = read(self.session, self.line)
        return self._asked

    def gone(self) -> str:
        """Of one that is known why it cannot be read, if so; of another one this is an error."""
        try:
            self.asked()
        except (ValueError, OSError) as error:
            if self.known:
                return str(error)
            raise
        return ""

    def job(self, kept: Mapping[str, Any], note: Callable[[str], None]) -> Job:
        """kept: where its training is kept, as `forget` takes it."""
        gone = self.gone() if self.known else ""
        if gone:
            note(f"request {self.line.id} is not looked at again: {gone}")
        given, again = (dict, None) if gone else (self._given, self._again)
        return Job(self.line.id, self.line.note, self.line.asked, lambda: self._work(kept), given, again, self._write)

    def _given(self) -> dict[str, str]:
        """Option -> digest of what was given, in whatever order it came."""
        self.asked()
        return {name: hashlib.sha256(b"".join(sorted(found))).hexdigest() for name, found in self._sources.items()}

    def _work(self, kept: Mapping[str, Any]) -> ForgetResult:
        settings = {"seed": 0, "batch_size": self.session.batch_size} | dict(self.line.options) | dict(kept)
        run = self.asked().work(settings | {"progress": self._progress}, self._showing)
        self._run = replace(run, sources=self._sources) if self.line.of == CLASSIFIER else run
        return run.result

    def _again(self) -> tuple[Request, Any] | None:
        request = self.asked().again()
        return None if request is None else (request, None)

    def _write(self, folder: Path, result: ForgetResult) -> list[str]:
        run = self._run
        if run is None or run.report is None:
            return []
        report = replace(run.report, author=self._showing.author, sources=run.hashed, overlap=run.overlap)
        names = {form: f"{self.line.id}{SUFFIX[form]}" for form in self._showing.formats}
        for form, name in names.items():
            write_report(report, folder / name, form)
        return list(names.values())


def read_texts(works: Sequence[Work], earlier: Ledger | None) -> None:
    """Before the queue is opened: the sensitive words are those that the original finds.

    ValueError for a request that is new and cannot be read, or for another model than the original.
    """
    if earlier is not None and model_digest(works[0].session.loaded.model) != earlier.original:
        raise ValueError(f"MODEL: expected {earlier.name} as it was before the first request, got another model")
    for work in works:
        try:
            work.gone()
        except (ValueError, OSError) as error:
            raise ValueError(f"--requests: request {work.line.id}: {error}") from None
