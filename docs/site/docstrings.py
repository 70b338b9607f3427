"""For mkdocstrings: our docstrings as Markdown, where "name: what" lines would run together, and "[*, *rest]" lean."""

from __future__ import annotations

import re
from typing import Any

import griffe

ITEM = re.compile(r"^[*\w]+(, [*\w]+)*: ")
STAR = re.compile(r"(?<=[\[ ])\*(?=[\w,\]])(?=[^\[]*\])")
NEXT = re.compile(r"(?<=[.)])\s+(?=[a-z_]+(, [a-z_]+)*: )")


class Docstrings(griffe.Extension):
    """Paragraphs of "name: what" become lists, stars of shapes stay stars."""

    def on_instance(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called for everything that is read."""
        if obj.docstring is not None:
            paragraphs = STAR.sub(r"\\*", obj.docstring.value).split("\n\n")
            obj.docstring.value = "\n\n".join(map(listed, paragraphs))


def listed(paragraph: str) -> str:
    """One that begins with "name: " as a list of such items, which begin a line or follow a sentence; else as it is."""
    if not ITEM.match(paragraph):
        return paragraph
    lines = [re.sub(r"^([^:]+): ", r"- **\1**: ", line) if ITEM.match(line) else f"  {line.strip()}"
             for line in NEXT.sub("\n", paragraph).split("\n")]  # fmt: skip
    return "\n".join(lines)
