"""What a benchmark found: a flat row for each cell, a line for each method on each model, and the files of both."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, median
from typing import Any

from zsu_fast.benchmark.cells import Cell
from zsu_fast.benchmark.settings import ORIGINAL, REFERENCES, RETRAINED, Measures
from zsu_fast.evaluate.depth import PRICE, Attack, Depth, share_of_the_way
from zsu_fast.unlearn.verdict import FORGOTTEN_AT_MOST

Row = dict[str, Any]
BACK = 0.95
"""Share of the original's accuracy on the class at which it counts as relearned (Chundawat et al. 2023)."""
COLUMNS = (
    "model", "class", "method", "seed", "outcome", "error", "verdict", "reached", "edited", "given_images", "answers",
    "others", "linear_probe", "prototype", "share_linear_probe", "share_prototype", "holds", "relearned",
    "relearn_steps", "seconds", "cpu_seconds", "values", "patch_bytes",
)  # fmt: skip
"""Of `results.csv`, the first ones; the other attacks' come behind, each with what the others have left."""
AVERAGED = ("answers", "others", "linear_probe", "prototype", "lost", "seconds", "cpu_seconds", "values", "patch_bytes")
DRAWS = 2000  # of the bootstrap over cells
ENOUGH = 3  # cells, for an interval


@dataclass
class Results:
    """Cells as planned, and what was found of them so far: `found` has the measured ones by key."""

    name: str
    out: Path
    cells: list[Cell]
    found: dict[str, dict[str, Any]]
    models: dict[str, dict[str, Any]]
    measures: Measures
    _references: dict[tuple[str, int, str], str] = field(init=False)

    def __post_init__(self) -> None:
        self._references = {(c.model, c.target, c.method): c.key for c in self.cells if c.method in REFERENCES}

    @property
    def failed(self) -> list[Cell]:
        """Cells that raised something, in the order of the plan."""
        return [cell for cell in self.cells if self.found.get(cell.key, {}).get("outcome") == "failed"]

    @property
    def missing(self) -> list[Cell]:
        """Cells that are still to be measured, in the order of the plan."""
        return [cell for cell in self.cells if cell.key not in self.found]

    def reference(self, cell: Cell, which: str) -> dict[str, Any] | None:
        """What was measured of the original or the oracle beside a cell, if it was."""
        measured = self.found.get(self._references.get((cell.model, cell.target, which), ""))
        return measured if measured is not None and measured["outcome"] == "done" else None

    def attacks(self, cell: Cell) -> dict[str, Attack]:
        """Name -> what the attack has back from the edited model, beside original and oracle as far as these are."""
        measured, found = self.found[cell.key], {}
        beside = {}
        if cell.method not in REFERENCES:
            beside = {"original": self.reference(cell, ORIGINAL), "oracle": self.reference(cell, RETRAINED)}
        for name, own in measured["attacks"].items():
            forget, retain = {"edited": own["forget"]}, {"edited": own["retain"]}
            for who, other in beside.items():
                if other is not None:
                    forget[who], retain[who] = (other["attacks"][name][part] for part in ("forget", "retain"))
            compared = "original" in forget
            found[name] = Attack.of(forget, retain, measured["images"]) if compared else Attack(forget, retain)
        return found

    def row(self, cell: Cell) -> Row:
        """The cell in one flat row, see `COLUMNS`. Accuracies are fractions; what was not measured is None."""
        measured = self.found[cell.key]
        row: Row = dict.fromkeys(COLUMNS)
        row |= {"model": cell.model, "class": cell.target, "method": cell.method, "seed": cell.seed}
        row |= {key: measured[key] for key in COLUMNS if key in measured}
        if measured["outcome"] != "done":
            return row
        found = self.attacks(cell)
        for name, attack in found.items():
            slug = _slug(name)
            others = "others" if slug == "answers" else f"{slug}_others"
            row |= {slug: attack.forget["edited"], others: attack.retain["edited"], f"share_{slug}": attack.share}
        prototypes = [name for name in found if name.startswith("prototype row")]
        if prototypes:  # that of the most images: the last one
            slug = _slug(prototypes[-1])
            row |= {"prototype": row[slug], "share_prototype": row[f"share_{slug}"]}
        original = self.reference(cell, ORIGINAL)
        if original is not None:
            row["lost"] = original["attacks"]["answers"]["retain"] - row["others"]
        if cell.method not in REFERENCES:
            row["holds"] = Depth(found, measured["images"]).holds
        if "relearning" in measured and original is not None:
            row |= _relearned(measured["relearning"]["relearning"], original["attacks"]["answers"]["forget"])
        if "membership" in measured:
            row["membership_loss_auc"] = measured["membership"]["loss_auc"]
        return row

    def rows(self) -> list[Row]:
        """One flat row for each cell that was measured, as `row` gives it."""
        return [self.row(cell) for cell in self.cells if cell.key in self.found]

    def summary(self) -> list[Row]:
        """For each model the original, its oracle, and each method: means over classes and seeds, with intervals."""
        rows = self.rows()
        oracle = {(row["model"], row["class"]): row for row in rows if row["method"] == RETRAINED and _done(row)}
        names = dict.fromkeys((cell.model, cell.method) for cell in self.cells)
        planned = [(cell.model, cell.method) for cell in self.cells]
        lines = []
        for model, method in sorted(names, key=lambda pair: list(self.models).index(pair[0])):
            own = [row for row in rows if (row["model"], row["method"]) == (model, method)]
            original = [row for row in rows if (row["model"], row["method"]) == (model, ORIGINAL)]
            count = planned.count((model, method))
            lines.append(_line(model, method, count, own, original, oracle))
        return lines

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON can carry it; what `results.json` holds."""
        return {
            "kind": "zsu_fast benchmark results",
            "name": self.name,
            "models": self.models,
            "measures": self.measures.to_dict(),
            "cells": {"planned": len(self.cells), "failed": len(self.failed), "missing": len(self.missing)},
            "summary": self.summary(),
            "rows": [
                self.row(cell) | {"key": cell.key, "config": cell.config, "measured": self.found[cell.key]}
                for cell in self.cells
                if cell.key in self.found
            ],
        }

    def csv(self) -> str:
        """One line for each cell."""
        rows = self.rows()
        columns = list(dict.fromkeys([*COLUMNS, *(key for row in rows for key in row)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue()


def _slug(attack: str) -> str:
    return attack.lower().replace(",", "").replace(" ", "_")


def _done(row: Row) -> bool:
    return row["outcome"] == "done"


def _relearned(curve: dict[str, Any], original: float | None) -> Row:
    """After how many mini-batches the class was back, to the resolution of the curve's steps."""
    if not original:
        return {}
    back = [step for step, right in zip(curve["steps"], curve["forget"], strict=True) if right >= BACK * original]
    return {"relearned": bool(back), "relearn_steps": back[0] if back else None}


