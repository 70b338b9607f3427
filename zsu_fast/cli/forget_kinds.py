"""What ``zsu-fast forget`` can forget."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

PLAIN, QUEUE = "class", "requests"


class ForgetKinds(TyperGroup):
    """`forget MODEL ...`, as it was before there were other kinds, is `forget class MODEL ...`.

    With `--requests FILE`, which has the kinds, it is `forget requests MODEL ...`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and args[0] in self.commands
        queued = any(arg.partition("=")[0] == "--requests" for arg in args)
        return super().parse_args(ctx, args if named else [QUEUE if queued else PLAIN, *args])
