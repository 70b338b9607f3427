"""What the log says on the command line."""

import logging
from collections.abc import Iterator

import pytest

from zsu_fast.cli.console import Console, set_verbosity

LOG = logging.getLogger("zsu_fast.some.module")


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    log = logging.getLogger("zsu_fast")
    before = log.handlers, log.level
    yield
    log.handlers, log.level = before


def said(verbose: int, quiet: bool, capsys: pytest.CaptureFixture[str]) -> str:
    set_verbosity(verbose)
    Console(quiet=quiet)
    LOG.warning("careful [1]")
    LOG.info("selected %d", 3)
    LOG.debug("looked")
    found = capsys.readouterr()
    assert found.out == ""
    return found.err


def test_the_log_is_on_stderr_as_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(0, False, capsys) == "note: careful [1]\n"
    assert said(1, False, capsys) == "note: careful [1]\nselected 3\n"
    assert said(2, False, capsys) == said(7, False, capsys) == "note: careful [1]\nselected 3\nlooked\n"
    assert said(2, True, capsys) == ""


def test_a_run_tells_what_it_selected_reached_and_wrote(run, tmp_path) -> None:
    arguments = ("forget", "python:tinynet:build", "-w", "weights.safetensors", "-t", 2, "-p", "probes.npz")
    arguments += ("--eval", "test.npz")
    log = logging.getLogger("zsu_fast")
    before = log.handlers
    plain = run(*arguments, "--no-report", "-o", tmp_path / "a")
    told = run(*arguments, "--no-report", "-o", tmp_path / "b", "-v", "--json")
    every = run(*arguments, "--no-report", "-o", tmp_path / "c", "-vv")
    assert plain.code == told.code == every.code == 0
    assert log.handlers is before and log.level == logging.NOTSET
    for text in ("loaded python:tinynet:build", "class 2 (sw), by lra-npp", "selected: ", "verdict: ", "wrote to "):
        assert text not in plain.err and text in told.err and text in every.err
    assert told.json["verdict"]["sentence"] in told.err.replace("\n", " ")
    steps = [line for line in every.err.splitlines() if line.startswith("looked at ")]
    assert "looked at" not in told.err and len(steps) > 1
