"""What ``zsu-fast forget text`` reads and shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text
from torch import nn

from zsu_fast.report.text import ask, shade
from zsu_fast.unlearn import ForgetText, TextRecord
from zsu_fast.unlearn.texts.records import read_records


def read_texts(path: Path | None, option: str) -> list[TextRecord]:
    try:
        return [] if path is None else read_records(path)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def texts_of(model: nn.Module, request: ForgetText) -> dict[str, Any]:
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
