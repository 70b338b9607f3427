"""Commands that are built when they are asked for: as if they had been there."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from zsu_fast.cli.app import app
from zsu_fast.cli.forget_kinds import PLAIN, QUEUE


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("zsu-fast re", ["restore", "relevance"]),
        ("zsu-fast restore --pa", ["--patch"]),
        ("zsu-fast forget --synth", ["--synthetic"]),
        ("zsu-fast forget concept --with", ["--with", "--without"]),
    ],
)
def test_a_shell_completes_their_names_and_options(typed: str, expected: list[str]) -> None:
    environment = {
        "_ZSU_FAST_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(typed.split()) - 1),
    }
    told = CliRunner().invoke(app, [], prog_name="zsu-fast", env=environment)
    assert told.stdout.split() == expected


def test_a_mistyped_name_is_told_the_nearest(run) -> None:
    refused = run("forgett")
    assert refused.code == 2 and "No such command 'forgett'. Did you mean 'forget'?" in refused.err


@pytest.mark.parametrize(
    ("line", "kind"),
    [(["forget"], PLAIN), (["forget", "--requests=absent"], QUEUE), (["forget", "generator"], "generator")],
)
def test_help_names_the_kind_that_forget_stands_for(run, line: list[str], kind: str) -> None:
    assert f"Usage: root forget {kind} " in run(*line, "-h").out
