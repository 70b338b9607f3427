"""What ``zsu-fast forget`` can forget."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

PLAIN = "class"


class ForgetKinds(TyperGroup):
    """`forget MODEL ...`, as it was before there were other kinds, is `forget class MODEL ...`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and args[0] in self.commands
        return super().parse_args(ctx, args if named else [PLAIN, *args])
