"""Options of a method on the command line."""

from __future__ import annotations

from typing import Any

import typer

from zsu_fast.cli.declared import OPTIONS
from zsu_fast.cli.options import METHOD
from zsu_fast.cli.parsing import parse_setting


def of_method(name: str, *flags: str, panel: str = METHOD, **more: Any) -> Any:
    """The command line's form of a method's option: the same help and default."""
    text, default = OPTIONS[name]
    shown = False if default in (None, "False") else default  # that a flag is not set, no flag says
    return typer.Option(*flags, help=text, show_default=shown, rich_help_panel=panel, **more)


def parse_settings(given: list[str] | None, method: str) -> dict[str, Any]:
    """What --set says, by the name of the option; ValueError where the method has none of that name."""
    if not given:
        return {}
    from zsu_fast.unlearn import method_options

    found, known = dict(parse_setting(text) for text in given), method_options(method)
    for name in found:
        if name not in known:
            raise ValueError(f"--set: method {method!r} has no option {name!r}; it has {', '.join(known)}")
    return found
