"""What a command says, and where: results on stdout, progress and errors on stderr."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import typer
from rich.console import Console as RichConsole
from rich.markup import escape

from zsu_fast.cli.grouped import grouped

EXIT_OK, EXIT_FAILURE, EXIT_BAD_INPUT, EXIT_NOT_REACHED, EXIT_NOT_JUDGED, EXIT_INTERRUPTED = 0, 1, 2, 3, 4, 130

# What people can cause and mend (OSError: paths, permissions, full disks, another run); anything else is a failure of
# ours or of the model's code.
INPUT_ERRORS = (ValueError, TypeError, OSError)

R = TypeVar("R")


def exit_code(level: str, fixed_budget: bool = False) -> int:
    """What the level of a verdict ends a command with. Nobody asked that an edit of a fixed budget be judged."""
    if level in ("invalid", "not reached"):
        return EXIT_NOT_REACHED
    return EXIT_NOT_JUDGED if level == "not judged" and not fixed_budget else EXIT_OK


class Console:
    """One command's output.

    Args:
        as_json: one JSON object on stdout and nothing else there.
        quiet: no tables, notes or progress; errors are still told.
    """

    def __init__(self, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._out = RichConsole(file=sys.stdout)
        self._err = RichConsole(file=sys.stderr, highlight=False)
        logging.getLogger("zsu_fast").handlers = [_Log(self)]

    def show(self, *renderables: Any) -> None:
        """Tables and plain text for people; nothing under --json or --quiet."""
        if not (self.as_json or self.quiet):
            for renderable in renderables:
                # Text is not markup (a path may hold brackets) and is not broken (a path must stay one word).
                self._out.print(renderable, markup=False, soft_wrap=isinstance(renderable, str), highlight=False)

    def note(self, text: str) -> None:
        """A remark on stderr."""
        if not self.quiet:
            self._err.print(f"[yellow]note:[/] {escape(text)}", soft_wrap=True)

    def tell(self, text: str) -> None:
        """A line on stderr of what is finished, in a command that takes long."""
        if not self.quiet:
            self._err.print(text, markup=False, soft_wrap=True)

    def emit(self, result: dict[str, Any]) -> None:
        """The result for machines, under --json. NaN and infinity would not be JSON: they are refused."""
        if self.as_json:
            sys.stdout.write(json.dumps(result, indent=2, allow_nan=False) + "\n")

    @contextmanager
    def progress(self) -> Iterator[Callable[[int, int, str], None]]:
        """A callback ``(done, total, text)`` that draws one bar for each text; silent where stderr is no terminal."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        hidden = self.quiet or not self._err.is_terminal
        with Progress(*columns, console=self._err, transient=True, disable=hidden) as bars:
            tasks: dict[str, Any] = {}

            def report(done: int, total: int, text: str) -> None:
                what = text.partition(", loss ")[0]  # which changes with every step
                if what not in tasks:
                    tasks[what] = bars.add_task(escape(text), total=total)
                bars.update(tasks[what], completed=done, total=total, description=escape(text))

            yield report


class _Log(logging.Handler):
    """What the package logs: warnings as notes, the rest, with --verbose, as it is."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        (self._console.note if record.levelno >= logging.WARNING else self._console.tell)(self.format(record))


def set_verbosity(asked: int) -> None:
    """How much of the log is shown: warnings; what is selected, reached and written (1); every step (2)."""
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(asked, 2)]
    logging.getLogger("zsu_fast").setLevel(level)


def one_line_errors(command: Callable[..., R]) -> Callable[..., R]:
    """A command as typer takes it. See `grouped`; errors become one line on stderr and an exit code, with ``--debug``
    the traceback is shown.
    """
    flat = grouped(command)

    @functools.wraps(flat)
    def run(**given: Any) -> R:
        log = logging.getLogger("zsu_fast")
        before = log.handlers
        try:
            return flat(**given)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except (KeyboardInterrupt, Exception) as error:
            if given["debug"] and not isinstance(error, KeyboardInterrupt):
                raise
            raise typer.Exit(tell_error(error)) from None
        finally:  # the process may go on: what it logs then is not of this command
            log.handlers = before
            log.setLevel(logging.NOTSET)

    return run


def tell_error(error: BaseException, quiet: bool = False) -> int:
    """One line on stderr; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        code, text = EXIT_INTERRUPTED, "interrupted"
    else:
        expected = isinstance(error, (*INPUT_ERRORS, ImportError))
        code, text = EXIT_BAD_INPUT if expected else EXIT_FAILURE, " ".join(str(error).split()) or type(error).__name__
        text = text if expected else f"{type(error).__name__}: {text} (--debug shows where)"
    if not quiet:
        RichConsole(file=sys.stderr, highlight=False).print(f"[red]error:[/] {escape(text)}", soft_wrap=True)
    return code
