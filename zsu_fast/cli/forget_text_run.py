"""What ``zsu-fast forget text`` does between reading its options and writing its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import nn

from zsu_fast.cli.models import LoadedModel
from zsu_fast.report.text import TextReport, ask, shade
from zsu_fast.unlearn import ForgetResult, ForgetText, TextRecord, forget
from zsu_fast.unlearn.texts.records import read_records


def read_texts(path: Path | None, option: str) -> list[TextRecord]:
    try:
        return [] if path is None else read_records(path)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def held(texts: Sequence[TextRecord]) -> list[tuple[str, str]]:
    """Held-out texts as `ForgetText` takes them."""
    return [(record.prompt, record.response) for record in texts]


def forget_and_look(
    loaded: LoadedModel, request: ForgetText, method: str, given: dict[str, Any], report: bool, texts_shown: bool
) -> tuple[ForgetResult, TextReport | None]:
    """Ask, forget, ask again."""
    model = loaded.model
    shown = _texts_of(model, request) if report and texts_shown else {}
    result = forget(model, request, method=method, **given)
    if not report:
        return result, None
    if shown and result.patch.entries:
        shown |= {name: shown[name].answered(model, request) for name in ("forgotten", "kept")}
    return result, TextReport(model=loaded.spec, record=result.record, picks=result.picks, **shown)


def _texts_of(model: nn.Module, request: ForgetText) -> dict[str, Any]:
    """What the report shows of the texts, by the unedited model."""
    return {
        "forgotten": ask(model, request, request.records),
        "kept": ask(model, request, request.anchors),
        "shaded": shade(model, request),
    }


def words_table(records: Sequence[TextRecord]) -> Table:
    table = Table("prompt", "sensitive words")
    for record in records:
        table.add_row(Text(record.prompt), Text(", ".join(record.words)))
    return table
