"""``zsu-fast forget concept``."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import exit_code, one_line_errors
from zsu_fast.cli.method_options import parse_settings


@one_line_errors
def forget_concept(
    *,
    model: opt.Model,
    inside: Annotated[
        Path, opt.images("Images with the concept, some hundreds if they can be had: a folder, or .npz.", "--with")
    ],
    without: Annotated[Path, opt.images("Images without it, alike otherwise: what else the two differ in goes too.")],
    concept: Annotated[
        str | None,
        typer.Option(
            "--concept", help="Its name (in --bank).", rich_help_panel=opt.METHOD, show_default="that of the folder"
        ),
    ] = None,
    bank: Annotated[
        Path | None,
        opt.file(
            "Concepts that zsu-fast concepts --save-bank wrote, from other images than these.",
            shown="half of the images make one, the other half judges",
            panel=opt.METHOD,
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            "-l",
            metavar="NAME",
            help="Without --bank: module whose input is to forget it.",
            rich_help_panel=opt.METHOD,
            show_default="the classifier: the features",
        ),
    ] = None,
    used_by: Annotated[
        list[str] | None,
        typer.Option(
            "--used-by",
            help="Class that uses it and may suffer: index or name; repeatable.",
            rich_help_panel=opt.METHOD,
            show_default="those answered more often with it",
        ),
    ] = None,
    results: opt.Results,
    weights: opt.Weights = None,
    retain: Annotated[
        Path | None, opt.images("Images of the classes that do not use it, to guard (with labels or without).")
    ] = None,
    evaluation: Annotated[
        Path | None,
        opt.images("Labelled images: what becomes of the classes that use it and of those that do not.", "--eval"),
    ] = None,
    method: Annotated[str, opt.method(["concept"])] = "concept",
    utility_floor: Annotated[
        float | None,
        opt.share(
            "Accuracy that must be kept on --retain, and on --eval by the classes that do not use it.",
            "two points less than before",
        ),
    ] = None,
    seed: opt.Seed = 0,
    other: opt.Settings = None,
    photos: opt.Photos = False,
    device: opt.Device = "cpu",
    batch_size: opt.BatchSize = 64,
    classifier: opt.Classifier,
    talk: opt.Talk,
) -> None:
    r"""Make the features forget a concept; write the weights, the undo file, the record and a report.

    The concept is erased from what layers write, or the units that carry it are
    masked. It counts as forgotten when vectors that are fitted anew on the
    edited features tell the images with it from those without no better than
    about chance. Classes that use it lose what they used; the others are
    guarded. If that cannot be reached no weights are written, and the exit code
    is 3.

    [bold]Examples[/]

      zsu-fast forget concept timm:resnet18 -w mine.safetensors --with logo/ --without plain/ \
          --retain others/ --eval test.npz

      zsu-fast forget concept timm:resnet18 -w mine.safetensors --bank bank.safetensors \
          --concept striped --with more-striped/ --without more-plain/ --used-by zebra
    """
    started = time.perf_counter()
    console = talk.console()
    if bank is not None and layer is not None:
        raise ValueError("--layer: the bank says which")

    from zsu_fast.cli.forget_concept_run import forget_and_look, read_concept
    from zsu_fast.cli.forget_run import Run
    from zsu_fast.cli.outputs import write_and_tell

    settings = parse_settings(other, method)
    with closing(results.folder(weights)) as folder:
        session = classifier.session(model, weights, device, batch_size, console.note)
        session.sources = {}
        beside = session.retain_and_eval(retain, evaluation)
        request = read_concept(session, inside, without, concept, bank, layer, used_by, seed)
        given: dict[str, Any] = {"seed": seed, "utility_floor": utility_floor, "batch_size": batch_size}
        with console.progress() as progress:
            given |= settings | beside | {"progress": progress}
            result, page = forget_and_look(session, request, method, given, results.report, photos)
        run = Run(result, report=page, sources=session.sources)
        write_and_tell(console, folder, session.loaded, run, time.perf_counter() - started)
        raise typer.Exit(exit_code(result.verdict.level, fixed_budget="budget" in settings))
