"""The page itself. Every string that did not come from this file is escaped."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from importlib import resources
from typing import Any

import numpy as np

from zsu_fast.evaluate import Evaluation, ProbeResult
from zsu_fast.plot.colours import as_array, limit_of
from zsu_fast.report import pictures
from zsu_fast.report.analysis import Analysis
from zsu_fast.report.concepts import Made
from zsu_fast.report.files import write_text

MOST_CLASSES = 40
MOST_LAYERS = 24
MOST_INDICES = 400


@dataclass(frozen=True)
class Report:
    """What a report shows. Everything but the first four may be missing; its section is then left out.

    Attributes:
        model: what the model is called.
        record: of the `ForgetResult`.
        picks: layer -> masked indices, of the `ForgetResult`.
        names: class index -> name.
        before, after: the evaluation images, judged by the model before and after.
        relevance_before, relevance_after: what `analyse` found before and after.
        photos: uint8 [n, H, W, C], the probes that the heatmaps belong to.
        probe_before, probe_after: linear probe on the features.
        generated: uint8 [n, H, W, C] before and after, what a generator makes of the same latents.
        warnings: what a reader must know before believing the numbers.
        made_of: what the class was made of, see `zsu_fast.report.concepts`.
    """

    model: str
    record: dict[str, Any]
    picks: dict[str, list[int]]
    names: dict[int, str] = field(default_factory=dict)
    before: Evaluation | None = None
    after: Evaluation | None = None
    relevance_before: Analysis = field(default_factory=Analysis)
    relevance_after: Analysis = field(default_factory=Analysis)
    photos: np.ndarray[Any, Any] | None = None
    probe_before: ProbeResult | None = None
    probe_after: ProbeResult | None = None
    generated: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]] | None = None
    warnings: Sequence[str] = ()
    made_of: Made | None = None


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Write the page to a file, whole or not at all."""
    write_text(render(report), path)


def render(report: Report) -> str:
    """The HTML text. Loads nothing from anywhere: its Content-Security-Policy forbids it.

    Raises:
        ImportError: matplotlib is missing (extra "report").
    """
    targets = report.record["request"]["targets"]
    title = f"Forget {_join(_label(report, target) for target in targets)}"
    body = "".join(
        (
            _header(report, title),
            _cards(report),
            _generated(report),
            _classes(report),
            _taken_for(report),
            _layers(report),
            _strips(report),
            _made_of(report),
            _maps(report),
            _search(report),
            _ablation(report),
            _front(report),
            _record(report),
        )
    )
    style = resources.files("zsu_fast.report").joinpath("style.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)} – {escape(report.model)}</title><style>{style}</style></head>"
        f"<body><main>{body}</main></body></html>\n"
    )


def _label(report: Report, index: int) -> str:
    name = report.names.get(index)
    return f"class {index}" if name in (None, str(index)) else f"{name} (class {index})"


def _join(parts: Any) -> str:
    return ", ".join(parts)


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f} %"


def _section(title: str, lead: str, content: str) -> str:
    return f'<section><h2>{escape(title)}</h2><p class="soft">{lead}</p>{content}</section>'


def _header(report: Report, title: str) -> str:
    record = report.record
    verdict = record["verdict"]
    words = {"answers": "answers forgotten", "features": "features forgotten"}.get(verdict["level"], verdict["level"])
    badge = f'<span class="badge {"yes" if verdict["forgotten"] else "no"}">{words}</span>'
    count = sum(map(len, report.picks.values()))
    if count:
        what = f"{escape(verdict['sentence'])} {count} neurons in {len(report.picks)} layer(s), "
        what += f"method {escape(str(record['request']['method']))}, "
        what += f"mode {escape(str(record.get('mode')))}. The patch file undoes it bit for bit: "
        what += "who has it has the class back."
    else:
        what = escape(verdict["sentence"])
    warnings = "".join(f"<p><b>Mind:</b> {escape(text)}</p>" for text in report.warnings)
    return f'<h1>{escape(title)}</h1><p class="soft mono">{escape(report.model)}</p><p>{badge} {what}</p>{warnings}'


