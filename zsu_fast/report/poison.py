"""What of a poisoning is due to the labels and what to the patch."""

from __future__ import annotations

from html import escape
from typing import Any

from zsu_fast.report import parts


def ablation(record: dict[str, Any]) -> str:
    """Labels alone, patch alone, both, and the cut without training; what it says of the patch is said first."""
    if record["request"]["method"] != "poison":
        return ""
    title = "What labels and patch each do"
    found = (record.get("findings") or {}).get("ablation")
    if not found:
        return parts.section(title, "Not measured: --set ablation=true measures it.", "")
    lines = [
        parts.row(
            one["edit"],
            (parts.bar(one["forget"]), parts.bar(one["retain"], "after")),
            f"{100 * one['forget']:.1f}, {100 * one['retain']:.1f}",
        )
        for one in found["rows"]
    ]
    lead = f"<b>{escape(found['said'])}</b>"
    if lines:
        lead += (
            ' <i class="key" style="background:var(--before)"></i>the class, '
            '<i class="key" style="background:var(--after)"></i>the others: share of a held-out quarter of the images '
            "that keep their answer, in %."
        )
    return parts.section(title, lead, parts.rows(lines) if lines else "")
