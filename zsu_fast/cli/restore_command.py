"""``zsu-fast restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsu_fast.cli import folder
from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, one_line_errors
from zsu_fast.cli.manifest import file_digest, read_result
from zsu_fast.cli.weights import read_weights, write_weights
from zsu_fast.unlearn import Patch, model_digest


@one_line_errors
def restore(
    weights: Annotated[
        Path, typer.Argument(help="The folder that `forget` wrote, or a file of edited weights.", show_default=False)
    ],
    patch: Annotated[
        Path | None,
        typer.Option("--patch", help="The patch file.", show_default="patch.safetensors beside the weights"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to write.", show_default="restored.safetensors beside them"),
    ] = None,
    force: opt.Force = False,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    r"""Undo an edit: write the weights as they were, bit for bit, and verify their hash.

    The model's code is not needed. Of several edits made one after another
    undo the last one first.

    [bold]Examples[/]

      zsu-fast restore edited

      zsu-fast restore edited/model.safetensors \
          --patch edited/patch.safetensors --out original.safetensors
    """
    console = Console(as_json, quiet)
    file = weights / "model.safetensors" if weights.is_dir() else weights
    patch_file = patch or file.with_name("patch.safetensors")
    destination = out or file.with_name("restored.safetensors")
    taken = ("model.safetensors", "patch.safetensors", "result.json", "report.html")
    kept = [file, patch_file, *(file.parent / name for name in taken)]
    if destination.resolve() in [path.resolve() for path in kept]:
        raise ValueError(f"--out: would overwrite {destination}, which is part of a result: give another file")
    if destination.exists() and not force:
        raise FileExistsError(f"--out: {destination} is there already (--force overwrites)")
    if weights.suffix == "" and not weights.exists():
        raise FileNotFoundError(f"{weights}: no such folder or file")
    record_verified = _check_folder(file.parent, patch_file) if weights.is_dir() else False
    undo = Patch.load(patch_file)
    state, metadata = read_weights(file)
    undo.revert(state)
    digest = model_digest(state)
    expected = (undo.record.get("model") or {}).get("before")
    if expected != digest:
        raise ValueError(
            f"the restored weights have hash {digest[:16]}..., the record says {str(expected)[:16]}...: "
            "the weights were changed elsewhere too (or another patch lies on top); nothing was written"
        )
    write_weights(state, destination, {k: v for k, v in metadata.items() if not k.startswith("zsu_fast.")})
    console.show(f"restored {destination}, bit for bit: SHA-256 {digest}")
    console.emit(
        {
            "restored": str(destination),
            "sha256": digest,
            "weights_verified": True,
            "record_verified": record_verified,
            "record": undo.record,
        }
    )


def _check_folder(path: Path, patch_file: Path) -> bool:
    """Whether a manifest vouches for the undo file, and so for its record. ValueError if it does not match."""
    if folder.interrupted(path):
        raise ValueError(f"{path}: a run was interrupted while it wrote here; run zsu-fast forget again")
    if not (path / "result.json").is_file():
        return False
    content = read_result(path)
    facts = (content.get("manifest") or {}).get(patch_file.name)
    if not isinstance(facts, dict) or not patch_file.is_file():
        return False
    if file_digest(patch_file) != facts.get("sha256"):
        raise ValueError(f"{patch_file.name} is not the undo file that result.json names: it was changed since")
    return True
