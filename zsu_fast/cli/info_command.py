"""``zsu-fast info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from zsu_fast.atomic import replacing
from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, one_line_errors
from zsu_fast.cli.look import MOST, check_sheet, look
from zsu_fast.cli.models import SOURCES
from zsu_fast.cli.session import Session, open_session
from zsu_fast.ops.build_info import build_info
from zsu_fast.plot import save
from zsu_fast.unlearn import Patch, model_digest


@one_line_errors
def info(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="[PATCH|FOLDER|MODEL]",
            help="A patch file, a folder that `forget` wrote, or a model. Nothing: the installation.",
            show_default=False,
        ),
    ] = None,
    weights: opt.Weights = None,
    classes: opt.Classes = None,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            "-i",
            help="Of a model: a folder or .npz of which to look at a few images through its preprocessing.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
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
    r"""Say what is installed, what a patch did, or what a model is made of.

    [bold]Examples[/]

      zsu-fast info                      versions, compiled libraries, backends

      zsu-fast info edited               the record: request, edits, hashes

      zsu-fast info timm:resnet18 -w mine.safetensors --images val/ \
          --contact-sheet seen.png       does its preprocessing fit?
    """
    console = Console(as_json, quiet)
    of_model = subject is not None and subject.partition(":")[0] in SOURCES and ":" in subject
    if images is not None and not of_model:
        raise ValueError("--images: expected a MODEL to look at them with")
    if contact_sheet is not None and images is None:
        raise ValueError("--contact-sheet needs --images")
    if subject is None:
        found = build_info()
        console.show(_facts(_flat(found)))
    elif of_model:
        if contact_sheet is not None:
            check_sheet(contact_sheet, force)
        session = open_session(
            subject, weights, classes=classes, device="cpu", batch_size=MOST, mean=mean, std=std, size=size,
            class_names=class_names, class_map=class_map, note=console.note,
        )  # fmt: skip
        found = _describe_model(session)
        console.show(_facts({key: value for key, value in found.items() if key not in ("tensors", "preprocessing")}))
        console.show(_facts({"preprocessing": f"known from: {found['preprocessing']['known_from']}"}))
        console.show(_facts({f"  {i}.": step for i, step in enumerate(found["preprocessing"]["steps"], 1)}))
        if images is None:
            console.show(_tensors(found["tensors"]))
        else:
            seen = look(session, session.read(images, "--images"))
            found["images"] = seen.to_dict(session)
            console.show(_tensors(found["images"]["images"]))
            if seen.right is not None:
                console.show(f"answered with their label: {seen.right} of {len(seen.images)}")
            for remark in seen.remarks():
                console.note(remark)
            if contact_sheet is not None:
                with replacing(contact_sheet) as file:
                    save(seen.sheet(session), file, contact_sheet.suffix[1:].lower())
                console.show(f"wrote {contact_sheet}")
    else:
        path = Path(subject)
        patch = Patch.load(path / "patch.safetensors" if path.is_dir() else path)
        found = {"record": patch.record, "tensors": [_entry(entry) for entry in patch.entries]}
        console.show(_facts(_flat({k: v for k, v in patch.record.items() if k not in ("edits", "picks", "search")})))
        console.show(_tensors(found["tensors"]))
    console.emit(found)


def _describe_model(session: Session) -> dict[str, Any]:
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