def _cards(report: Report) -> str:
    cards = []
    before, after = report.before, report.after
    if before is not None and after is not None:
        rows = (
            (
                "The class, on the evaluation images",
                before.forget_accuracy,
                after.forget_accuracy,
                after.forget_interval,
            ),
            ("All other classes", before.retain_accuracy, after.retain_accuracy, after.retain_interval),
        )
        for what, old, new, interval in rows:
            if interval is None:
                continue
            note = f"95 % interval {_percent(interval[0])} to {_percent(interval[1])}"
            cards.append(_card(what, old, new, note))
    else:
        metrics = report.record["metrics"]
        if report.generated is not None:
            return f'<div class="cards">{"".join(_of_generator(report.record["evaluation"]))}</div>'
        for what, key in (("The class, on held-out probes", "forget_accuracy"), ("Retain probes", "retain_accuracy")):
            if metrics["before"].get(key) is not None:
                cards.append(_card(what, metrics["before"][key], metrics["after"][key], f"{metrics['probes']} probes"))
    if report.probe_before is not None and report.probe_after is not None:
        note = "can the class still be read off the features?"
        cards.append(
            _card(
                "Linear probe, the class", report.probe_before.forget_accuracy, report.probe_after.forget_accuracy, note
            )
        )
    return f'<div class="cards">{"".join(cards)}</div>' if cards else ""


def _of_generator(seen: dict[str, Any]) -> list[str]:
    old, new = seen["before"], seen["after"]
    cards = []
    for what, name in (("The class, by the judge", "share"), ("By a second judge", "second_share")):
        if new[name] is not None:
            low, high = new[f"{name}_interval"]
            note = f"of {new['latents']} fresh latents; 95 % interval {_percent(low)} to {_percent(high)}"
            cards.append(_card(what, old[name], new[name], note))
    cards.append(_card("Kept", old["kept_same"], new["kept_same"], "latents of other classes that keep theirs"))
    note = "of the class's latents, those whose images are surely of one other class now"
    return [*cards, _card("Confident", old["confident"], new["confident"], note)]


def _generated(report: Report) -> str:
    """Pictures of the same latents, above as they were."""
    if report.generated is None or not len(report.generated[0]):
        return ""
    figures = "".join(
        f'<figure><div class="two"><img alt="before" src="{pictures.photo(old)}">'
        f'<img alt="after" src="{pictures.photo(new)}"></div></figure>'
        for old, new in zip(*report.generated, strict=True)
    )
    lead = "Fresh latents whose images were of the class: before, and below what the same latents make now."
    return _section("What is made instead", lead, f'<div class="maps">{figures}</div>')


def _card(what: str, old: float | None, new: float | None, note: str) -> str:
    return (
        f'<div class="card"><div class="what">{escape(what)}</div>'
        f'<div class="value"><small>{_percent(old)} →</small> {_percent(new)}</div>'
        f'<div class="note">{escape(note)}</div></div>'
    )


def _classes(report: Report) -> str:
    before, after = report.before, report.after
    if before is None or after is None:
        return ""
    classes = sorted(before.per_class)
    lead = (
        '<i class="key" style="background:var(--before)"></i>before'
        '<i class="key" style="background:var(--after)"></i>after. Top-1 accuracy on the evaluation images.'
    )
    if len(classes) > MOST_CLASSES:
        targets = [c for c in classes if c in after.targets]
        others = sorted(
            (c for c in classes if c not in after.targets), key=lambda c: -abs(after.per_class[c] - before.per_class[c])
        )
        lead += f" The target and the {MOST_CLASSES - len(targets)} other classes that changed most, of {len(classes)}."
        classes = targets + others[: max(0, MOST_CLASSES - len(targets))]
    rows = []
    for c in classes:
        old, new = before.per_class[c], after.per_class[c]
        bars = (
            f'<div class="bars"><div class="track"><div class="bar" style="width:{100 * old:.2f}%"></div></div>'
            f'<div class="track"><div class="bar after" style="width:{100 * new:.2f}%"></div></div></div>'
        )
        kind = "name target" if c in after.targets else "name"
        text = report.names.get(c, f"class {c}")
        rows.append(
            f'<div class="{kind}">{escape(text)}</div>{bars}<div class="number">{100 * old:.1f} → {100 * new:.1f}</div>'
        )
    return _section("Accuracy per class", lead, f'<div class="rows">{"".join(rows)}</div>')


