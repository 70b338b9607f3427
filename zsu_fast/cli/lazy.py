"""Commands of which only the one that is asked for is imported and given its options; the others are a line of help."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class Group(TyperGroup):
    """Absent flags are False: to check that they are None, which is typer's default, typer would import pydantic."""

    def get_params(self, ctx: Any) -> Any:
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "is_flag", False) and param.default is None:
                param.default = False
        return params


class LazyCommand(TyperCommand):
    """A name and a line of help until a line with it is read. Its callback returns the function, or the app, itself."""

    def whole(self) -> Any:
        """The command with its options; the group with its commands."""
        assert self.callback is not None
        found = self.callback()
        if not isinstance(found, typer.Typer):
            alone = typer.Typer(rich_markup_mode=self.rich_markup_mode, add_completion=False)
            alone.command(self.name)(found)
            found = alone
        return get_command(found)

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        return self.whole().make_context(*args, **kwargs)


def add_command(to: typer.Typer, name: str, where: str, line: str) -> None:
    """Add what lies at `where` ("module:name", in this package); line: the first paragraph of its docstring."""
    module, _, attribute = where.partition(":")

    def load() -> Any:
        return getattr(import_module(f"{__package__}.{module}"), attribute)

    to.command(name, cls=LazyCommand, help=line)(load)
