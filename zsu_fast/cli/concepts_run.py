"""What ``zsu-fast concepts`` reads and shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table
from torch import Tensor

from zsu_fast.cli.session import Session
from zsu_fast.concepts import Explanation


def read_folders(session: Session, folder: Path) -> dict[str, Tensor]:
    """Images by the name of their folder."""
    if not folder.is_dir():
        raise ValueError(f"--concepts must be a folder with a folder for each concept, got {folder}")
    named = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    if not named:
        raise ValueError(f"--concepts: {folder} holds no folders; one for each concept is expected")
    return {path.name: session.tensor(session.read(path, "--concepts")) for path in named}


def tables(explanation: Explanation, label: str) -> list[Any]:
    """For people."""
    found = Table(title=escape(f"{label}: relevance at the input of {explanation.layer}"), title_justify="left")
    for column in ("concept", "share", "largest share for another class", "images of the class"):
        found.add_column(column, justify="left" if column == "concept" else "right")
    for one in explanation.found:
        shown = " ".join(map(str, one.images.tolist()))
        found.add_row(one.name, f"{one.share:.3f}", f"{one.other:.3f}", shown)
    said: list[Any] = [found]
    named = explanation.to_dict()["named"]
    if named is not None:
        top = Table(title=escape(f"{label}: named concepts at {named['layer']}"), title_justify="left")
        for column in ("concept", "weight", "told on held-out images", "p"):
            top.add_column(column, justify="left" if column == "concept" else "right")
        for one in named["top"]:
            accuracy, p = one.get("accuracy"), one.get("p_value")
            measured = ["–" if value is None else f"{value:.3g}" for value in (accuracy, p)]
            top.add_row(escape(one["name"]), f"{one['weight']:.2f}", *measured)
        verdict = "which accounts for it" if named["faithful"] else "so they do NOT account for its answers"
        said += [
            top,
            f"{len(named['concepts'])} concepts answer {100 * named['accuracy']:.1f} % of {named['images']} held-out "
            f"images rightly, the model {100 * named['of_model']:.1f} %: {verdict}",
        ]
    said.append(
        f"integrated gradients rank the pixels alike to {explanation.rank_correlation:.2f} (Spearman, mean of "
        f"{explanation.compared} images) and miss {100 * explanation.incomplete:.1f} % of the logit"
    )
    return said
