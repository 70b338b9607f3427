"""What the kinds of requests in a file have of their own: the model, what is read for one, how it is carried out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from zsu_fast.cli import forget_concept_run, forget_generator_run, forget_instances_run, forget_text_run
from zsu_fast.cli.forget_generator_run import GeneratorSession
from zsu_fast.cli.forget_run import Images, Run, read_forget_images, run_forget
from zsu_fast.cli.language_models import load_language_model
from zsu_fast.cli.models import load_model
from zsu_fast.cli.requests_file import CLASSIFIER, GENERATOR, LANGUAGE_MODEL, Line
from zsu_fast.cli.session import Session, check_device, open_session
from zsu_fast.evaluate.texts import Tokenizer
from zsu_fast.unlearn import (
    ForgetClass,
    ForgetGenerated,
    ForgetResult,
    ForgetText,
    SyntheticProbes,
    TextRecord,
    sensitive_words,
)
from zsu_fast.unlearn.checkpoint import digest_of
from zsu_fast.unlearn.queue.look import can_look
from zsu_fast.unlearn.requests import Request


@dataclass(frozen=True)
class Showing:
    """How each request is reported: forms, the images (or texts) themselves as well, by whom."""

    formats: Sequence[str]
    itself: bool
    author: str | None

    @property
    def report(self) -> bool:
        return bool(self.formats)


@dataclass(frozen=True)
class Asked:
    """What was read for one line. work: forgets, with what `zsu_fast.forget` takes beside the request. again: what is
    looked at again, None if there is nothing to look at.
    """

    work: Callable[[dict[str, Any], Showing], Run]
    again: Callable[[], Request | None]


@dataclass(kw_only=True)
class TextSession(Session):
    """A language model."""

    tokenizer: Tokenizer


def open_model(
    of: str,
    spec: str,
    weights: Path | None,
    *,
    device: str,
    batch_size: int,
    float32: bool,
    note: Callable[[str], None],
    **images: Any,
) -> Session:
    """Of the kind that the requests are asked of. images: what `open_session` takes for those to a classifier alone."""
    if of == CLASSIFIER:
        if float32:
            raise ValueError("--float32: is for requests to a language model")
        return open_session(spec, weights, device=device, batch_size=batch_size, note=note, **images)
    class_names = images.pop("class_names") if of == GENERATOR else None  # of its judge
    for name, value in images.items():
        if value is not None:
            raise ValueError(f"--{name.replace('_', '-')}: is for requests to a classifier, these are to {of}")
    check_device(device)
    if of == LANGUAGE_MODEL:
        loaded, tokenizer = load_language_model(spec, weights, device=device, float32=float32)
        return TextSession(loaded, batch_size, device, note=note, tokenizer=tokenizer)
    if float32:
        raise ValueError(f"--float32: is for requests to a language model, these are to {of}")
    loaded = load_model(spec, weights, device=device, note=note)
    return GeneratorSession(loaded, batch_size, device, note=note, class_names=class_names)


def read(session: Session, line: Line) -> Asked:
    """ValueError, OSError: what the line names cannot be read, or is not of the model."""
    return _READERS[line.kind](session, line)


def _class(session: Session, line: Line) -> Asked:
    probes: Path | str = line.given["synthetic" if "synthetic" in line.given else "probes"]
    images = read_forget_images(
        session, line.given["target"], probes, line.path("retain"), line.path("eval"), line.seed
    )

    def work(given: dict[str, Any], showing: Showing) -> Run:
        settings = {"method": line.method} | given
        progress = settings.pop("progress")
        return run_forget(
            session, images, settings, linear_probe=False, front=False, report=showing.report, photos=showing.itself,
            progress=progress,
        )  # fmt: skip

    return Asked(work, lambda: _of_classes(session, images))


def _judging(found: Images) -> bool:
    """Whether images of every class to forget are among those that judge."""
    judged = found.evaluation
    return judged is not None and judged.labels is not None and set(found.targets) <= set(judged.labels.tolist())


def _of_classes(session: Session, found: Images) -> ForgetClass | None:
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
    return ForgetClass(found.targets, own[0], own[1])


def _instances(session: Session, line: Line) -> Asked:
    images = line.path("images")
    assert images is not None
    beside = session.retain_and_eval(line.path("retain"), line.path("eval"))
    goal = line.given.get("goal", "misclassify")
    request = forget_instances_run.read_instances(session, images, goal, line.given.get("to"), line.path("unseen"))
    return _asked(line, request, partial(forget_instances_run.forget_and_look, session), beside)


def _concept(session: Session, line: Line) -> Asked:
    inside, without = line.path("with"), line.path("without")
    assert inside is not None and without is not None
    beside = session.retain_and_eval(line.path("retain"), line.path("eval"))
    request = forget_concept_run.read_concept(
        session, inside, without, line.given.get("concept"), line.path("bank"), line.given.get("layer"),
        line.given.get("used_by"), line.seed,
    )  # fmt: skip
    return _asked(line, request, partial(forget_concept_run.forget_and_look, session), beside)


def _text(session: Session, line: Line) -> Asked:
    """Where records have no words, with those that the model finds as it is now: to be read before any edit."""
    assert isinstance(session, TextSession)

    def records(column: str) -> list[TextRecord]:
        option = f"--{column.replace('_', '-')}"
        found = forget_text_run.read_texts(line.path(column), option)
        if found:
            session.was_given(option, lambda: [bytes.fromhex(digest_of(record)) for record in found])
        return found

    by = line.given.get("words", "subject")
    asked = sensitive_words(session.loaded.model, records("records"), session.tokenizer, by=by, seed=line.seed)
    held_out = forget_text_run.held(records("held_out"))
    request = ForgetText(asked, session.tokenizer, records("anchors"), held_out)
    return _asked(line, request, partial(forget_text_run.forget_and_look, session.loaded))


def _generator(session: Session, line: Line) -> Asked:
    assert isinstance(session, GeneratorSession)
    judge, second = _judge(line, "judge", "judge_weights"), _judge(line, "second_judge", "second_weights")
    assert judge is not None
    made = _made(line)
    request, names = forget_generator_run.read_class(session, line.given["target"], judge, second, **made)
    look = partial(forget_generator_run.forget_class_and_look, session, names, made["bounds"])

    def look_in_any_case(
        request: ForgetGenerated, method: str, given: dict[str, Any], report: bool, itself: bool
    ) -> Any:
        return look(request, method, given, report)  # what is made shows nobody

    return _asked(line, request, look_in_any_case)


def _items(session: Session, line: Line) -> Asked:
    assert isinstance(session, GeneratorSession)
    items, unseen, instead = line.path("items"), line.path("unseen"), line.path("instead")
    assert items is not None and unseen is not None
    made = _made(line)
    judge = _judge(line, "judge", "judge_weights")
    request = forget_generator_run.read_items(session, items, unseen, instead, judge, **made)
    return _asked(line, request, partial(forget_generator_run.forget_items_and_look, session, made["bounds"]))


def _judge(line: Line, name: str, weights: str) -> tuple[str, Path | None] | None:
    return (line.given[name], line.path(weights)) if name in line.given else None


def _made(line: Line) -> dict[str, Any]:
    draws = {"draws": line.given["draws"]} if "draws" in line.given else {}
    return {"latent": line.given["latent"], "bounds": line.given.get("range", (0.0, 1.0)), "seed": line.seed} | draws


def _asked(
    line: Line, request: Request, look: Callable[..., tuple[ForgetResult, Any]], beside: dict[str, Any] | None = None
) -> Asked:
    """look: forgets and looks at it, as the command of that kind does. beside: what it is given beside the request."""

    def work(given: dict[str, Any], showing: Showing) -> Run:
        result, page = look(request, line.method, given | (beside or {}), showing.report, showing.itself)
        return Run(result, report=page)

    return Asked(work, lambda: request if can_look(request) else None)


_READERS: Mapping[str, Callable[[Session, Line], Asked]] = {
    "class": _class,
    "instances": _instances,
    "concept": _concept,
    "text": _text,
    "generator": _generator,
    "items": _items,
}
