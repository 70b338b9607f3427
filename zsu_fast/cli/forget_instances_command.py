"""``zsu-fast forget instances``."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, exit_code, one_line_errors
from zsu_fast.cli.declared import GOALS, INSTANCE_METHODS
from zsu_fast.cli.method_options import parse_settings


@one_line_errors
def forget_instances(
    model: opt.Model,
    images: Annotated[
        Path, opt.images("The training images to forget, labelled: class folders, or .npz.", "--images", "-i")
    ],
    out: opt.Out = Path("zsu-fast-out"),
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
    report: opt.Report = True,
    report_format: opt.ReportFormat = None,
    author: opt.Author = None,
    photos: opt.Photos = False,
    checkpoint: opt.Checkpoint = None,
    resume: opt.Resume = False,
    checkpoint_every: opt.CheckpointEvery = 30.0,
    undo: opt.Undo = None,
    no_undo: opt.NoUndo = False,
    key: opt.Sign = None,
    max_shard_size: opt.MaxShardSize = None,
    classes: opt.Classes = None,
    device: opt.Device = "cpu",
    batch_size: opt.BatchSize = 64,
    mean: opt.Mean = None,
    std: opt.Std = None,
    size: opt.Size = None,
    class_names: opt.ClassNames = None,
    class_map: opt.ClassMap = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
    debug: opt.Debug = False,
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
    console = Console(as_json, quiet)
    kept = opt.kept(checkpoint, resume, checkpoint_every, out)

    from zsu_fast.cli.forget_instances_run import forget_and_look, read_instances
    from zsu_fast.cli.forget_run import Run
    from zsu_fast.cli.outputs import OutputFolder, report_formats, write_and_tell
    from zsu_fast.cli.session import open_session

    settings = parse_settings(other, method)
    formats = report_formats(report, report_format)
    with closing(OutputFolder(out, force, weights, undo, not no_undo, key, formats, author, max_shard_size)) as folder:
        session = open_session(
            model, weights, classes=classes, device=device, batch_size=batch_size, mean=mean, std=std, size=size,
            class_names=class_names, class_map=class_map, note=console.note,
        )  # fmt: skip
        session.sources = {}
        beside = session.retain_and_eval(retain, evaluation)
        request = read_instances(session, images, goal, to, unseen)
        given: dict[str, Any] = {"seed": seed, "utility_floor": utility_floor, "batch_size": batch_size}
        given |= settings | kept | beside
        with console.progress() as progress:
            result, page = forget_and_look(session, request, method, given | {"progress": progress}, report, photos)
        run = Run(result, report=page, sources=session.sources)
        write_and_tell(console, folder, session.loaded, run, time.perf_counter() - started)
        raise typer.Exit(exit_code(result.verdict.level, fixed_budget="budget" in settings))