def _line(
    model: str,
    method: str,
    planned: int,
    rows: Sequence[Row],
    original: Sequence[Row],
    oracle: dict[tuple[str, int], Row],
) -> Row:
    """One method on one model."""
    done = [row for row in rows if _done(row)]
    line: Row = {
        "model": model,
        "method": method,
        "cells": planned,
        "done": len(done),
        "failed": len(rows) - len(done),
        "left_alone": sum(row["edited"] is False for row in done),
        "classes": sorted({row["class"] for row in done}),
        "seeds": sorted({row["seed"] for row in done if row["seed"] is not None}),
    }
    for key in AVERAGED:
        values = [row[key] for row in done if row.get(key) is not None]
        line[key] = mean(values) if values else None
        line[f"{key}_interval"] = bootstrap(values)
    before = {row["class"]: row for row in original if _done(row)}
    for key in ("linear_probe", "prototype"):
        beside = [
            (before[row["class"]][key], row[key], oracle[model, row["class"]][key])
            for row in done
            if row["class"] in before and (model, row["class"]) in oracle and row[key] is not None
        ]
        line[f"share_{key}"] = line[f"excess_{key}"] = None
        if beside:
            line[f"share_{key}"] = share_of_the_way(*(mean(values) for values in zip(*beside, strict=True)))
            line[f"excess_{key}"] = mean(max(0.0, mine - least) for _, mine, least in beside)
    holds = [row["holds"] for row in done if row["holds"] is not None]
    line["holds"], line["judged"] = sum(holds), len(holds)
    steps = [row["relearn_steps"] if row["relearned"] else float("inf") for row in done if row["relearned"] is not None]
    middle = median(steps) if steps else None
    line["relearned"] = None if middle is None else middle != float("inf")
    line["relearn_steps"] = middle if line["relearned"] else None
    keeps = None not in (line["answers"], line["lost"])
    line["qualifies"] = keeps and line["answers"] <= FORGOTTEN_AT_MOST and line["lost"] <= PRICE
    return line


def bootstrap(values: Sequence[float], statistic: Callable[[Iterable[float]], float] = mean) -> list[float] | None:
    """95 % percentile interval of the mean over cells, from the same draws each time; None for too few of them."""
    if len(values) < ENOUGH:
        return None
    drawn = random.Random(0)
    found = sorted(statistic(drawn.choices(values, k=len(values))) for _ in range(DRAWS))
    return [found[int(0.025 * DRAWS)], found[int(0.975 * DRAWS)]]
