"""Baselines for tests: made with their options, given what has no effect."""

from typing import Any

from zsu_fast.unlearn.methods import find_method

NOTHING: dict[str, Any] = {"count": lambda images: None, "progress": lambda done, total, text: None}


def made(method: str, **options: Any) -> Any:
    kind = find_method(method)
    return kind(kind.options(**options))
