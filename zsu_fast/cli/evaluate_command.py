"""``zsu-fast evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, one_line_errors
from zsu_fast.cli.session import open_session
from zsu_fast.cli.tables import before_after, per_class


@one_line_errors
def evaluate(
    model: opt.Model,
    images: Annotated[
        Path,
        typer.Option(
            "--images",
            "-i",
            help="Labelled images: class folders or .npz.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ],
    target: Annotated[
        list[str],
        typer.Option(
            "--target", "-t", help="Class that counts as forgotten: index or name; repeatable.", show_default=False
        ),
    ],
    linear_probe: Annotated[
        bool,
        typer.Option("--linear-probe", help="Also fit a linear probe on the features (half to train, half to test)."),
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the split for the linear probe.")] = 0,
    weights: opt.Weights = None,
    classes: opt.Classes = None,
    device: opt.Device = "cpu",
    batch_size: opt.BatchSize = 256,
    mean: opt.Mean = None,
    std: opt.Std = None,
    size: opt.Size = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    r"""Measure what a model knows of a class and of the others.

    Images are class folders, named by class index or class name, or a .npz with
    uint8 images (N, H, W, C) under "images" or "x" and labels under "labels"
    or "y".

    [bold]Examples[/]

      zsu-fast evaluate timm:resnet18 -w edited/model.safetensors \
          --images test.npz --target 3

      zsu-fast evaluate python:mynet:build --images val/ --target cat --json
    """
    console = Console(as_json, quiet)
    session = open_session(
        model, weights, classes=classes, device=device, batch_size=batch_size, mean=mean, std=std, size=size
    )
    found = session.read(images, "--images")
    if found.labels is None:
        raise ValueError(f"--images must be labelled (class folders, or labels in the .npz), got {images}")
    targets = session.targets(target)
    with console.progress() as progress:
        result, probe = session.evaluate(found, targets, progress, "evaluate", seed if linear_probe else None)
    console.show(before_after(f"{model}", None, result, None, probe), per_class(result, session.names))
    probed = (
        None if probe is None else {"forget_accuracy": probe.forget_accuracy, "retain_accuracy": probe.retain_accuracy}
    )
    console.emit({"model": model, "images": len(found), "evaluation": result.to_dict(), "linear_probe": probed})
