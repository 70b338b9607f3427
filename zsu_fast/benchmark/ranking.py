"""In which order methods stand, by rules that the page states in the same words."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import mean

from zsu_fast.benchmark.results import Row
from zsu_fast.benchmark.settings import REFERENCES
from zsu_fast.evaluate.depth import PRICE
from zsu_fast.unlearn.verdict import FORGOTTEN_AT_MOST


@dataclass(frozen=True)
class Rule:
    """order: what is compared, the smaller the better, of a line of `Results.summary`."""

    name: str
    text: str
    order: Callable[[Row], tuple[float, ...]]


def excess(line: Row, *keys: str) -> float:
    """What attackers have beyond the oracle; where there is none, what they have back at all."""
    found = [line[key] if line[f"excess_{key}"] is None else line[f"excess_{key}"] for key in keys]
    return mean(_or_last(value) for value in found)


def _or_last(value: float | None) -> float:
    return math.inf if value is None else value


def _relearning(line: Row) -> float:
    if line["relearned"] is None:
        return math.inf
    return -line["relearn_steps"] if line["relearned"] else -math.inf


_BEYOND = (
    "accuracy on the class beyond that of the same attack on the retrained model (the mean over the classes that have "
    "one of what is above 0); without a retrained model, the accuracy itself"
)
RULES = (
    Rule(
        "overall",
        f"First the methods that leave at most {100 * FORGOTTEN_AT_MOST:.0f} % of the class in the answers and cost "
        f"the others at most {100 * PRICE:.0f} points of accuracy, both in the mean; among them, and among the rest, "
        f"by the mean over linear probe and prototype row of the {_BEYOND}; then by CPU time.",
        lambda line: (not line["qualifies"], excess(line, "linear_probe", "prototype"), _or_last(line["cpu_seconds"])),
    ),
    Rule(
        "answers",
        "By accuracy on the class, the least first; then by what the others lost.",
        lambda line: (_or_last(line["answers"]), _or_last(line["lost"])),
    ),
    Rule(
        "others kept",
        "By what the other classes lost of the original's accuracy, the least first.",
        lambda line: (_or_last(line["lost"]),),
    ),
    Rule("linear probe", f"By the {_BEYOND}: of the linear probe.", lambda line: (excess(line, "linear_probe"),)),
    Rule("prototype row", f"By the {_BEYOND}: of the prototype row.", lambda line: (excess(line, "prototype"),)),
    Rule(
        "relearning",
        "By the median number of mini-batches after which the class is back at 95 % of the original's accuracy, the "
        "most first; first of all where it is not back within those measured.",
        lambda line: (_relearning(line),),
    ),
    Rule("time", "By CPU seconds of one call of `forget`.", lambda line: (_or_last(line["cpu_seconds"]),)),
    Rule("patch", "By the bytes of the undo file's tensors.", lambda line: (_or_last(line["patch_bytes"]),)),
)
LAST = "Methods of which cells failed or are missing stand last: their means are over other classes. Ties: by name."


def ranked(lines: Sequence[Row], rule: Rule) -> list[Row]:
    """The methods (no references) of one model in order."""
    methods = [line for line in lines if line["method"] not in REFERENCES]
    return sorted(methods, key=lambda line: (line["done"] < line["cells"], rule.order(line), line["method"]))


def over_models(lines: Sequence[Row], rule: Rule) -> list[tuple[str, float, int]]:
    """(method, mean place over the models, number of models), the best first; methods that stand on every model."""
    models = list(dict.fromkeys(line["model"] for line in lines))
    places: dict[str, list[int]] = {}
    for model in models:
        for place, line in enumerate(ranked([line for line in lines if line["model"] == model], rule), 1):
            places.setdefault(line["method"], []).append(place)
    found = [(method, mean(found), len(found)) for method, found in places.items() if len(found) == len(models)]
    return sorted(found, key=lambda triple: (triple[1], triple[0]))
