"""``zsu-fast forget instances``."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, exit_code, one_line_errors
from zsu_fast.cli.forget_run import Run
from zsu_fast.cli.method_options import parse_settings
from zsu_fast.cli.outputs import OutputFolder, report_formats, write_and_tell
from zsu_fast.cli.session import Session, open_session
from zsu_fast.report.analysis import begun
from zsu_fast.report.instances import MOST, InstancesReport, look
from zsu_fast.unlearn import ForgetInstances, ForgetResult
from zsu_fast.unlearn import forget as forget_request
from zsu_fast.unlearn.instances import GOALS
from zsu_fast.unlearn.methods import INSTANCE_METHODS


@one_line_errors
def forget_instances(
    model: opt.Model,
    images: Annotated[
        Path,
        typer.Option(
            "--images",
            "-i",
            help="The training images to forget, labelled: class folders, or .npz.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
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
        Path | None,
        typer.Option(
            "--unseen",
            help="With unseen: labelled images that the model was not trained on.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ] = None,
    retain: Annotated[
        Path | None,
        typer.Option(
            "--retain",
            help="Other images, to hold on to and to guard (with labels or without).",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            help="Labelled images that show what the edit costs; more than --utility-floor allows is taken back.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str, typer.Option(help=f"{', '.join(INSTANCE_METHODS)}, or another package's.", rich_help_panel=opt.METHOD)
    ] = "margin",
    utility_floor: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Accuracy on --eval and --retain that must be kept.",
            rich_help_panel=opt.METHOD,
            show_default="two points less than before",
        ),
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
    settings = parse_settings(other, method)
    kept = opt.kept(checkpoint, resume, checkpoint_every, out)
    formats = report_formats(report, report_format)
    with closing(OutputFolder(out, force, weights, undo, not no_undo, key, formats, author)) as folder:
        session = open_session(
            model, weights, classes=classes, device=device, batch_size=batch_size, mean=mean, std=std, size=size,
            class_names=class_names, class_map=class_map, note=console.note,
        )  # fmt: skip
        session.sources = {}
        request = instances_request(session, images, goal, to, unseen)
        given: dict[str, Any] = {"seed": seed, "utility_floor": utility_floor, "batch_size": batch_size}
        given |= settings | kept
        if retain is not None:
            given["retain_probes"] = session.pair(session.read(retain, "--retain"))
        if evaluation is not None:
            given["evaluate_on"] = session.pair(session.read_labelled(evaluation, "--eval"))
        with console.progress() as progress:
            result, page = forget_and_look(session, request, method, given | {"progress": progress}, report, photos)
        run = Run(result, report=page, sources=session.sources)
        write_and_tell(console, folder, session.loaded, run, time.perf_counter() - started)
        raise typer.Exit(exit_code(result.verdict.level, fixed_budget="budget" in settings))


def instances_request(
    session: Session, images: Path, goal: str, to: str | None, unseen: Path | None
) -> ForgetInstances:
    """Read what the request is made of."""
    x, y = session.pair(session.read_labelled(images, "--images"))
    return ForgetInstances(
        x,
        y,
        goal,
        to=None if to is None else torch.full_like(y, session.targets([to], "--to")[0]),
        unseen=None if unseen is None else session.pair(session.read_labelled(unseen, "--unseen")),
    )


def forget_and_look(
    session: Session, request: ForgetInstances, method: str, given: dict[str, Any], report: bool, photos: bool
) -> tuple[ForgetResult, InstancesReport | None]:
    """Look, forget, look again."""
    model = session.loaded.model
    if not report:
        return forget_request(model, request, method=method, **given), None
    judged = begun(model, request, session.batch_size)
    before = look(model, judged, session.batch_size)
    result = forget_request(model, request, method=method, **given)
    page = InstancesReport(
        model=session.loaded.spec,
        record=result.record,
        picks=result.picks,
        names=session.names,
        labels=request.probe_labels.tolist(),
        before=before,
        after=look(model, judged, session.batch_size) if result.patch.entries else None,
        photos=session.photos(request.x[:MOST]) if photos and request.x.dim() == 4 else None,
    )
    return result, page
