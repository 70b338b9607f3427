"""``zsu-fast relevance``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, one_line_errors
from zsu_fast.cli.session import open_session
from zsu_fast.lrp import relevance as relevance_of


@one_line_errors
def relevance(
    model: opt.Model,
    images: Annotated[
        Path,
        typer.Option(
            "--images",
            "-i",
            help="Images: a folder, class folders or .npz.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ],
    target: Annotated[
        str | None,
        typer.Option("--target", "-t", help="Class whose logit is explained.", show_default="what the model answers"),
    ] = None,
    composite: Annotated[
        str, typer.Option(help="Rules: epsilon, epsilon_plus, epsilon_plus_flat, epsilon_alpha2_beta1, attnlrp ...")
    ] = "epsilon",
    top: Annotated[int, typer.Option(min=1, help="Units to list for each layer.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Write a .npz: relevance of the input under 'input', of units under 'neurons/LAYER', and 'logits'.",
            rich_help_panel=opt.OUTPUT,
            show_default=False,
        ),
    ] = None,
    weights: opt.Weights = None,
    classes: opt.Classes = None,
    device: opt.Device = "cpu",
    batch_size: opt.BatchSize = 32,
    mean: opt.Mean = None,
    std: opt.Std = None,
    size: opt.Size = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    r"""Show which units of which layers a class rests on. The model is not changed.

    [bold]Examples[/]

      zsu-fast relevance timm:resnet18 -w mine.safetensors \
          --images cats/ --target 3

      zsu-fast relevance hf:./vit --images cats/ \
          --composite attnlrp --out cats.npz
    """
    console = Console(as_json, quiet)
    if out is not None and out.exists() and not force:
        raise FileExistsError(f"--out: {out} is there already (--force overwrites)")
    session = open_session(
        model, weights, classes=classes, device=device, batch_size=batch_size, mean=mean, std=std, size=size
    )
    found = session.read(images, "--images")
    explained = session.targets([target])[0] if target is not None else None
    inputs: list[Tensor] = []
    logits: list[Tensor] = []
    neurons: dict[str, list[Tensor]] = {}
    with console.progress() as progress:
        for batch in found.batches(session.loaded.preprocess, batch_size):
            result = relevance_of(session.loaded.model, batch.to(device), explained, composite=composite)
            logits.append(result.logits.detach().float().cpu())
            if out is not None:  # else only the units are of use; inputs may be large
                inputs.append(result.input.detach().float().cpu())
            for name, values in result.neurons.items():
                neurons.setdefault(name, []).append(values.detach().float().cpu())
            progress(min(len(logits) * batch_size, len(found)), len(found), "relevance")
    units = {name: torch.cat(parts) for name, parts in neurons.items()}
    table = Table(title=f"relevance per layer, mean over {len(found)} images", title_justify="left", title_style="bold")
    for column in ("layer", "units", "sum", f"top {top} units"):
        table.add_column(column, justify="left" if column in ("layer", f"top {top} units") else "right")
    layers = []
    for name, values in units.items():
        average = values.mean(0)
        strongest = average.topk(min(top, len(average)))
        picks = [
            {"unit": int(i), "relevance": float(v)}
            for i, v in zip(strongest.indices.tolist(), strongest.values.tolist(), strict=True)
        ]
        layers.append({"layer": name, "units": len(average), "sum": float(average.sum()), "top": picks})
        listed = "  ".join(f"{pick['unit']}:{pick['relevance']:.3g}" for pick in picks)
        table.add_row(escape(name), str(len(average)), f"{float(average.sum()):.4g}", listed)
    console.show(table)
    if out is not None:
        arrays: dict[str, Any] = {f"neurons/{name}": values.numpy() for name, values in units.items()}
        with out.open("wb") as file:  # a file object: numpy would append .npz to a bare name
            np.savez_compressed(file, input=torch.cat(inputs).numpy(), logits=torch.cat(logits).numpy(), **arrays)
        console.show(f"wrote {out}")
    console.emit(
        {
            "model": model,
            "images": len(found),
            "target": explained,
            "composite": composite,
            "mean_logit": None if explained is None else float(torch.cat(logits)[:, explained].mean()),
            "layers": layers,
            "out": None if out is None else str(out),
        }
    )
