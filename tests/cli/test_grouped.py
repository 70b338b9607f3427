"""Options that several commands share, as one value."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

import pytest

from zsu_fast.cli import options as opt
from zsu_fast.cli.grouped import grouped


@dataclass(frozen=True, kw_only=True)
class Place:
    folder: str
    force: opt.Force = False


def test_a_command_has_the_options_of_a_group_as_its_own() -> None:
    @grouped
    def command(first: int, place: Place, *, last: opt.Quiet = True) -> tuple[int, Place, bool]:
        """What it does."""
        return first, place, last

    found = inspect.signature(command).parameters
    assert list(found) == ["first", "folder", "force", "last"] and command.__doc__ == "What it does."
    assert [one.default for one in found.values()] == [inspect.Parameter.empty] * 2 + [False, True]
    assert found["folder"].annotation is str and found["force"].annotation == opt.Force
    assert command(first=1, folder="x", force=True, last=False) == (1, Place(folder="x", force=True), False)


def test_nothing_is_called_twice() -> None:
    def command(force: int, place: Place) -> None: ...

    with pytest.raises(ValueError, match="duplicate parameter name: 'force'"):
        grouped(command)
