"""The README's picture of speed: relevance by model, rules and package, in units of the plain gradient.

    python -m bench.picture

From bench/results, `make bench` and `bench.plans`; every ratio is of one run.
"""

from __future__ import annotations

import json
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from bench.__main__ import RESULTS
from bench.plans import PLAN
from bench.runner import OURS
from zsu_fast.plot import save

PICTURE = RESULTS.parent.parent / "docs" / "speed.png"
PLANNED = f"{OURS}, plan"
RULES = {"epsilon": "epsilon", "epsilon_plus": "z+", "attnlrp": "AttnLRP"}  # of plans, as the models' rows say it
SHOWN = {  # package: marker, colour
    OURS: ("o", "#1f5fa8"), PLANNED: ("D", "#1f9d8a"), "LXT": ("s", "#8a8a8a"),
    "captum": ("^", "#c77d1e"), "zennit": ("v", "#a8321f"),
}  # fmt: skip


def ratios(models: dict[str, Any], plans: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Model and rules -> package -> time in units of the plain gradient."""
    found: dict[str, dict[str, float]] = {}
    for row in models["results"]:
        if "further_target" in row:
            continue
        ours = 1 / row["ratios"][row["floors"][0]][1]
        peers = {who: ours * row["ratios"][who][1] for who in SHOWN if who in row["ratios"]}
        found[row["case"].removeprefix("relevance/")] = {OURS: ours} | peers
    for row in plans["rows"]:
        name = f"{row['model']}, {RULES[row['rules']]}"
        if name in found:
            found[name][PLANNED] = row["ratios"][PLAN][1]
    return found


def draw(found: dict[str, dict[str, float]]) -> Figure:
    figure = Figure(figsize=(7.5, 0.42 * len(found) + 1.1), layout="constrained")
    ax: Axes = figure.subplots()
    names = list(found)
    ax.axvline(1, color="#444444", linewidth=1)
    ax.text(1, -0.75, "plain gradient", ha="center", va="bottom", fontsize=8, color="#444444")
    for who, (marker, colour) in SHOWN.items():
        points = [(found[name][who], place) for place, name in enumerate(names) if who in found[name]]
        if points:
            times, places = zip(*points, strict=True)
            ax.scatter(times, places, marker=marker, color=colour, label=who, zorder=3, s=38)
    ax.set_xscale("log", base=2)
    ax.set_xticks([1, 2, 4, 8], ["1x", "2x", "4x", "8x"])
    ax.minorticks_off()
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.4, -0.8)
    ax.set_xlabel("time of relevance, on a CPU (left is faster)")
    ax.grid(axis="y", color="#dddddd")
    for side in ("top", "right", "left"):
        ax.spines[side].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.legend(loc="lower right", fontsize=8, framealpha=1)
    return figure


def main() -> None:
    models, plans = (json.loads((RESULTS / name).read_text()) for name in ("models_cpu.json", "plans.json"))
    save(draw(ratios(models, plans)), PICTURE)


if __name__ == "__main__":
    main()
