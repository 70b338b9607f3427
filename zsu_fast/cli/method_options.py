"""Options of `zsu-fast forget` that are those of a method: explained where the method declares them."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import typer

from zsu_fast.cli.options import METHOD
from zsu_fast.unlearn import method_options
from zsu_fast.unlearn.methods import Channels, LraNpp

_DECLARED = {f.name: (f, kind.name) for kind in (Channels, LraNpp) for f in fields(kind.options)}
_SHARED = {f.name for f in fields(Channels.options)} & {f.name for f in fields(LraNpp.options)}


def of_method(name: str, *flags: str, panel: str = METHOD, **limits: Any) -> Any:
    """The command line's form of a method's option: the same help, default and choices."""
    declared, method = _DECLARED[name]
    text = declared.metadata["help"] if name in _SHARED else f"{method}: {declared.metadata['help']}"
    shown = declared.metadata["shown"] or declared.default
    default = False if shown is None else str(shown)
    return typer.Option(*flags, help=text, show_default=default, rich_help_panel=panel, **limits)


def parse_settings(given: list[str] | None, method: str) -> dict[str, Any]:
    """NAME=VALUE, of the options of a method; values are JSON, or else text."""
    found: dict[str, Any] = {}
    known = method_options(method) if given else {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise ValueError(f"--set: expected NAME=VALUE, got {text!r}")
        if name not in known:
            raise ValueError(f"--set: method {method!r} has no option {name!r}; it has {', '.join(known)}")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found
