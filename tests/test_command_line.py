"""What the process of the command line imports, and when; and that a user of the library gets all at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {
    "torch",
    "numpy",
    "matplotlib",
    "PIL",
    "sklearn",
    "scipy",
    "safetensors",
    "timm",
    "torchvision",
    "transformers",
}

RUN_EACH = f"""
import json, sys
sys.argv = ["zsu-fast"]
from typer.testing import CliRunner
from zsu_fast.cli.app import app
for arguments in json.loads(sys.stdin.read()):
    done = CliRunner().invoke(app, arguments)
    print(json.dumps([arguments, done.exit_code, sorted({HEAVY!r} & set(sys.modules))]))
"""

COMMANDS = [
    ["forget"], ["forget", "class"], ["forget", "instances"], ["forget", "concept"], ["forget", "text"],
    ["forget", "generator"], ["evaluate"], ["depth"], ["restore"], ["verify"], ["relevance"], ["concepts"], ["info"],
    ["benchmark"], ["demo"], ["forget", "requests"], ["ledger"],
]  # fmt: skip
FINE = [[], ["--help"], ["--version"], ["benchmark", "--example"], *([*command, "--help"] for command in COMMANDS)]
MODEL = ["python:tinynet:build"]
WRONG = [
    *([*command, "--no-such-option"] for command in COMMANDS),
    *([*command] for command in COMMANDS if command not in (["forget"], ["info"], ["demo"])),
    ["no-such-command"],
    ["demo", "--digit", "ten"],
    ["demo", "--digit", "10"],
    ["info", "absent"],
    ["restore", "absent"],
    ["verify", "absent"],
    ["ledger", "absent"],
    ["forget", *MODEL, "--requests", "absent.csv"],
    ["benchmark", "absent.yaml"],
    ["evaluate", *MODEL, "-i", "absent", "-t", "1"],
    ["evaluate", *MODEL, "-i", ".", "-t", "1", "-w", "absent.safetensors"],
    ["evaluate", *MODEL, "-i", ".", "-t", "1", "--mean", "a,b"],
    ["evaluate", *MODEL, "-i", ".", "-t", "1", "--size", "large"],
    ["evaluate", *MODEL, "-i", ".", "-t", "1", "--class-names", "absent.txt"],
    ["evaluate", *MODEL, "-i", ".", "-t", "1", "--batch-size", "0"],
    ["depth", *MODEL, "-w", "absent", "--original", "absent", "-l", ".", "-i", ".", "-t", "1"],
    ["relevance", *MODEL, "-i", "absent"],
    ["relevance", *MODEL, "-i", ".", "-c", "magic"],
    ["concepts", *MODEL, "-i", "absent", "-t", "1"],
    ["forget", *MODEL, "-t", "1", "-p", "absent"],
    ["forget", *MODEL, "-t", "1"],
    ["forget", *MODEL, "-t", "1", "-p", ".", "--budget", "many"],
    ["forget", *MODEL, "-t", "1", "-p", ".", "--set", "epochs"],
    ["forget", *MODEL, "-t", "1", "-p", ".", "--until", "2"],
    ["forget", "instances", *MODEL, "-i", "absent"],
    ["forget", "concept", *MODEL, "--with", "absent", "--without", "."],
    ["forget", "text", *MODEL, "-r", "absent.jsonl"],
    ["forget", "generator", *MODEL, "--latent", "64", "--items", "absent"],
    ["forget", "generator", *MODEL, "--latent", "64", "--range", "1"],
    ["forget", "generator", *MODEL, "--latent", "absent.npz"],
    ["verify", ".", "--original", "absent"],
    ["verify", ".", "--images", ".", "--images", "absent"],
]  # fmt: skip


def python(*arguments: str, given: str | None = None, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], input=given, cwd=folder, env=environment, capture_output=True, text=True
    )


@pytest.mark.parametrize(("lines", "code"), [(FINE, 0), (WRONG, 2)], ids=["help", "wrong arguments"])
def test_answers_that_need_no_work_import_nothing_heavy(lines: list[list[str]], code: int, tmp_path: Path) -> None:
    pytest.importorskip("typer")
    done = python("-c", RUN_EACH, given=json.dumps(lines), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    # typer's own answer to no arguments at all, which is the help, is 2
    assert told == [[line, code if line else 2, []] for line in lines]


def test_every_command_is_tried() -> None:
    from zsu_fast.cli.app import app, forget_app

    named = [[command.name] for command in app.registered_commands]
    named += [["forget", command.name] for command in forget_app.registered_commands]
    assert sorted(named) == sorted(command for command in COMMANDS if command != ["forget"])


def test_the_program_itself_imports_nothing_heavy_for_help() -> None:
    pytest.importorskip("typer")
    done = python("-X", "importtime", "-m", "zsu_fast", "forget", "--help")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "zsu_fast.cli.forget_command" in imported and not imported & HEAVY


def test_on_the_command_line_the_package_has_all_when_asked() -> None:
    code = """
import sys
sys.argv = ["/usr/bin/zsu-fast"]
import zsu_fast
assert "torch" not in sys.modules
assert not hasattr(zsu_fast, "nothing") and not hasattr(zsu_fast, "__wrapped__")
from zsu_fast import *
assert set(zsu_fast.__all__) <= set(globals()) and evaluate is zsu_fast.evaluate and callable(evaluate)
import torch
torch.ops.zsu_fast.mask_neurons_
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


def test_importing_the_library_registers_the_ops() -> None:
    done = python("-c", "import zsu_fast, torch; torch.ops.zsu_fast.mask_neurons_; print(zsu_fast.forget.__name__)")
    assert done.stdout == "forget\n", done.stderr
