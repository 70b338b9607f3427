"""Accuracies of a classifier, before and after."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from zsu_fast.report import parts

MOST_CLASSES = 40


def per_class(
    before: dict[int, float],
    after: dict[int, float],
    targets: Collection[int],
    names: dict[int, str],
    title: str = "Accuracy per class",
    what: str = "Top-1 accuracy on the evaluation images.",
) -> str:
    """Two bars for each class; of very many classes the targets and those that changed most."""
    classes = sorted(before)
    lead = parts.BOTH + what
    if len(classes) > MOST_CLASSES:
        marked = [c for c in classes if c in targets]
        others = sorted((c for c in classes if c not in targets), key=lambda c: -abs(after[c] - before[c]))
        others = others[: max(0, MOST_CLASSES - len(marked))]
        lead += f" {len(marked)} marked and the {len(others)} others that changed most, of {len(classes)}."
        classes = marked + others
    found = [
        parts.row(
            names.get(c, f"class {c}"),
            (parts.bar(before[c]), parts.bar(after[c], "after")),
            f"{100 * before[c]:.1f} → {100 * after[c]:.1f}",
            "target" if c in targets else "",
        )
        for c in classes
    ]
    return parts.section(title, lead, parts.rows(found))


def by_class(shares: dict[str, Any]) -> dict[int, float]:
    """The form of a record, with numbers again."""
    return {int(name): value for name, value in shares.items()}
