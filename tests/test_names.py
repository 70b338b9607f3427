"""Names: public ones have a docstring and a place in the reference, and those that the documentation uses exist."""

import importlib
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import zsu_fast
from tests.examples import BLOCK
from zsu_fast.ops import _library
from zsu_fast.report import Report
from zsu_fast.unlearn.methods import GROUP
from zsu_fast.unlearn.requests import Request
from zsu_fast.unlearn.verdict import Evaluated

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
PACKAGES = (
    "zsu_fast", "zsu_fast.lrp", "zsu_fast.ops", "zsu_fast.unlearn", "zsu_fast.unlearn.methods",
    "zsu_fast.unlearn.queue", "zsu_fast.evaluate", "zsu_fast.evaluate.attacks", "zsu_fast.evaluate.distances",
    "zsu_fast.concepts", "zsu_fast.plot", "zsu_fast.report", "zsu_fast.reference", "zsu_fast.benchmark",
)  # fmt: skip
OF_PIP = {"--config-settings", "--no-build-isolation"}
ASKED_FOR = (Request, Report, Evaluated)
"""What each kind answers in its own way: said once, where it is asked for."""


def public(package: str) -> Iterator[tuple[str, Any]]:
    module = importlib.import_module(package)
    return ((f"{package}.{name}", getattr(module, name)) for name in module.__all__)


EVERY = [pytest.param(name, value, id=name) for package in PACKAGES for name, value in public(package)]


