"""What the process of the command line imports, and when."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

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
CHECKS_VALUES = "pydantic"
"""What typer checks values with: not for help, nor for a word that it does not know."""

RUN_EACH = f"""
import json, sys
sys.argv = ["zsu-fast"]
from typer.testing import CliRunner
from zsu_fast.cli.app import app
commands = lambda: [name for name in sys.modules if name.startswith("zsu_fast.cli.") and name.endswith("_command")]
for arguments in json.loads(sys.stdin.read()):
    for name in commands():
        del sys.modules[name]
    done = CliRunner().invoke(app, arguments)
    heavy = sorted({HEAVY | {CHECKS_VALUES}!r} & set(sys.modules))
    print(json.dumps([arguments, done.exit_code, heavy, commands()]))
"""

COMMANDS = [
    ["forget"], ["forget", "class"], ["forget", "instances"], ["forget", "concept"], ["forget", "text"],
    ["forget", "generator"], ["evaluate"], ["depth"], ["restore"], ["verify"], ["relevance"], ["concepts"], ["info"],
    ["benchmark"], ["demo"], ["forget", "requests"], ["ledger"],
]  # fmt: skip
FINE = [[], ["--help"], ["--version"], ["benchmark", "--example"], *([*command, "--help"] for command in COMMANDS)]
MISTYPED = [*([*command, "--no-such-option"] for command in COMMANDS), ["no-such-command"]]
MODEL = ["python:tinynet:build"]
WRONG = [
    *([*command] for command in COMMANDS if command not in (["forget"], ["info"], ["demo"])),
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
    ["depth", *MODEL, "--relearn-by", "lion:1e-4"],
    ["depth", *MODEL, "--relearn-by", "adam:0"],
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
    ["forget", "generator", *MODEL, "--latent", "64", "--judge", "resnet18", "-t", "1"],
    ["forget", "text", "timm:resnet18", "-r", "."],
    ["forget", "resnet18", "-t", "1", "-p", "."],
    ["evaluate", "python:tinynet", "-i", ".", "-t", "1"],
    ["relevance", "hf:absent", "-i", "."],
    ["verify", "."],
    ["restore", "."],
    ["verify", ".", "--original", "absent"],
    ["verify", ".", "--images", ".", "--images", "absent"],
]  # fmt: skip


def python(*arguments: str, given: str | None = None, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, *arguments], input=given, cwd=folder, env=environment, capture_output=True, text=True
    )


def modules(line: list[str]) -> list[str]:
    """Of the command that the line asks for."""
    from zsu_fast.cli import app, forget_kinds

    if not line or line[0] not in app.COMMANDS:
        return []
    where = app.COMMANDS[line[0]][0]
    if line[0] == "forget":
        kind = forget_kinds.QUEUE if "--requests" in line else forget_kinds.PLAIN
        where = forget_kinds.KINDS.get(line[1] if line[1:] else kind, forget_kinds.KINDS[kind])[0]
    return [f"zsu_fast.cli.{where.partition(':')[0]}"]


@pytest.mark.parametrize(
    ("lines", "values"), [(FINE + MISTYPED, False), (WRONG, True)], ids=["help and mistyped words", "wrong values"]
)
def test_answers_that_need_no_work_import_only_what_is_asked_for(
    lines: list[list[str]], values: bool, tmp_path: Path
) -> None:
    pytest.importorskip("typer")
    done = python("-c", RUN_EACH, given=json.dumps(lines), folder=tmp_path)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    for line, (given, code, imported, commands) in zip(lines, told, strict=True):
        # typer's own answer to no arguments at all, which is the help, is 2
        assert (given, code) == (line, 0 if line and line in FINE else 2)
        assert set(imported) <= ({CHECKS_VALUES} if values else set()) and commands == modules(line), line


def test_every_command_is_tried_and_has_its_own_line_of_help() -> None:
    pytest.importorskip("typer")
    from zsu_fast.cli import app, forget_kinds

    tables: list[tuple[list[str], dict[str, Any]]] = [([], dict(app.COMMANDS)), (["forget"], forget_kinds.KINDS)]
    _, told = tables[0][1].pop("forget")
    assert all(kind in told for kind in forget_kinds.KINDS)
    assert sorted([*group, name] for group, table in tables for name in table) == sorted(COMMANDS[1:])
    for where, line in (entry for _, table in tables for entry in table.values()):
        module, _, name = where.partition(":")
        doc = inspect.getdoc(getattr(import_module(f"zsu_fast.cli.{module}"), name))
        assert doc is not None and line == " ".join(doc.partition("\n\n")[0].split())


def test_the_program_itself_imports_nothing_heavy_for_help() -> None:
    pytest.importorskip("typer")
    done = python("-X", "importtime", "-m", "zsu_fast", "forget", "--help")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode == 0 and "zsu_fast.cli.method_options" in imported  # by the command
    assert not imported & (HEAVY | {CHECKS_VALUES})


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
