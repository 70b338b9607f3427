"""Options that several commands share, and what is refused before torch is imported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zsu_fast.class_names import read_class_names
from zsu_fast.cli.console import INPUT_ERRORS, Console, set_verbosity, tell_error
from zsu_fast.cli.declared import RESUMABLE
from zsu_fast.cli.parsing import parse_bytes, parse_model, parse_numbers, parse_setting, parse_size, split_key

if TYPE_CHECKING:
    from zsu_fast.cli.outputs import OutputFolder
    from zsu_fast.cli.session import Session

MODEL = "Model"
IMAGES = "Images"
METHOD = "Method"
TRAINING = "Training that may be interrupted"
OUTPUT = "Output"


def refusing(check: Callable[[Any, str], object]) -> Callable[..., Any]:
    """The callback of an option, or of each of its values: what `check` of (value, flag) says is told in one line."""

    def callback(context: typer.Context, parameter: typer.CallbackParam, value: Any) -> Any:
        if context.resilient_parsing:  # a shell completes a line that is not finished
            return value
        try:
            for one in value if isinstance(value, list) else [] if value is None else [value]:
                check(one, parameter.opts[0])
        except INPUT_ERRORS as error:
            raise typer.Exit(tell_error(error)) from None
        return value

    return callback


def _is_there(path: Path, flag: str) -> None:
    if not path.exists():
        raise FileNotFoundError(f"{flag}: no such file or folder: {path}")


def _is_file(path: Path, flag: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{flag}: no such file: {path}")


def are_weights(path: Path, flag: str) -> None:
    """A file, a folder of them, or FILE::KEY."""
    _is_there(split_key(path)[0], flag)


def images(help: str, *flags: str, shown: str | bool = False, panel: str | None = IMAGES) -> Any:
    """An option that takes images: a folder, or .npz. flags: where they are not --NAME alone."""
    return typer.Option(*flags, help=help, rich_help_panel=panel, show_default=shown, callback=refusing(_is_there))


def file(
    help: str,
    *flags: str,
    shown: str | bool = False,
    panel: str | None = MODEL,
    metavar: str | None = "FILE",
    check: Callable[[Path, str], None] = _is_file,
) -> Any:
    """An option that takes a file to be read; with `are_weights` also a folder, or FILE::KEY."""
    return typer.Option(
        *flags, help=help, metavar=metavar, rich_help_panel=panel, show_default=shown, callback=refusing(check)
    )


def share(help: str, shown: str | bool, panel: str = METHOD) -> Any:
    """An option that takes a share, or an accuracy."""
    return typer.Option(min=0, max=1, help=help, rich_help_panel=panel, show_default=shown)


def method(names: Sequence[str], shown: str | bool = True) -> Any:
    """--method, where these are the house's."""
    return typer.Option(help=f"{', '.join(names)}, or another package's.", rich_help_panel=METHOD, show_default=shown)


Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="timm:NAME, torchvision:NAME, hf:DIR, or python:package.module:callable (returns the model, or the model "
        "and its preprocessing: {mean, std, size}, or a callable of a picture, as torchvision's transforms, or of a "
        "list of them).",
        show_default=False,
        callback=refusing(lambda spec, _: parse_model(spec)),
    ),
]
Weights = Annotated[
    Path | None,
    file(
        "Weights: .safetensors, a state dict of torch.save (read with weights_only, nothing is executed), or the index "
        "or folder of several. FILE::KEY takes what lies under a key or prefix (run.pt::state_dict_ema). "
        "Default: the model's own, which timm and torchvision download.",
        "--weights",
        "-w",
        check=are_weights,
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
Float32 = Annotated[
    bool,
    typer.Option(
        "--float32", help="Convert weights of half precision, which no training of texts takes.", rich_help_panel=MODEL
    ),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...", rich_help_panel=MODEL)]
BatchSize = Annotated[int, typer.Option(min=1, help="Images in one forward pass.", rich_help_panel=MODEL)]


def size_or_auto(given: str | int) -> int | str:
    """What `--batch-size` says, or its default, where it may also be "auto"."""
    if given == "auto" or (str(given).isdecimal() and int(given) > 0):
        return given if given == "auto" else int(given)
    raise typer.BadParameter(f'expected a number above 0, or "auto", got {given!r}')


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
        callback=refusing(parse_numbers),
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        help="Likewise: 0.229,0.224,0.225.",
        rich_help_panel=IMAGES,
        show_default="the model's",
        callback=refusing(parse_numbers),
    ),
]
Size = Annotated[
    str | None,
    typer.Option(
        help="Size the model takes: 224, or HEIGHTxWIDTH.",
        rich_help_panel=IMAGES,
        show_default="the model's",
        callback=refusing(parse_size),
    ),
]


def class_names(of: str, panel: str = MODEL) -> Any:
    """--class-names. of: whose they are."""
    return typer.Option(
        "--class-names",
        metavar="FILE",
        help=f"Names of {of}: .txt (a name a line), .csv (index, name), .json (a list, index -> name, or an HF "
        "config.json); or imagenet, for its 1,000 names and WordNet ids (from timm).",
        rich_help_panel=panel,
        show_default="the model's, where it has them",
        callback=refusing(lambda source, flag: source == "imagenet" or read_class_names(source, flag)),
    )


ClassNames = Annotated[str | None, class_names("the classes")]
ClassMap = Annotated[
    Path | None,
    file(
        "Which class each image folder holds, by index or name: .json {folder: class} or .csv (folder, class).",
        "--class-map",
        shown="by the folders' names",
        panel=IMAGES,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", help="One JSON object on stdout, nothing else there.", rich_help_panel=OUTPUT)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.", rich_help_panel=OUTPUT)]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose",
        "-v",
        count=True,
        metavar="",
        help="Log on stderr what is selected, reached, written and skipped; -vv: every step.",
        show_default=False,
        rich_help_panel=OUTPUT,
        callback=set_verbosity,
    ),
]
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
        callback=refusing(parse_setting),
    ),
]
Seed = Annotated[int, typer.Option(help="Of whatever is drawn.", rich_help_panel=METHOD)]
Out = Annotated[
    Path, typer.Option("--out", "-o", help="Folder for weights, patch, result, report.", rich_help_panel=OUTPUT)
]
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
TextsShown = Annotated[
    bool,
    typer.Option(
        "--texts/--no-texts",
        help="Show questions, answers and sensitive words in the report; who gets the page then has them.",
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
MaxShardSize = Annotated[
    str | None,
    typer.Option(
        "--max-shard-size",
        metavar="SIZE",
        help="Write weights that are larger in several files with an index, as transformers does: 5GB, 200MB.",
        rich_help_panel=OUTPUT,
        show_default="one file, or as they came",
        callback=refusing(parse_bytes),
    ),
]
Sign = Annotated[
    Path | None,
    file(
        "Sign result.json with this Ed25519 key (openssl genpkey -algorithm ed25519 -out KEY).",
        "--sign",
        panel=OUTPUT,
        metavar=None,
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


@dataclass(frozen=True, kw_only=True)
class Talk:
    """What a command says, and how much of it."""

    as_json: Json = False
    quiet: Quiet = False
    verbose: Verbose = 0
    debug: Debug = False

    def console(self) -> Console:
        return Console(self.as_json, self.quiet)


@dataclass(frozen=True, kw_only=True)
class Classifier:
    """What may be said of a classifier: its classes, and how it takes images."""

    classes: Classes = None
    mean: Mean = None
    std: Std = None
    size: Size = None
    class_names: ClassNames = None
    class_map: ClassMap = None

    def session(
        self, model: str, weights: Path | None, device: str, batch_size: int, note: Callable[[str], None]
    ) -> Session:
        """See `open_session`."""
        from zsu_fast.cli.session import open_session

        return open_session(model, weights, device=device, batch_size=batch_size, note=note, **vars(self))


@dataclass(frozen=True, kw_only=True)
class Training:
    """Training that may be interrupted."""

    checkpoint: Checkpoint = None
    resume: Resume = False
    checkpoint_every: CheckpointEvery = 30.0

    def kept(self, out: Path) -> dict[str, Any]:
        """As `zsu_fast.forget` takes them. ValueError for the folder of the results, which another lock is on."""
        if self.checkpoint is not None and self.checkpoint.resolve() == out.resolve():
            raise ValueError(f"--checkpoint: expected another folder than --out, got {self.checkpoint}")
        return {"checkpoint": self.checkpoint, "resume": self.resume, "checkpoint_every": self.checkpoint_every}


@dataclass(frozen=True, kw_only=True)
class Results:
    """The folder with the results of a request."""

    out: Out = Path("zsu-fast-out")
    report: Report = True
    report_format: ReportFormat = None
    author: Author = None
    undo: Undo = None
    no_undo: NoUndo = False
    key: Sign = None
    max_shard_size: MaxShardSize = None
    force: Force = False

    def folder(self, weights: Path | None, drawn: bool = True) -> OutputFolder:
        """weights: to start from. drawn: whether the report has pictures."""
        from zsu_fast.cli.outputs import OutputFolder, report_formats

        return OutputFolder(
            self.out, self.force, weights, self.undo, not self.no_undo, self.key,
            report_formats(self.report, self.report_format, drawn), self.author, self.max_shard_size,
        )  # fmt: skip
