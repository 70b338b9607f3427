"""``zsu-fast ledger``: what a queue of requests has come to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import one_line_errors
from zsu_fast.cli.declared import LEDGER
from zsu_fast.folder import holds

if TYPE_CHECKING:
    from zsu_fast.unlearn.queue import Row


@one_line_errors
def ledger(
    *,
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder that forget --requests wrote.", show_default=False)
    ],
    talk: opt.Talk,
) -> None:
    """Show the ledger of a queue of requests: status, verdict and evidence of each, hashes before and after."""
    console = talk.console()
    if not holds(folder, LEDGER):
        raise FileNotFoundError(f"{folder} holds no {LEDGER}: it is no queue of requests")

    from zsu_fast.unlearn.queue import Ledger

    found = Ledger(folder)
    console.show(f"{found.name}: original {found.original}, now {found.now}", ledger_table(found.rows))
    console.show(*(f"{row.id}: {row.sentence}" for row in found.rows), *said_of(found.rows))
    console.emit(found.to_dict())


def ledger_table(rows: Sequence[Row]) -> Table:
    """A line for each request."""
    from zsu_fast.report.queue import left

    table = Table("request", "status", "not forgotten", "before", "after", "seconds")
    for row in rows:
        name = row.id + (f" {row.note}" if row.note else "")
        hashes = (row.before[:8], row.after[:8]) if row.in_place else ("", "")
        cells = (name, row.status, left(row), *hashes, f"{row.seconds:.1f}")
        table.add_row(*map(escape, cells))
    return table


def said_of(rows: Sequence[Row]) -> list[str]:
    """Which came back."""
    from zsu_fast.report.queue import how_many

    return [
        f"{row.id} CAME BACK{f' with {row.came_back_with}' if row.came_back_with else ''}: {how_many(row)}"
        for row in rows
        if row.in_place and row.came_back
    ]
