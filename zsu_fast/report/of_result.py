"""A report from what `forget` handed back, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zsu_fast.evaluate import Evaluation
from zsu_fast.report.accuracy import by_class
from zsu_fast.report.base import Report
from zsu_fast.report.classes import ClassReport
from zsu_fast.report.concept import ConceptReport
from zsu_fast.report.generator import GeneratorReport
from zsu_fast.report.instances import InstancesReport
from zsu_fast.report.items import ItemsReport
from zsu_fast.report.text import TextReport

if TYPE_CHECKING:
    from zsu_fast.unlearn import ForgetResult

KINDS: dict[str, type[Report]] = {
    "class": ClassReport,
    "concept": ConceptReport,
    "generator": GeneratorReport,
    "instances": InstancesReport,
    "items": ItemsReport,
    "text": TextReport,
}


def report_of(
    result: ForgetResult, *, model: str, names: Mapping[int, str] | None = None, author: str | None = None
) -> Report:
    """The report of its kind, with what the record has: no heatmaps, no photos, no texts.

    ValueError for a request of a kind that has no report.
    """
    return report_of_record(result.record, result.picks, model=model, names=names, author=author)


def report_of_record(
    record: dict[str, Any],
    picks: dict[str, list[int]],
    *,
    model: str,
    names: Mapping[int, str] | None = None,
    author: str | None = None,
) -> Report:
    """The same, where there is no more than the record, as in an undo file. picks: layer -> masked indices."""
    kind = record["request"]["kind"]
    if kind not in KINDS:
        raise ValueError(f"result: there is no report on requests of the kind {kind!r} (known: {', '.join(KINDS)})")
    seen: dict[str, Any] = {}
    if kind == "class" and record["evaluation"]:
        seen = {when: _evaluation(record["evaluation"][when]) for when in ("before", "after")}
    return KINDS[kind](model=model, record=record, picks=picks, names=dict(names or {}), author=author, **seen)


def _evaluation(plain: dict[str, Any]) -> Evaluation:
    """From the form that it has in a record."""
    numbered = {name: by_class(plain[name]) for name in ("per_class", "counts", "taken_for")}
    return Evaluation(**(plain | numbered))
