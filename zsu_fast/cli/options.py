"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MODEL = "Model"
IMAGES = "Images"
METHOD = "Method"
OUTPUT = "Output"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="timm:NAME, torchvision:NAME, hf:DIR, or python:package.module:callable (returns the model, or the model "
        "and its preprocessing).",
        show_default=False,
    ),
]
Weights = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE",
        help="Weights: .safetensors, or a state dict of torch.save (read with weights_only, nothing is executed). "
        "Default: the model's own.",
        rich_help_panel=MODEL,
        show_default=False,
    ),
]
Classes = Annotated[
    int | None,
    typer.Option(
        min=2,
        help="Classes of a timm or torchvision classifier.",
        rich_help_panel=MODEL,
        show_default="read off the weights",
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...", rich_help_panel=MODEL)]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in one forward pass.", rich_help_panel=MODEL)]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Normalisation, on the scale of 0..1: 0.485,0.456,0.406.",
        rich_help_panel=IMAGES,
        show_default="the model's",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(help="Likewise: 0.229,0.224,0.225.", rich_help_panel=IMAGES, show_default="the model's"),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="Size the model takes: 224, or HEIGHTxWIDTH.", rich_help_panel=IMAGES, show_default="the model's"
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=OUTPUT)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT)]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.", rich_help_panel=OUTPUT)]
