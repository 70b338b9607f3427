"""Carry out what is planned: what is finished stays finished, what fails is recorded and fails alone."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from zsu_fast.benchmark.case import Case
from zsu_fast.benchmark.cells import Cell, Store, common_to, planned
from zsu_fast.benchmark.loggers import Logger
from zsu_fast.benchmark.measure import edited, known_of
from zsu_fast.benchmark.results import Results
from zsu_fast.benchmark.settings import ORIGINAL, RETRAINED, TRAIN, Entry, Few, Measures
from zsu_fast.evaluate.given import check_seed, check_targets
from zsu_fast.evaluate.inference import Progress
from zsu_fast.extras import require
from zsu_fast.lock import Lock
from zsu_fast.unlearn.result import jsonable, provenance

Classes = Sequence[int | str]
Cases = Mapping[str, Case | Callable[[], Case]]
DONE, FAILED = "done", "failed"


@dataclass(frozen=True)
class _Planned:
    """Cells of one model, and what the results say of it."""

    cells: list[Cell]
    facts: dict[str, Any]
    digests: dict[str, str]


def benchmark(
    cases: Cases,
    methods: Mapping[str, object] | Sequence[Entry],
    out: str | os.PathLike[str],
    *,
    classes: Classes | Mapping[str, Classes] | None = None,
    seeds: Sequence[int] = (0,),
    few: Few | None = None,
    measures: Measures | None = None,
    name: str = "benchmark",
    retry: bool = False,
    measure: bool = True,
    loggers: Iterable[Logger] = (),
    progress: Progress | None = None,
    told: Callable[[str], None] | None = None,
) -> Results:
    """Measure every method on every model, class and seed, each cell beside the original and its oracle.

        results = benchmark({"lenet5": case}, {"deep": {}, "scrub 20": {"method": "scrub", "epochs": 20}}, "results")

    Args:
        cases: name -> `Case`, or a function that makes it, called when its turn comes (and before, once, to plan).
        methods: name -> options for `zsu_fast.forget`, with "method" where the name is another, and "data", see
            `zsu_fast.benchmark.settings.DATA`; or entries.
        out: folder for cells and results. Finished cells of the same config in it are not measured again.
        classes: to forget, one after the other, by index or name; for all models, or by name of the model. Default:
            all that there are images of.
        seeds: each draws other few images from the lessons, and seeds the method. Attackers have one seed.
        few, measures: how many images methods get, and what is measured.
        name: of the benchmark, for people.
        retry: measure failed cells again; else they stay failed.
        measure: whether to measure what is not there yet; else results are of what is.
        loggers: told of every cell that this call measures.
        progress: called as progress(done, total, text); the text "cells" counts them.
        told: called with a line on every cell.

    Returns:
        Results, of all planned cells that are there. Nothing but cells is written: `write_results` does the rest.

    Raises:
        ValueError, TypeError: naming the argument, before anything is measured; also for a folder that holds results of
            another config. What a single cell raises is recorded as its outcome.
        BlockingIOError: another run is writing to `out`.
    """
    require("sklearn", "evaluate")
    entries = _entries(methods)
    few, measures = few or Few(), measures or Measures()
    for seed in _distinct("seeds", seeds):
        check_seed(seed)
    if not isinstance(cases, Mapping) or not cases:
        raise ValueError("cases: expected at least one model by name")
    with closing(Lock(Path(out), "out")):
        plan = {who: _plan(who, case, entries, classes, seeds, few, measures) for who, case in cases.items()}
        store = Store(Path(out), common_to({who: part.digests for who, part in plan.items()}, measures))
        cells = [cell for part in plan.values() for cell in part.cells]
        found: dict[str, dict[str, Any]] = {}
        for cell in cells:
            kept = store.get(cell)
            if kept is not None and not (retry and measure and kept["outcome"] == FAILED):
                found[cell.key] = kept
        results = Results(name, Path(out), cells, found, {who: part.facts for who, part in plan.items()}, measures)
        if not measure:
            return results
        by_name = {entry.name: entry for entry in entries}
        done = sum(cell.key in found for cell in cells)
        for who, part in plan.items():
            pending = [cell for cell in part.cells if cell.key not in found]
            case = _made(who, cases[who]) if pending else None
            for cell in pending:
                if progress is not None:
                    progress(done, len(cells), "cells")
                if cell.key not in found:  # the same under two names is measured once
                    assert case is not None
                    found[cell.key] = _measured(case, cell, by_name, few, measures, progress)
                    store.put(cell, found[cell.key])
                    row = results.row(cell)
                    for logger in loggers:
                        logger.log(row)
                    if told is not None:
                        told(_line(cell, row))
                done += 1
        if progress is not None:
            progress(done, len(cells), "cells")
        return results


def _measured(
    case: Case, cell: Cell, entries: dict[str, Entry], few: Few, measures: Measures, progress: Progress | None
) -> dict[str, Any]:
    """What is kept of a cell; an exception is an outcome too."""
    try:
        if cell.method == ORIGINAL:
            measured = known_of(case.model, case, cell.target, measures, progress)
        elif cell.method == RETRAINED:
            oracle = case.oracle_of(cell.target)
            assert oracle is not None
            measured = known_of(oracle, case, cell.target, measures, progress)
        else:
            assert cell.seed is not None
            measured = edited(case, cell.target, entries[cell.method], cell.seed, few, measures, progress)
        return {"outcome": DONE, **jsonable(measured), **_circumstances()}
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        said = {"error": f"{type(error).__name__}: {error}", "where": f"{Path(where.filename).name}:{where.lineno}"}
        return {"outcome": FAILED, **said, **_circumstances()}


def _circumstances() -> dict[str, Any]:
    return provenance() | {"threads": torch.get_num_threads()}


def _line(cell: Cell, row: dict[str, Any]) -> str:
    if row["outcome"] == FAILED:
        return f"{cell.label}: failed, {row['error']}"
    shown = (("answers", "answers"), ("others", "others"), ("linear_probe", "probe"), ("prototype", "prototype"))
    parts = [f"{what} {100 * row[key]:.1f} %" for key, what in shown if row.get(key) is not None]
    parts += [f"{row['cpu_seconds']:.1f} CPU s"] if row.get("cpu_seconds") is not None else []
    left = " (no edit was found: the model as it was)" if row.get("edited") is False else ""
    return f"{cell.label}: {', '.join(parts)}{left}"


def _entries(methods: object) -> list[Entry]:
    if isinstance(methods, Mapping):
        found = [Entry.of(str(name), given) for name, given in methods.items()]
    elif isinstance(methods, Sequence) and all(isinstance(entry, Entry) for entry in methods):
        found = list(methods)
    else:
        raise TypeError(f"methods: expected options by name of the method, got {methods!r}")
    if not found:
        raise ValueError("methods: expected at least one")
    _distinct("methods", [entry.name for entry in found])
    return found


def _distinct(name: str, given: Sequence[Any]) -> Sequence[Any]:
    if isinstance(given, str) or not isinstance(given, Sequence) or not given:
        raise TypeError(f"{name}: expected a list of at least one, got {given!r}")
    if len(set(given)) != len(given):
        raise ValueError(f"{name}: one is named twice in {list(given)}")
    return given


def _made(name: str, case: object) -> Case:
    found = case() if callable(case) and not isinstance(case, Case) else case
    if not isinstance(found, Case):
        raise TypeError(f"cases.{name}: expected a Case or a function that makes one, got {type(found).__name__}")
    return found


def _plan(
    name: str,
    given: object,
    entries: Sequence[Entry],
    classes: Classes | Mapping[str, Classes] | None,
    seeds: Sequence[int],
    few: Few,
    measures: Measures,
) -> _Planned:
    case = _made(name, given)
    needs_training = [f"methods.{entry.name}.data" for entry in entries if entry.data == TRAIN]
    needs_training += ["measure.membership"] if measures.membership else []
    if needs_training and case.train is None:
        raise ValueError(f"{needs_training[0]}: needs training images, and {name} has none")
    asked = classes.get(name) if isinstance(classes, Mapping) else classes
    known, by_name = case.classes(), {text: index for index, text in case.names.items()}
    targets = known if asked is None else check_targets([by_name.get(str(one), one) for one in asked])
    for target in targets:
        if target not in known:
            raise ValueError(f"classes: {name} has no lessons or no test images of class {target}")
    facts = {
        "images": {part: len(getattr(case, part)[1]) for part in ("lessons", "test", "train") if getattr(case, part)},
        "parameters": sum(p.numel() for p in case.model.parameters()),
        "published": [dict(row) for row in case.published],
        "names": {str(target): case.names[target] for target in targets if target in case.names},
    }
    cells = list(planned(name, case, entries, targets, seeds, few, measures))
    return _Planned(cells, facts, case.digests)
