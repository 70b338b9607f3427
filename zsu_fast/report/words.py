"""Numbers as people read them; the same in every form of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def interval(of: Sequence[float] | None) -> str:
    return "" if of is None else f"95 % interval {percent(of[0])} to {percent(of[1])}"


def label(names: Mapping[int, str], index: int) -> str:
    """ "cat (class 3)" """
    name = names.get(index)
    return f"class {index}" if name in (None, str(index)) else f"{name} (class {index})"


def count(number: int, what: str) -> str:
    """ "1 image", "2 images" """
    return f"{number} {what}{'' if number == 1 else 's'}"
