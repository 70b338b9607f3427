"""The page: what a report of any kind has. Every string that did not come from this package is escaped."""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Any

from zsu_fast.report import parts
from zsu_fast.report.files import write_text

LEVELS = {"answers": "answers forgotten", "features": "features forgotten"}


@dataclass(frozen=True, kw_only=True)
class Report(ABC):
    """What a report shows. Each kind of request has its own, in a file of its own, with what it alone can show.

    Attributes:
        model: what the model is called.
        record: of the `ForgetResult`.
        picks: layer -> masked indices, of the `ForgetResult`.
        names: class index -> name.
        warnings: what a reader must know before believing the numbers.
    """

    model: str
    record: dict[str, Any]
    picks: dict[str, list[int]]
    names: dict[int, str] = field(default_factory=dict)
    warnings: Sequence[str] = ()

    @property
    @abstractmethod
    def title(self) -> str:
        """What was to be forgotten; a text."""

    @abstractmethod
    def cards(self) -> list[str]:
        """The figures that matter most; see `parts.card`."""

    @abstractmethod
    def sections(self) -> list[str]:
        """Everything else, from the most to the least important; see `parts.section`. An empty one is left out."""

    @property
    def request(self) -> dict[str, Any]:
        found: dict[str, Any] = self.record["request"]
        return found

    @property
    def edited(self) -> bool:
        """Whether an edit is in place."""
        return self.record.get("mode") is not None

    def label(self, index: int) -> str:
        return parts.label(self.names, index)


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the page to a file, whole or not at all."""
    write_text(render(report), path)


def render(report: Report) -> str:
    """The HTML text. Loads nothing from anywhere: its Content-Security-Policy forbids it.

    Raises:
        ImportError: matplotlib is missing (extra "report").
    """
    cards = report.cards()
    body = "".join(
        (
            _header(report),
            f'<div class="cards">{"".join(cards)}</div>' if cards else "",
            *report.sections(),
            _record(report),
        )
    )
    style = resources.files("zsu_fast.report").joinpath("style.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(report.title)} – {escape(report.model)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _header(report: Report) -> str:
    verdict = report.record["verdict"]
    words = LEVELS.get(verdict["level"], verdict["level"])
    badge = f'<span class="badge {"yes" if verdict["forgotten"] else "no"}">{escape(words)}</span>'
    said = f"{escape(verdict['sentence'])} "
    if report.edited:
        count = sum(map(len, report.picks.values()))
        extent = f"{count} neurons in {len(report.picks)} layer(s), method" if count else "Method"
        said += f"{extent} {escape(str(report.request['method']))}, "
        said += f"mode {escape(str(report.record.get('mode')))}. The patch file undoes it bit for bit: "
        said += "who has it has back what was forgotten."
    elif _tried(report.record):
        said += "What stands below as <i>after</i> was measured on the edit that was tried and taken back."
    warnings = "".join(f"<p><b>Mind:</b> {escape(text)}</p>" for text in report.warnings)
    return (
        f'<h1>{escape(report.title)}</h1><p class="soft mono">{escape(report.model)}</p><p>{badge} {said}</p>{warnings}'
    )


def _tried(record: dict[str, Any]) -> bool:
    seen = record.get("evaluation")
    return seen is not None and bool(seen["before"] != seen["after"])


def _proved(certificate: dict[str, Any]) -> str:
    """What is certain of the answers, for every input."""
    claims = [*filter(None, [certificate.get("others")]), *certificate.get("answers", [])]
    return "; ".join(
        f"{one['claim']}, because {one['because']}" + (f" ({one['but']})" if "but" in one else "") for one in claims
    )


def _record(report: Report) -> str:
    record = report.record
    model = record.get("model", {})
    facts = {
        "proved": _proved(record.get("certificate") or {}),
        "model before (SHA-256)": model.get("before"),
        "model after (SHA-256)": model.get("after"),
        "probes": f"{record.get('metrics', {}).get('probes')}, HMAC {(record.get('probes') or {}).get('hmac_sha256')}",
        "seed": report.request.get("seed"),
        "versions": ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items()),
        "time": record.get("time"),
    }
    listed = "".join(f'<dt>{escape(k)}</dt><dd class="mono">{escape(str(v))}</dd>' for k, v in facts.items() if v != "")
    text = escape(json.dumps(record, indent=1, default=str, allow_nan=False))
    return parts.section(
        "Record",
        "The same record is in the patch file.",
        f"<dl>{listed}</dl><details><summary>everything, as JSON</summary><pre>{text}</pre></details>",
    )
