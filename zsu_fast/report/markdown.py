"""The report as Markdown: the same sentences as the page, and tables where that has pictures; and as a model card."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence

from zsu_fast.report.base import Report
from zsu_fast.report.statements import Part, badge, first_page

MOST_INDICES = 40
LIBRARIES = {"timm": "timm", "hf": "transformers"}
"""What a model's spec begins with -> what the Hub calls that library."""


def render(report: Report) -> str:
    """CommonMark with tables. Whatever did not come from this package is escaped: it can neither be markup nor HTML."""
    blocks = [f"# {_text(report.title)}", _text(report.model)]
    blocks.append(f"**{_text(badge(report))}.** {_text(report.verdict['sentence'])}")
    blocks += [f"> **Mind:** {_text(warning)}" for warning in report.warnings]
    cards = [(card.what, card.old, card.new, card.note) for card in report.cards()]
    if cards:
        blocks.append(_table(("", "before", "after", ""), cards))
    blocks += [block for part in first_page(report) for block in _statements(part)]
    blocks += ["## Technical part", *_neurons(report)]
    blocks.append("Everything that was asked, tried and measured is in the record, which is in the undo file.")
    return "\n\n".join(blocks) + "\n"


def model_card(report: Report) -> str:
    """The same behind the YAML header that the Hugging Face Hub takes: a README.md for a repository of the model."""
    library = LIBRARIES.get(report.model.partition(":")[0])
    lines = [*([f"library_name: {library}"] if library else []), f"pipeline_tag: {report.pipeline}"]
    lines += ["tags:", "- machine-unlearning", "- zsu-fast", f"- {json.dumps(str(report.request['method']))}"]
    return "---\n" + "\n".join(lines) + "\n---\n\n" + render(report)


def _statements(part: Part) -> list[str]:
    blocks = [f"## {_text(part.title)}"]
    items = [_text(text) for text in part.said]
    items += [f"**{_text(term)}:** {_text(text)}" for term, text in part.facts]
    items += [f"`{command}`: {_text(text)}" for command, text in part.commands]
    return [*blocks, "\n".join(f"- {item}" for item in items)]


def _neurons(report: Report) -> list[str]:
    if not report.picks:
        return []
    rows = []
    for name, indices in report.picks.items():
        listed = ", ".join(map(str, indices[:MOST_INDICES])) + (" …" if len(indices) > MOST_INDICES else "")
        rows.append((name, str(len(indices)), listed))
    return ["### Which neurons went", _table(("layer", "how many", "which"), rows)]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *([_text(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(text: str) -> str:
    """One line, in which nothing is markup: a backslash before what could be."""
    line = re.sub(r"[\\`*_{}\[\]<>#|!~&$@]", r"\\\g<0>", " ".join(text.split()))
    return re.sub(r"^(\d+(?=[.)])|(?=[-+=]))", r"\1\\", line)
