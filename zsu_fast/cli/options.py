"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zsu_fast.unlearn.methods import RESUMABLE

MODEL = "Model"
IMAGES = "Images"
METHOD = "Method"
TRAINING = "Training that may be interrupted"
OUTPUT = "Output"

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="timm:NAME, torchvision:NAME, hf:DIR, or python:package.module:callable (returns the model, or the model "
        "and its preprocessing: {mean, std, size}, or a callable of a picture, as torchvision's transforms, or of a "
        "list of them).",
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


def size_or_auto(text: str) -> int | str:
    """What `--batch-size` says, where it may also say "auto"."""
    if text == "auto" or (text.isdecimal() and int(text) > 0):
        return text if text == "auto" else int(text)
    raise typer.BadParameter(f'expected a number above 0, or "auto", got {text!r}')


def number(batch_size: int | str | None, usual: int) -> int:
    """How many images to read at once, whatever is run at once."""
    return batch_size if isinstance(batch_size, int) else usual


SIZE_OR_AUTO: dict[str, Any] = {"metavar": "INTEGER|auto", "parser": size_or_auto}
AnyBatchSize = Annotated[
    Any,
    typer.Option(
        help="Images in one pass; auto: the default, or fewer where memory has no room for them.",
        rich_help_panel=MODEL,
        **SIZE_OR_AUTO,
    ),
]
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
ClassNames = Annotated[
    str | None,
    typer.Option(
        "--class-names",
        metavar="FILE",
        help="Names of the classes: .txt (a name a line), .csv (index, name), .json (a list, index -> name, or an HF "
        "config.json); or imagenet, for its 1,000 names and WordNet ids (from timm).",
        rich_help_panel=MODEL,
        show_default="the model's, where it has them",
    ),
]
ClassMap = Annotated[
    Path | None,
    typer.Option(
        "--class-map",
        metavar="FILE",
        help="Which class each image folder holds, by index or name: .json {folder: class} or .csv (folder, class).",
        rich_help_panel=IMAGES,
        show_default="by the folders' names",
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=OUTPUT)]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.", rich_help_panel=OUTPUT)]
Force = Annotated[bool, typer.Option("--force", help="Overwrite what is there.", rich_help_panel=OUTPUT)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any option of the method, also of a baseline or of another package's; repeatable.",
        rich_help_panel=METHOD,
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(help="Of whatever is drawn.", rich_help_panel=METHOD)]
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for weights, patch and result.", rich_help_panel=OUTPUT)]
Report = Annotated[bool, typer.Option("--report/--no-report", help="Write a report.", rich_help_panel=OUTPUT)]
ReportFormat = Annotated[
    list[str] | None,
    typer.Option(
        "--report-format",
        help="html, md (Markdown), pdf (needs a browser on the PATH), card (Markdown with the header of the Hugging "
        "Face Hub); repeatable.",
        rich_help_panel=OUTPUT,
        show_default="html",
    ),
]
Author = Annotated[
    str | None,
    typer.Option(
        "--author",
        help="Who does this, and for whom: stands in the report and in result.json as you type it, and is marked so.",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Photos = Annotated[
    bool,
    typer.Option(
        "--photos/--no-photos",
        help="Show the images themselves in the report; who gets the page then has them.",
        rich_help_panel=OUTPUT,
    ),
]
Undo = Annotated[
    Path | None,
    typer.Option(
        "--undo",
        help="Where to write the undo file. Who has it has back what was forgotten: keep it apart from the weights.",
        rich_help_panel=OUTPUT,
        show_default="patch.safetensors in --out",
    ),
]
NoUndo = Annotated[
    bool, typer.Option("--no-undo", help="Write no undo file: nobody has a way back.", rich_help_panel=OUTPUT)
]
Sign = Annotated[
    Path | None,
    typer.Option(
        "--sign",
        help="Sign result.json with this Ed25519 key (openssl genpkey -algorithm ed25519 -out KEY).",
        rich_help_panel=OUTPUT,
        show_default=False,
    ),
]
Checkpoint = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="DIR",
        help=f"Keep here what training has come to; emptied when it is done. Methods: {', '.join(RESUMABLE)}.",
        rich_help_panel=TRAINING,
        show_default=False,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on from what a killed run left in --checkpoint, to the same bits as one that was not; or begin, where "
        "nothing is there.",
        rich_help_panel=TRAINING,
    ),
]
CheckpointEvery = Annotated[
    float,
    typer.Option("--checkpoint-every", metavar="SECONDS", min=0, help="0: after every step.", rich_help_panel=TRAINING),
]


def kept(checkpoint: Path | None, resume: bool, every: float, out: Path) -> dict[str, Any]:
    """As `forget` takes them. ValueError for the folder of the results, which another lock is on."""
    if checkpoint is not None and checkpoint.resolve() == out.resolve():
        raise ValueError(f"--checkpoint: expected another folder than --out, got {checkpoint}")
    return {"checkpoint": checkpoint, "resume": resume, "checkpoint_every": every}