def _taken_for(report: Report) -> str:
    if report.after is None or not report.after.taken_for:
        return ""
    total = sum(report.after.taken_for.values())
    rows = []
    for index, count in list(report.after.taken_for.items())[:8]:
        name = "NaN" if index < 0 else report.names.get(index, f"class {index}")
        kind = "name target" if index in report.after.targets else "name"
        share = 100 * count / total
        bar = f'<div class="track"><div class="bar after" style="width:{share:.2f}%"></div></div>'
        rows.append(f'<div class="{kind}">{escape(name)}</div>{bar}<div class="number">{share:.1f} %</div>')
    lead = f"The model's answers after the edit to the {total} evaluation images of the class."
    return _section("What its images are taken for now", lead, f'<div class="rows">{"".join(rows)}</div>')


def _layers(report: Report) -> str:
    units = report.relevance_before.units
    if not units:
        return ""
    rows = []
    for name, values in units.items():
        positive = values.clamp(min=0)
        total = float(positive.sum()) or 1.0
        strongest = float(positive.topk(max(1, round(0.1 * len(values)))).values.sum()) / total
        masked = report.picks.get(name, [])
        held = float(positive[list(masked)].sum()) / total if masked else 0.0
        bars = (
            f'<div class="bars"><div class="track"><div class="bar" style="width:{100 * strongest:.2f}%"></div></div>'
            f'<div class="track"><div class="bar masked" style="width:{100 * held:.2f}%"></div></div></div>'
        )
        number = f'<div class="number">{len(masked)} of {len(values)}</div>'
        rows.append((bool(masked), f'<div class="name mono">{escape(name)}</div>{bars}{number}'))
    lead = (
        "Share of each layer's positive relevance for the class that is held "
        '<i class="key" style="background:var(--before)"></i>by its strongest tenth of units and '
        '<i class="key" style="background:var(--masked)"></i>by the units that were masked (how many of how many).'
    )
    shown = rows if len(rows) <= MOST_LAYERS else [row for row in rows if row[0]]
    content = f'<div class="rows">{"".join(row for _, row in shown)}</div>'
    if len(shown) < len(rows):
        everything = "".join(row for _, row in rows)
        content += f'<details><summary>all {len(rows)} layers</summary><div class="rows">{everything}</div></details>'
    return _section("Relevance per layer", lead, content)


def _strips(report: Report) -> str:
    found = []
    for name, masked in report.picks.items():
        values = report.relevance_before.units.get(name)
        listed = ", ".join(map(str, masked[:MOST_INDICES])) + (" …" if len(masked) > MOST_INDICES else "")
        picture = ""
        if values is not None and (not masked or max(masked) < len(values)):
            alt = f"relevance of the {len(values)} units of {name}, {len(masked)} of them masked"
            picture = f'<img alt="{escape(alt)}" src="{pictures.strip(values, masked)}">'
        found.append(
            f'<div class="strip"><div class="head"><span class="mono">{escape(name)}</span>'
            f"<span>{len(masked)}{f' of {len(values)}' if values is not None else ''}</span></div>{picture}"
            f'<details><summary>indices</summary><p class="mono">{escape(listed)}</p></details></div>'
        )
    lead = (
        "Every unit of a layer in its place, the darker the more relevant for the class before the edit; "
        '<i class="key" style="background:var(--masked)"></i>marks those that went.'
    )
    return _section("Which neurons went", lead, "".join(found)) if found else ""


