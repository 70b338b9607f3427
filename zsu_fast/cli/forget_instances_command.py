"""``zsu-fast forget instances``."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import exit_code, one_line_errors
from zsu_fast.cli.declared import GOALS, INSTANCE_METHODS
from zsu_fast.cli.method_options import parse_settings


@one_line_errors
def forget_instances(
    *,
    model: opt.Model,
    images: Annotated[
        Path, opt.images("The training images to forget, labelled: class folders, or .npz.", "--images", "-i")
    ],
    results: opt.Results,
    weights: opt.Weights = None,
    goal: Annotated[
        str,
        typer.Option(
            help="; ".join(f"{name}: they {what}" for name, what in GOALS.items()) + ".", rich_help_panel=opt.METHOD
        ),
    ] = "misclassify",
    to: Annotated[
        str | None,
        typer.Option(
            help="With relabel: the class that all are to get.", rich_help_panel=opt.METHOD, show_default=False
        ),
    ] = None,
    unseen: Annotated[
        Path | None, opt.images("With unseen: labelled images that the model was not trained on.")
    ] = None,
    retain: Annotated[
        Path | None, opt.images("Other images, to hold on to and to guard (with labels or without).")
    ] = None,
    evaluation: Annotated[
        Path | None,
        opt.images(
            "Labelled images that show what the edit costs; more than --utility-floor allows is taken back.", "--eval"
        ),
    ] = None,
    method: Annotated[str, opt.method(INSTANCE_METHODS)] = "margin",
    utility_floor: Annotated[
        float | None, opt.share("Accuracy on --eval and --retain that must be kept.", "two points less than before")
    ] = None,
    seed: opt.Seed = 0,
    other: opt.Settings = None,
    photos: opt.Photos = False,
    training: opt.Training,
    device: opt.Device = "cpu",
    batch_size: opt.BatchSize = 64,
    classifier: opt.Classifier,
    talk: opt.Talk,
) -> None:
    r"""Make a model forget single training images; write the weights, the undo file, the record and a report.

    The report has figures; the images themselves are in it only with --photos.

    If not all reach the goal, or the price is too high, no weights are written,
    result.json says why, and the exit code is 3.

    [bold]Examples[/]

      zsu-fast forget instances timm:resnet18 -w mine.safetensors -i withdrawn/ --eval test.npz

      zsu-fast forget instances python:mynet:build -w w.safetensors -i withdrawn.npz \
          --goal unseen --unseen validation.npz --out edited
    """
    started = time.perf_counter()
    console = talk.console()
    kept = training.kept(results.out)

    from zsu_fast.cli.forget_instances_run import forget_and_look, read_instances
    from zsu_fast.cli.forget_run import Run
    from zsu_fast.cli.outputs import write_and_tell

    settings = parse_settings(other, method)
    with closing(results.folder(weights)) as folder:
        session = classifier.session(model, weights, device, batch_size, console.note)
        session.sources = {}
        beside = session.retain_and_eval(retain, evaluation)
        request = read_instances(session, images, goal, to, unseen)
        given: dict[str, Any] = {"seed": seed, "utility_floor": utility_floor, "batch_size": batch_size}
        with console.progress() as progress:
            given |= settings | kept | beside | {"progress": progress}
            result, page = forget_and_look(session, request, method, given, results.report, photos)
        run = Run(result, report=page, sources=session.sources)
        write_and_tell(console, folder, session.loaded, run, time.perf_counter() - started)
        raise typer.Exit(exit_code(result.verdict.level, fixed_budget="budget" in settings))
