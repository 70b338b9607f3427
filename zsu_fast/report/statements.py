"""The first page: what a report says in plain words. Every form of it is made from these sentences.

They are made from the record alone, and from what a kind of report says of itself: nothing here is measured.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zsu_fast.report.base import Report
from zsu_fast.report.glossary import explained
from zsu_fast.report.words import count

LEVELS = {"answers": "answers forgotten", "features": "features forgotten"}
MEANINGS = {
    "answers": "What comes out of the model has changed as was asked, as far as the figures here go. What it still "
    "holds inside is another question: see what is not shown.",
    "features": "Also what the model holds inside was tested, as the verdict says, and passed.",
    "not judged": "An edit was made; what was measured is not enough to call anything forgotten.",
    "not reached": "No edit did what was asked at a price that was allowed. The model is bit for bit what it was: "
    "nothing was forgotten.",
    "invalid": "There was nothing that could be forgotten as it was asked. The model is bit for bit what it was.",
}
"""Level of the verdict -> what it means."""

COPIES = (
    "Copies of the model that were made before the edit still have what was forgotten, and so has the undo file, if "
    "one was kept."
)
PURPOSE = (
    "Whether this is what a law, a contract or a court requires is not for this page to say: it reports measurements."
)
IN_FOLDER = (
    (
        "zsu-fast verify FOLDER --original WEIGHTS",
        "computes every hash anew, undoes the edit in memory and compares with the weights before; FOLDER is the one "
        "that has this page",
    ),
    ("zsu-fast verify FOLDER --public-key KEY", "also that the holder of a key signed the result, if it was signed"),
    ("zsu-fast restore FOLDER", "undoes the edit with the undo file, if one was kept, bit for bit"),
)
WITH_IMAGES = (
    (
        "zsu-fast verify FOLDER --images IMAGES",
        "whether these are the images that were given, by the keyed hashes above; it needs the undo file, which has "
        "the key",
    ),
)
IN_PYTHON = (
    ("zsu_fast.unlearn.model_digest(model)", "the SHA-256 of a model, to compare with those above"),
    ("zsu_fast.Patch.load(FILE).revert(model)", "undoes the edit with the undo file, if one was kept, bit for bit"),
)
"""What to type, and what it checks."""
TYPED = "(as it was typed by whoever ran it; nobody checked it)"


@dataclass(frozen=True)
class Part:
    """One heading with what stands under it, all plain text.

    said: sentences. facts: term -> text. commands: what to type, and what it checks.
    """

    title: str
    said: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    commands: tuple[tuple[str, str], ...] = ()


def badge(report: Report) -> str:
    """The verdict in two words."""
    level = report.verdict["level"]
    return LEVELS.get(level, level)


def tried(record: dict[str, Any]) -> bool:
    """Whether what was measured after is of an edit that was taken back again."""
    seen = record.get("evaluation")
    return record.get("mode") is None and seen is not None and bool(seen["before"] != seen["after"])


def first_page(report: Report) -> list[Part]:
    """What every report begins with, in this order."""
    return [
        _asked(report),
        _shown(report),
        _not_shown(report),
        _judged_by(report),
        _check(report),
        _who(report),
        Part("Words", facts=tuple(explained(report.glossary))),
    ]


def _asked(report: Report) -> Part:
    model = report.record.get("model", {})
    facts = [("model", report.model)]
    said = [report.asked]
    if report.edited:
        said.append(f"{_extent(report)} The method was {report.request['method']}.")
    else:
        said.append(f"The method was {report.request['method']}. No edit is in place.")
    if model.get("before"):
        facts.append(("before, SHA-256", str(model["before"])))
        facts.append(("after, SHA-256", str(model["after"]) if report.edited else "the same"))
    return Part("What was asked, of which model", tuple(said), tuple(facts))


def _extent(report: Report) -> str:
    picked = sum(map(len, report.picks.values()))
    if picked:
        return f"The edit is of {count(picked, 'neuron')} in {count(len(report.picks), 'layer')}."
    return f"The edit is of {count(len({edit['tensor'] for edit in report.record.get('edits', [])}), 'tensor')}."


def _shown(report: Report) -> Part:
    verdict = report.verdict
    said = [verdict["sentence"]]
    if verdict["level"] in MEANINGS:
        said.append(MEANINGS[verdict["level"]])
    if tried(report.record):
        said.append("Figures “after” are those of the edit that was tried and taken back.")
    return Part("What is shown", (*said, *report.shown(), *_proved(report.record.get("certificate") or {})))


def _proved(certificate: dict[str, Any]) -> list[str]:
    """What is certain of the answers, for every input."""
    claims = [*filter(None, [certificate.get("others")]), *certificate.get("answers", [])]
    return [
        f"Proved for every input: {one['claim']}, because {one['because']}"
        + (f" ({one['but']})." if "but" in one else ".")
        for one in claims
    ]


def _not_shown(report: Report) -> Part:
    untouched = (
        f"The {report.trained_on} that the model was trained on, and copies of them elsewhere, are not touched by this."
    )
    said = [*report.not_shown(), COPIES] if report.edited else ["That anything was forgotten: the model is unchanged."]
    return Part("What is not shown, or was not tested", (*said, untouched, PURPOSE))


def _judged_by(report: Report) -> Part:
    record = report.record
    chosen = f"{record['metrics']['probes']} {report.inputs}"
    chosen += ", synthesised from the model: not real ones" if "synthetic" in report.request else ""
    facts = [("chosen by", chosen + _keyed(record.get("probes")))]
    if record.get("retain_probes"):
        kept = record["retain_probes"]
        facts.append(("guarded by (part of the choice)", f"{kept['shape'][0]} of what is to be kept" + _keyed(kept)))
    facts += [("judged by", text) for text in report.judges()]
    facts += [
        (f"given as {what}", f"{count(one['images'], 'image')}, HMAC-SHA-256 {one['hmac_sha256']}")
        for what, one in report.sources.items()
    ]
    said = []
    if report.edited and record["metrics"].get("held_out"):
        said.append("Those that chose the edit were held out in turn: each was judged by an edit chosen without it.")
    return Part("By what it was chosen and judged", tuple(said), tuple(facts))


def _keyed(described: dict[str, Any] | None) -> str:
    return "" if not described else f", as the model takes them: HMAC-SHA-256 {described['hmac_sha256']}"


def _check(report: Report) -> Part:
    said = [
        "This page proves nothing by itself: anyone can write one. What can be checked is that the model is the "
        "original with exactly these edits, and what it answers now to images of your own."
    ]
    commands: tuple[tuple[str, str], ...] = ()
    if report.edited:
        commands = (IN_FOLDER if report.in_folder else IN_PYTHON) + (WITH_IMAGES if report.sources else ())
    return Part("How to check it", tuple(said), commands=commands)


def _who(report: Report) -> Part:
    record = report.record
    versions = ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items())
    facts = [
        ("by", f"{report.author} {TYPED}" if report.author else "not given"),
        ("time", f"{record['time']} (the clock of the machine that ran it)" if record.get("time") else ""),
        ("software", versions),
        ("seed", "" if report.request.get("seed") is None else str(report.request["seed"])),
    ]
    return Part("Who and when", facts=tuple((term, text) for term, text in facts if text))