def _maps(report: Report) -> str:
    before, after = report.relevance_before, report.relevance_after
    if before.heat is None or after.heat is None:
        reason = before.missing or after.missing
        return _section("Where the model looked", escape(reason), "") if reason else ""
    figures = []
    photos = [None] * len(before.heat) if report.photos is None else list(report.photos)
    for photo, old, new in zip(photos, before.heat, after.heat, strict=False):
        # One scale for both: a class that lost its evidence must look pale, not rescaled.
        limit = limit_of(as_array(old))
        shown = "" if photo is None else f'<img alt="probe" src="{pictures.photo(photo)}">'
        caption = "" if photo is None else "<span>probe</span>"
        figures.append(
            f'<figure><div class="three">{shown}'
            f'<img alt="relevance before" src="{pictures.heatmap(old, limit)}">'
            f'<img alt="relevance after" src="{pictures.heatmap(new, limit)}"></div>'
            f"<figcaption>{caption}<span>before</span><span>after</span></figcaption></figure>"
        )
    lead = (
        "Relevance of the pixels for the class's logit: red speaks for the class, blue against it. "
        f"Before and after are drawn on one scale. Rules: {escape(before.heat_rules)}."
    )
    return _section("Where the model looked", lead, f'<div class="maps">{"".join(figures)}</div>')


def _made_of(report: Report) -> str:
    made = report.made_of
    if made is None:
        return ""
    picture = f'<img class="chart" alt="concepts and their crops" src="{made.picture}">' if made.picture else ""
    return _section("What the class was made of", escape(made.text), picture)


def _search(report: Report) -> str:
    trace = report.record.get("search") or []
    if len(trace) < 2:
        return ""
    chart = f'<img class="chart" alt="budget against accuracy" src="{pictures.search_chart(trace, _until(report))}">'
    return _section(
        "How the budget was found",
        "An edit that costs the others nothing is taken in full, one with a price as far as the floor allows.",
        chart,
    )


def _ablation(report: Report) -> str:
    found = (report.record.get("findings") or {}).get("ablation")
    if not found or not found["rows"]:
        return ""
    rows = []
    for row in found["rows"]:
        bars = "".join(
            f'<div class="track"><div class="{kind}" style="width:{100 * row[key]:.2f}%"></div></div>'
            for kind, key in (("bar", "forget"), ("bar after", "retain"))
        )
        number = f'<div class="number">{100 * row["forget"]:.1f}, {100 * row["retain"]:.1f}</div>'
        rows.append(f'<div class="name">{escape(row["edit"])}</div><div class="bars">{bars}</div>{number}')
    lead = (
        '<i class="key" style="background:var(--before)"></i>the class, '
        '<i class="key" style="background:var(--after)"></i>the others: share of a held-out quarter of the images '
        f"that keep their answer, in %. {escape(found['said'])}"
    )
    return _section("What labels and patch each do", lead, f'<div class="rows">{"".join(rows)}</div>')


def _front(report: Report) -> str:
    points = report.record.get("front") or []
    if len(points) < 2:
        return ""
    lead = (
        f"Edits of {len(points) - 1} sizes, each measured on {points[0]['images']} images of the class and on others "
        "that had no part in the choice. Filled: no other size is as good in every respect and better in one. "
        "Ringed: the edit that was made. A probe that is low where the others fall too is damage, not forgetting."
    )
    chart = (
        f'<img class="chart" alt="left of the class against kept of the others" src="{pictures.front_chart(points)}">'
    )
    return _section("What other sizes would cost", lead, chart)


def _until(report: Report) -> float | None:
    """The accuracy that was aimed at, as far as the record tells."""
    value = report.record.get("until", report.record["request"].get("until"))
    return None if value is None else float(value)


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
        "seed": record["request"].get("seed"),
        "versions": ", ".join(f"{name} {version}" for name, version in (record.get("versions") or {}).items()),
        "time": record.get("time"),
    }
    listed = "".join(f'<dt>{escape(k)}</dt><dd class="mono">{escape(str(v))}</dd>' for k, v in facts.items())
    text = escape(json.dumps(record, indent=1, default=str, allow_nan=False))
    return _section(
        "Record",
        "The same record is in the patch file.",
        f"<dl>{listed}</dl><details><summary>everything, as JSON</summary><pre>{text}</pre></details>",
    )
