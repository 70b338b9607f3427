"""``zsu-fast info``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, one_line_errors
from zsu_fast.cli.manifest import FILES
from zsu_fast.cli.parsing import SOURCES


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
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    verbose: opt.Verbose = 0,
    debug: opt.Debug = False,
) -> None:
    """Say what is installed, what a patch did, or what a model is made of.

    [bold]Examples[/]

      zsu-fast info                      versions, compiled libraries, backends

      zsu-fast info edited               the record: request, edits, hashes

      zsu-fast info timm:resnet18 -w mine.safetensors
    """
    console = Console(as_json, quiet)
    of_model = subject is not None and subject.partition(":")[0] in SOURCES and ":" in subject
    file = None if subject is None or of_model else Path(subject)
    if file is not None and file.is_dir():
        file = file / FILES["patch"]
    if file is not None and not file.is_file():
        raise FileNotFoundError(f"no patch file at {file}, and no model is called so")

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
        found = _describe_model(subject, weights, classes)
        console.show(
            _facts({key: value for key, value in found.items() if key != "tensors"}), _tensors(found["tensors"])
        )
    console.emit(found)


def _describe_model(spec: str, weights: Path | None, classes: int | None) -> dict[str, Any]:
    from zsu_fast.cli.models import load_model
    from zsu_fast.unlearn import model_digest

    loaded = load_model(spec, weights, classes=classes)
    state = loaded.model.state_dict()
    return {
        "model": loaded.spec,
        "type": type(loaded.model).__name__,
        "parameters": sum(p.numel() for p in loaded.model.parameters()),
        "sha256": model_digest(loaded.model),
        "preprocessing": str(loaded.preprocess),
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
