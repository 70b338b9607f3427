"""A line of the requests file as a `Job` of a queue: its images read, forgotten, reported, looked at again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from zsu_fast.cli import forget_concept_run, forget_instances_run
from zsu_fast.cli.forget_run import Images, Run, read_forget_images, run_forget
from zsu_fast.cli.requests_file import Line
from zsu_fast.cli.session import Session
from zsu_fast.evaluate.inference import Progress
from zsu_fast.report import write_report
from zsu_fast.unlearn import ForgetClass, ForgetResult, SyntheticProbes
from zsu_fast.unlearn.queue import Job
from zsu_fast.unlearn.requests import Request

SUFFIX = {"html": ".html", "md": ".md", "pdf": ".pdf", "card": "~card.md"}
"""Form of a report -> end of the file's name; an id has no tilde, so that no two requests have a file in common."""


@dataclass(frozen=True)
class Showing:
    """How each request is reported: forms, the images themselves as well, by whom."""

    formats: Sequence[str]
    photos: bool
    author: str | None


class _Work:
    """What is read for one line, once, and what is done with it."""

    def __init__(
        self, session: Session, line: Line, showing: Showing, progress: Progress, kept: Mapping[str, Any]
    ) -> None:
        self.session, self.line, self.showing, self.progress, self.kept = session, line, showing, progress, kept
        self._read: Any = None
        self._sources: dict[str, list[bytes]] = {}
        self._run: Run | None = None

    def read(self) -> Any:
        """The request (of a class its `Images`), and what was given beside it. ValueError, OSError: cannot be read."""
        if self._read is None:
            self.session.sources = {}
            self._read = _READERS[self.line.kind](self.session, self.line)
            self._sources = self.session.sources
        return self._read

    def given(self) -> dict[str, str]:
        """Option -> digest of the images, in whatever order they came."""
        self.read()
        return {name: hashlib.sha256(b"".join(sorted(found))).hexdigest() for name, found in self._sources.items()}

    def work(self) -> ForgetResult:
        found = self.read()
        self._run = replace(_FORGET[self.line.kind](self, found), sources=self._sources)
        return self._run.result

    def pages(self, folder: Path, result: ForgetResult) -> list[str]:
        run = self._run
        if run is None or run.report is None:
            return []
        report = replace(run.report, author=self.showing.author, sources=run.hashed, overlap=run.overlap)
        names = {form: f"{self.line.id}{SUFFIX[form]}" for form in self.showing.formats}
        for form, name in names.items():
            write_report(report, folder / name, form)
        return list(names.values())

    def settings(self) -> dict[str, Any]:
        return {"seed": 0, "batch_size": self.session.batch_size} | dict(self.line.options) | dict(self.kept)

    def again(self) -> tuple[Request, Any] | None:
        found = self.read()
        return _of_classes(self.session, found) if isinstance(found, Images) else (found[0], None)


def job_of(
    session: Session,
    line: Line,
    showing: Showing,
    progress: Progress,
    kept: Mapping[str, Any],
    known: bool,
    note: Callable[[str], None],
) -> Job:
    """kept: where its training is kept, as `forget` takes it. known: the ledger has it. Then its images may be gone, as
    those of a person who asked for it should be.
    """
    work = _Work(session, line, showing, progress, kept)
    gone = ""
    if known:
        try:
            work.read()
        except (ValueError, OSError) as error:
            gone = str(error)
            note(f"request {line.id} is not looked at again: {gone}")
    given, again = (dict, None) if gone else (work.given, work.again)
    return Job(line.id, line.note, line.asked, work.work, given, again, work.pages)


def _class(session: Session, line: Line) -> Images:
    probes: Path | str = line.given["synthetic" if "synthetic" in line.given else "probes"]
    seed = int(line.options.get("seed", 0))
    return read_forget_images(session, line.given["target"], probes, line.path("retain"), line.path("eval"), seed)


def _instances(session: Session, line: Line) -> tuple[Request, dict[str, Any]]:
    images = line.path("images")
    assert images is not None
    beside = session.retain_and_eval(line.path("retain"), line.path("eval"))
    goal = line.given.get("goal", "misclassify")
    request = forget_instances_run.read_instances(session, images, goal, line.given.get("to"), line.path("unseen"))
    return request, beside


def _concept(session: Session, line: Line) -> tuple[Request, dict[str, Any]]:
    inside, without = line.path("with"), line.path("without")
    assert inside is not None and without is not None
    beside = session.retain_and_eval(line.path("retain"), line.path("eval"))
    request = forget_concept_run.read_concept(
        session, inside, without, line.given.get("concept"), line.path("bank"), line.given.get("layer"),
        line.given.get("used_by"), int(line.options.get("seed", 0)),
    )  # fmt: skip
    return request, beside


_READERS: Mapping[str, Callable[[Session, Line], Any]] = {
    "class": _class,
    "instances": _instances,
    "concept": _concept,
}


def _forget_class(work: _Work, found: Images) -> Run:
    return run_forget(
        work.session, found, {"method": work.line.method} | work.settings(), linear_probe=False, front=False,
        report=bool(work.showing.formats), photos=work.showing.photos, progress=work.progress,
    )  # fmt: skip


def _forget_by(forget: Callable[..., Any]) -> Callable[[_Work, Any], Run]:
    def carry_out(work: _Work, found: tuple[Request, dict[str, Any]]) -> Run:
        request, beside = found
        given = work.settings() | beside | {"progress": work.progress}
        showing = work.showing
        result, page = forget(work.session, request, work.line.method, given, bool(showing.formats), showing.photos)
        return Run(result, report=page)

    return carry_out


_FORGET: Mapping[str, Callable[[_Work, Any], Run]] = {
    "class": _forget_class,
    "instances": _forget_by(forget_instances_run.forget_and_look),
    "concept": _forget_by(forget_concept_run.forget_and_look),
}


def _judging(found: Images) -> bool:
    """Whether images of every class to forget are among those that judge."""
    judged = found.evaluation
    return judged is not None and judged.labels is not None and set(found.targets) <= set(judged.labels.tolist())


def _of_classes(session: Session, found: Images) -> tuple[Request, None] | None:
    """The images of the classes alone: those that judge, where they are given, else the probes, if they are images.

    Not those that were made from the model: the edit was chosen by them.
    """
    if _judging(found):
        assert found.evaluation is not None
        images = found.evaluation.of_classes(found.targets)
    elif isinstance(found.probes, SyntheticProbes):
        return None
    else:
        images = replace(found.probes, labels=found.probe_labels)
    own = session.pair(images)
    assert isinstance(own, tuple)
    return ForgetClass(found.targets, own[0], own[1]), None
