"""``zsu-fast info``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from zsu_fast.atomic import replacing
from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, one_line_errors
from zsu_fast.cli.declared import LEDGER
from zsu_fast.cli.manifest import FILES
from zsu_fast.cli.parsing import SOURCES
from zsu_fast.extras import require
from zsu_fast.folder import holds

if TYPE_CHECKING:
    from zsu_fast.cli.session import Session


@one_line_errors
def info(
    *,
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATCH|FOLDER|MODEL]",
            help="A patch file, a folder that `forget` wrote, or a model. Nothing: the installation.",
            show_default=False,
        ),
    ] = None,
    weights: opt.Weights = None,
    images: Annotated[
        Path | None,
        opt.images("Of a model: images of which to look at a few through its preprocessing.", "--images", "-i"),
    ] = None,
    contact_sheet: Annotated[
        Path | None,
        typer.Option(
            "--contact-sheet",
            metavar="FILE",
            help="Write these images (.png or .svg): as they are, as the model sees them, label and answer.",
            rich_help_panel=opt.OUTPUT,
            show_default=False,
        ),
    ] = None,
    classifier: opt.Classifier,
    force: opt.Force = False,
    talk: opt.Talk,
) -> None:
    r"""Say what is installed, what a patch did, or what a model is made of.

    [bold]Examples[/]

      zsu-fast info                      versions, compiled libraries, backends

      zsu-fast info edited               the record: request, edits, hashes

      zsu-fast info timm:resnet18 -w mine.safetensors --images val/ \
          --contact-sheet seen.png       does its preprocessing fit?
    """
    console = talk.console()
    found: dict[str, Any]
    of_model = subject is not None and subject.partition(":")[0] in SOURCES and ":" in subject
    if images is not None and not of_model:
        raise ValueError("--images: expected a MODEL to look at them with")
    if contact_sheet is not None and images is None:
        raise ValueError("--contact-sheet needs --images")
    file = None if subject is None or of_model else Path(subject)
    if file is not None and holds(file, LEDGER):
        raise ValueError(f"{file} is the folder of a queue of requests: zsu-fast ledger {file}")
    if file is not None and file.is_dir():
        file = file / FILES["patch"]
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"no patch file at {file}, and no model is called so")
    if contact_sheet is not None:
        _check_sheet(contact_sheet, force)

    from zsu_fast.ops.build_info import build_info
    from zsu_fast.unlearn import Patch

    if file is not None:
        patch = Patch.load(file)
        found = {"record": patch.record, "tensors": [_entry(entry) for entry in patch.entries]}
        console.show(_facts(_flat({k: v for k, v in patch.record.items() if k not in ("edits", "picks", "search")})))
        console.show(_tensors(found["tensors"]))
    elif subject is None:
        found = build_info()
        console.show(_facts(_flat(found)))
    else:
        session = classifier.session(subject, weights, "cpu", 24, console.note)
        found = _describe_model(session)
        preprocessing = found["preprocessing"]
        console.show(_facts({key: value for key, value in found.items() if key not in ("tensors", "preprocessing")}))
        console.show(f"preprocessing, known from {preprocessing['known_from']}:")
        console.show(_facts({f"  {i}.": step for i, step in enumerate(preprocessing["steps"], 1)}))
        if images is None:
            console.show(_tensors(found["tensors"]))
        else:
            found["images"] = _look(console, session, images, contact_sheet)
    console.emit(found)


def _check_sheet(path: Path, force: bool) -> None:
    """Refuse what cannot be written before the work."""
    if path.suffix.lower() not in (".png", ".svg"):
        raise ValueError(f"--contact-sheet must end in .png or .svg, got {path}")
    if path.exists() and not force:
        raise FileExistsError(f"--contact-sheet: {path} is there already (--force overwrites)")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"--contact-sheet: no such folder: {path.parent}")
    require("matplotlib", "report")


def _look(console: Console, session: Session, images: Path, contact_sheet: Path | None) -> dict[str, Any]:
    """What the model sees of the images, and answers."""
    from zsu_fast.cli.look import look
    from zsu_fast.plot import save

    seen = look(session, session.read(images, "--images"))
    found = seen.to_dict(session)
    console.show(_tensors(found["images"]))
    if seen.right is not None:
        console.show(f"answered with their label: {seen.right} of {len(seen.images)}")
    for remark in seen.remarks():
        console.note(remark)
    if contact_sheet is not None:
        with replacing(contact_sheet) as file:
            save(seen.sheet(session), file, contact_sheet.suffix[1:].lower())
        console.show(f"wrote {contact_sheet}")
    return found


def _describe_model(session: Session) -> dict[str, Any]:
    from zsu_fast.unlearn import model_digest

    loaded = session.loaded
    state = loaded.model.state_dict()
    return {
        "model": loaded.spec,
        "type": type(loaded.model).__name__,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "sha256": model_digest(loaded.model),
        "preprocessing": {"known_from": loaded.preprocess.source, "steps": loaded.preprocess.steps},
        "class_names": len(loaded.names),
        "tensors": [
            {"tensor": name, "dtype": str(value.dtype).removeprefix("torch."), "shape": list(value.shape)}
            for name, value in state.items()
        ],
    }


def _entry(entry: Any) -> dict[str, Any]:
    row = "" if entry.row is None else f"[{entry.row}]"
    return {
        "tensor": entry.tensor + row,
        "dtype": str(entry.old.dtype).removeprefix("torch."),
        "shape": list(entry.old.shape),
        "indices": entry.indices.numel(),
        "dim": entry.dim,
    }


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted names."""
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found |= _flat(item, f"{prefix}.{key}" if prefix else str(key))
    return found


def _facts(facts: dict[str, Any]) -> Table:
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for key, value in facts.items():
        table.add_row(escape(key), escape("–" if value is None else str(value)))
    return table


def _tensors(rows: list[dict[str, Any]]) -> Table:
    table = Table()
    columns = list(rows[0]) if rows else ["tensor"]
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(escape(str(row[column])) for column in columns))
    return table
