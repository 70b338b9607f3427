"""Options that are checked as they are read."""

import pytest
import typer

from zsu_fast.cli.app import app

LINE = ["python:tinynet:build", "-i", "absent", "-t", "1", "--size", "large"]


def test_each_wrong_value_is_told_in_one_line_and_nothing_while_a_shell_completes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = typer.main.get_command(app).commands["evaluate"]
    with pytest.raises(typer.Exit) as refused:
        command.make_context("evaluate", LINE)
    assert refused.value.exit_code == 2
    assert capsys.readouterr().err == "error: --images: no such file or folder: absent\n"
    command.make_context("evaluate", LINE, resilient_parsing=True)
    assert capsys.readouterr() == ("", "")


def test_of_several_files_each_must_be_there(run) -> None:
    for missing in ("--original", "--oracle"):
        files = {"--weights": "weights.pt", "--original": "weights.pt", "--oracle": "weights.pt", missing: "absent"}
        files |= {"--lessons": "test.npz", "--images": "test.npz"}
        told = run("depth", "python:tinynet:build", "-t", 1, *(part for pair in files.items() for part in pair))
        assert told.code == 2 and told.err == f"error: {missing}: no such file or folder: absent\n"
