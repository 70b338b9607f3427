"""``zsu-fast benchmark``."""

from __future__ import annotations

from contextlib import ExitStack
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import EXIT_FAILURE, one_line_errors
from zsu_fast.cli.declared import LOGGERS
from zsu_fast.extras import require

EXAMPLE = "digits.yaml"


def _example(asked: bool) -> None:
    if asked:
        typer.echo((resources.files("zsu_fast") / "benchmark" / EXAMPLE).read_text(encoding="utf-8"), nl=False)
        raise typer.Exit


@one_line_errors
def run_benchmark(
    *,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Folder for cells and results.",
            rich_help_panel=opt.OUTPUT,
            show_default="CONFIG without .yaml",
        ),
    ] = None,
    retry: Annotated[bool, typer.Option("--retry", help="Measure cells again that failed.")] = False,
    summary: Annotated[
        bool, typer.Option("--summary", help="Measure nothing more: write the results of the cells that are there.")
    ] = False,
    log: Annotated[
        list[str] | None,
        typer.Option(
            "--log",
            metavar="LOGGER",
            help=f"Tell {', '.join(LOGGERS)} of every cell that is measured now; repeatable.",
            rich_help_panel=opt.OUTPUT,
            show_default=False,
        ),
    ] = None,
    example: Annotated[
        bool,
        typer.Option(
            "--example", callback=_example, is_eager=True, help="Print a config that runs as it is, and exit."
        ),
    ] = False,
    talk: opt.Talk,
) -> None:
    r"""Compare methods: models x classes x methods x seeds, each beside the original and a retrained model.

    Every cell forgets one class with one method on a copy of the model; then
    unseen images and attackers judge it. The folder gets results.json,
    results.csv and leaderboard.html. What is finished stays: after a kill, the
    same command goes on with the rest.

    [bold]Try it[/] (two minutes; needs no data)

      zsu-fast benchmark --example > digits.yaml

      zsu-fast benchmark digits.yaml

    [bold]A config[/]

      models:
        mine:
          model: python:mynet:build        # as in: zsu-fast forget MODEL
          weights: mine.safetensors
          lessons: val.npz                 # unseen: methods get a few, attackers all
          test: test.npz                   # unseen: judges, no other part
          oracles: without_{class}.safetensors
      classes: [3, cat]                    # or all
      methods:
        lra-npp: {data: probes}            # images of the class alone
        deep:
        scrub 20: {method: scrub, epochs: 20}
        ssd: {data: train}                 # all training images: models.mine.train
      seeds: 3

    [bold]Exit codes[/]: 0 all cells measured; 1 some failed (their errors are on
    the page); 2 bad config, or a folder of another config's results.
    """
    console = talk.console()
    for name in log or ():
        if name not in LOGGERS:
            raise ValueError(f"--log: expected one of {', '.join(LOGGERS)}, got {name!r}")
    if not config.is_file():
        raise FileNotFoundError(f"CONFIG: no such file: {config}")

    from zsu_fast.benchmark import benchmark, read_config, write_results
    from zsu_fast.benchmark.loggers import LOGGERS as MAKERS
    from zsu_fast.benchmark.loggers import SafeLogger
    from zsu_fast.cli.benchmark_cases import cases_of
    from zsu_fast.cli.tables import leaderboard_table

    given = read_config(config)
    folder = config.with_suffix("") if out is None else out
    require("matplotlib", "report")
    with ExitStack() as stack:
        loggers = []
        for name in log or () if not summary else ():
            loggers.append(SafeLogger(MAKERS[name](folder, given.name), console.note))
            stack.callback(loggers[-1].close)
        try:
            results = benchmark(
                cases_of(given), given.methods, folder, classes=given.classes_by_model, seeds=given.seeds,
                few=given.few, measures=given.measures, name=given.name, retry=retry, measure=not summary,
                loggers=loggers, progress=stack.enter_context(console.progress()), told=console.tell,
            )  # fmt: skip
        except KeyboardInterrupt:
            console.note(f"what is finished is in {folder}: the same command goes on with the rest")
            raise
    files = write_results(results)
    lines = results.summary()
    for model in results.models:
        console.show(leaderboard_table(model, [line for line in lines if line["model"] == model]))
    console.show(f"{files[-1]}")
    counts = {"planned": len(results.cells), "failed": len(results.failed), "missing": len(results.missing)}
    console.emit({"out": str(folder), "files": [path.name for path in files], "cells": counts, "summary": lines})
    if results.missing:
        console.note(f"{len(results.missing)} of {len(results.cells)} cells are to be measured yet")
    if results.failed:
        console.note(f"{len(results.failed)} of {len(results.cells)} cells failed; --retry measures them again")
        raise typer.Exit(EXIT_FAILURE)
