"""``zsu-fast forget instances``."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, exit_code, one_line_errors
from zsu_fast.cli.forget_run import Run
from zsu_fast.cli.images import ImageSet
from zsu_fast.cli.method_options import parse_settings
from zsu_fast.cli.outputs import OutputFolder, write_and_tell
from zsu_fast.cli.session import Session, open_session
from zsu_fast.cli.signing import check_key
from zsu_fast.unlearn import ForgetInstances
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
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for weights, patch and result.", rich_help_panel=opt.OUTPUT)
    ] = Path("zsu-fast-out"),
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
    seed: Annotated[int, typer.Option(help="Of whatever is drawn.", rich_help_panel=opt.METHOD)] = 0,
    other: opt.Settings = None,
    undo: opt.Undo = None,
    no_undo: opt.NoUndo = False,
    key: opt.Sign = None,
    classes: opt.Classes = None,
    device: opt.Device = "cpu",
    batch_size: opt.BatchSize = 64,
    mean: opt.Mean = None,
    std: opt.Std = None,
    size: opt.Size = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    r"""Make a model forget single training images; write the weights, the undo file and the record.

    If not all reach the goal, or the price is too high, no weights are written,
    result.json says why, and the exit code is 3.

    [bold]Examples[/]

      zsu-fast forget instances timm:resnet18 -w mine.safetensors -i withdrawn/ --eval test.npz

      zsu-fast forget instances python:mynet:build -w w.safetensors -i withdrawn.npz \
          --goal unseen --unseen validation.npz --out edited
    """
    started = time.perf_counter()
    console = Console(as_json, quiet)
    if undo is not None and no_undo:
        raise ValueError("--no-undo: --undo asks for one")
    if key is not None:
        check_key(key)
    settings = parse_settings(other, method)
    with closing(OutputFolder(out, force, weights, undo, not no_undo, key)) as folder:
        session = open_session(
            model, weights, classes=classes, device=device, batch_size=batch_size, mean=mean, std=std, size=size
        )
        x, y = _labelled(session, images, "--images")
        given: dict[str, Any] = {"seed": seed, "utility_floor": utility_floor, "batch_size": batch_size} | settings
        if retain is not None:
            kept = session.read(retain, "--retain")
            found = session.tensor(kept)
            given["retain_probes"] = found if kept.labels is None else (found, kept.labels.to(found.device))
        if evaluation is not None:
            given["evaluate_on"] = _labelled(session, evaluation, "--eval")
        request = ForgetInstances(
            x,
            y,
            goal,
            to=None if to is None else torch.full_like(y, session.targets([to], "--to")[0]),
            unseen=None if unseen is None else _labelled(session, unseen, "--unseen"),
        )
        with console.progress() as progress:
            result = forget_request(session.loaded.model, request, method=method, progress=progress, **given)
        run = Run(result, None, None, None, None, None, ())
        write_and_tell(console, folder, session.loaded, run, time.perf_counter() - started)
        raise typer.Exit(exit_code(result.verdict.level, fixed_budget="budget" in settings))


def _labelled(session: Session, path: Path, option: str) -> tuple[Tensor, Tensor]:
    found: ImageSet = session.read(path, option)
    if found.labels is None:
        raise ValueError(f"{option} must be labelled (class folders, or labels in the .npz), got {path}")
    images = session.tensor(found)
    return images, found.labels.to(images.device)
