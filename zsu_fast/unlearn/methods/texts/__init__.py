"""Methods that make a language model forget what it says."""

from __future__ import annotations

from zsu_fast.unlearn.methods.base import Method
from zsu_fast.unlearn.methods.texts.ascent import TextAscent
from zsu_fast.unlearn.methods.texts.poison import TextPoison

TEXT_METHODS: dict[str, type[Method]] = {kind.name: kind for kind in (TextPoison, TextAscent)}

__all__ = ["TEXT_METHODS"]