def members(kind: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that the class itself defines."""
    for name, value in vars(kind).items():
        if not name.startswith("_") and name not in getattr(kind, "__dataclass_fields__", {}):
            bare = getattr(value, "__func__", None) or getattr(value, "fget", None) or getattr(value, "func", value)
            if inspect.isfunction(bare):
                yield name, value


@pytest.mark.parametrize("package", PACKAGES)
def test_all_has_everything_public_that_is_imported(package: str) -> None:
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    if package.startswith("zsu_fast.evaluate."):  # a module, which imports what it works with
        return
    ours = {n for n, v in vars(module).items() if getattr(v, "__module__", "").startswith("zsu_fast") and n[0] != "_"}
    assert ours <= set(module.__all__)


@pytest.mark.parametrize(("name", "value"), EVERY)
def test_has_a_docstring(name: str, value: Any) -> None:
    if isinstance(value, type):
        assert value.__doc__ and not value.__doc__.startswith(f"{value.__name__}("), "the docstring of a dataclass"
        for member, _ in members(value):
            said = [inspect.getdoc(getattr(kind, member, None)) for kind in (value, *ASKED_FOR)]
            assert any(said), f"{name}.{member}"
    elif callable(value) or inspect.ismodule(value):
        assert value.__doc__, name


@cache
def reference() -> list[Any]:
    """Everything that a page of docs/api/ shows."""
    found = []
    for page in (ROOT / "docs" / "api").glob("*.md"):
        for path, options in re.findall(r"^::: (\S+)\n((?:    .*\n)*)", page.read_text() + "\n", re.MULTILINE):
            value = named(path)
            found.append(value)
            chosen = re.findall(r"^        - (\S+)", options, re.MULTILINE)
            if inspect.ismodule(value):
                found += [getattr(value, name) for name in chosen or vars(value)]
    return found


@pytest.mark.parametrize(("name", "value"), EVERY)
def test_is_in_the_reference(name: str, value: Any) -> None:
    if inspect.ismodule(value):
        assert value.__name__ in PACKAGES  # which hold its names
    elif name != "zsu_fast.__version__":
        assert any(shown is value for shown in reference())


def named(path: str) -> Any:
    """What a dotted name stands for: as far as modules go it is imported, the rest are attributes.

    A function goes before the module of its name, as `zsu_fast.unlearn.forget`, unless more follows.
    """
    parts = path.split(".")
    for count in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:count]))
        except ImportError:
            continue
        if count == len(parts) > 1:
            return getattr(importlib.import_module(".".join(parts[:-1])), parts[-1], value)
        for part in parts[count:]:
            fields = getattr(value, "__dataclass_fields__", {}) | getattr(value, "__annotations__", {})
            value = fields[part] if part in fields and not hasattr(value, part) else getattr(value, part)
        return value
    raise ImportError(path)


def quoted(page: Path) -> list[str]:
    """What stands in backticks outside of blocks, in one line each."""
    text = re.sub(r"^```.*?^```$", "", BLOCK.sub("", page.read_text()), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(found.split()) for found in re.findall(r"`([^`]+)`", text)]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_named_exists(page: Path) -> None:
    """Python names, files of the repository, options and commands of the command line."""
    for said in quoted(page):
        for path in re.findall(r"(?<![\w./])(?:torch\.ops\.)?zsu_fast(?:\.\w+)+", said):
            if path != GROUP:
                named(path)
        if re.fullmatch(r"(zsu_fast|csrc|tests|bench|docs|\.ci|\.github)/[\w./*-]+", said) and "NAME" not in said:
            assert list(ROOT.glob(said.rstrip("/"))), said
        elif page.name == "architecture.md" and re.fullmatch(r"[\w/]+\.py", said) and "NAME" not in said:
            assert list((ROOT / "zsu_fast").rglob(said)), said
        if re.fullmatch(r"(python -m )?(bench|tests)(\.\w+)+.*", said):
            module = re.sub(r"^python -m ", "", said).split()[0]
            assert importlib.util.find_spec(module), said
        if said.startswith("make ") and said != "make help":
            assert re.search(rf"^{said.split()[1]}:", (ROOT / "Makefile").read_text(), re.MULTILINE), said


def test_the_ops_page_has_every_op_as_it_is() -> None:
    text = (ROOT / "docs" / "ops.md").read_text()
    shown = re.search(r"^```text\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    schemas = [str(getattr(torch.ops.zsu_fast, name).default._schema) for name in _library.names]
    assert shown and shown[1].splitlines() == [schema.removeprefix("zsu_fast::") for schema in schemas]
    first = [cell for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for cell in re.findall(r"`(\w+)`", row)]
    assert sorted([*first, "LinearMap"]) == sorted(zsu_fast.ops.__all__)
    assert sorted(zsu_fast.reference.__all__) == sorted(_library.names)


# --- the command line


@cache
def commands() -> dict[str, Any]:
    """Name, as `forget class`, -> its command, of typer."""
    pytest.importorskip("typer")
    from typer.main import get_command

    from zsu_fast.cli.app import app
    from zsu_fast.cli.lazy import LazyCommand

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        command = command.whole() if isinstance(command, LazyCommand) else command
        yield name, command
        for sub, inner in getattr(command, "commands", {}).items():
            yield from walk(inner, f"{name} {sub}".strip())

    return dict(walk(get_command(app), ""))


def options_of(command: Any) -> set[str]:
    return {"--help", "-h"} | {o for p in command.params for o in (*p.opts, *p.secondary_opts) if o.startswith("-")}


def calls(page: Path) -> Iterator[str]:
    """Lines that call the command, wherever they stand, with their continuations."""
    text = page.read_text().replace("\\\n", " ")
    yield from re.findall(r"^    (?:\w.* )?(?:zsu-fast|-m zsu_fast) (.*)$", text, re.MULTILINE)
    yield from (said.removeprefix("zsu-fast ") for said in quoted(page) if said.startswith("zsu-fast "))


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    known = set().union(*map(options_of, commands().values()))
    from zsu_fast.cli.forget_kinds import PLAIN, QUEUE

    for call in calls(page):
        words = call.partition("#")[0].split()
        name = next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in commands()), "")
        if not name and words and words[0].isalpha() and words[0].islower():
            pytest.fail(f"zsu-fast {call}: no such command")
        if name == "forget":  # whose kind need not be said
            name += f" {QUEUE if '--requests' in words else PLAIN}"
        own = options_of(commands()[name])
        for option in (word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)):
            assert option in own, f"zsu-fast {call}: {option}"
    for said in quoted(page):
        option = re.match(r"(--[a-z][\w-]*)", said)
        if option:
            assert option[1] in known | OF_PIP, said
