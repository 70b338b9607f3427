"""``zsu-fast restore``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, one_line_errors
from zsu_fast.cli.declared import LEDGER
from zsu_fast.cli.manifest import FILES, NAMES, is_the_file, patch_file, read_result
from zsu_fast.cli.signing import check_before_signing, signer
from zsu_fast.folder import found, holds, settle_left_over
from zsu_fast.sharded import written_in


@one_line_errors
def restore(
    *,
    weights: Annotated[
        Path,
        typer.Argument(
            metavar="FOLDER|WEIGHTS",
            help="The folder that `forget` wrote, or a file of edited weights.",
            show_default=False,
        ),
    ],
    patch: Annotated[
        Path | None,
        opt.file("The patch file.", shown="patch.safetensors beside the weights", panel=None, metavar=None),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Where to write.", show_default="restored.safetensors beside them"),
    ] = None,
    request: Annotated[
        str | None,
        typer.Option(
            "--request",
            metavar="ID",
            help="Of the folder of a queue: take the edit of this request out of the model that is there.",
            show_default=False,
        ),
    ] = None,
    key: Annotated[
        Path | None,
        opt.file("With --request: sign the ledger with this Ed25519 key.", "--sign", panel=None, metavar=None),
    ] = None,
    force: opt.Force = False,
    talk: opt.Talk,
) -> None:
    r"""Undo an edit: write the weights as they were, bit for bit, and verify their hash.

    The model's code is not needed. Of several edits made one after another
    undo the last one first.

    Of a queue (forget --requests) --request undoes one, also from the middle,
    in the folder itself; where a later edit reaches the same weights and is no
    mask it is refused. Without --request the original is written.

    [bold]Examples[/]

      zsu-fast restore edited

      zsu-fast restore edited/model.safetensors \
          --patch edited/patch.safetensors --out original.safetensors

      zsu-fast restore withdrawn --request 2026-001
    """
    console = talk.console()
    if not weights.exists():
        raise FileNotFoundError(f"{weights}: no such folder or file")
    if request is not None or holds(weights, LEDGER):
        _restore_queue(weights, request, patch, out, force, key, console)
        return
    if key is not None:
        raise ValueError("--sign: goes with --request")
    # Weights under the name that a result gives them belong to the result beside them, if there is one.
    content = None
    place = weights if weights.is_dir() else weights.parent
    if weights.is_dir() or weights.name in (FILES["weights"], FILES["index"]):
        settle_left_over(place, NAMES, "the result")
        content = read_result(place) if (place / FILES["result"]).is_file() else None
    file = (written_in(weights) or weights / FILES["weights"]) if weights.is_dir() else weights
    if not file.is_file():
        raise FileNotFoundError(f"{weights} holds no {file.name}: nothing was edited, or it is no result of forget")
    undo_file = patch or patch_file(content or {}, file.parent)
    if not undo_file.is_file():
        raise FileNotFoundError(f"--patch: no such file: {undo_file}")
    destination = out or file.with_name("restored.safetensors")
    kept = [file, undo_file, *(place / name for name in (*FILES.values(), *found(place, NAMES)))]
    if destination.resolve() in [path.resolve() for path in kept]:
        raise ValueError(f"--out: would overwrite {destination}, which is part of a result: give another file")
    _check_free(destination, force)
    # Whether a manifest vouches for the undo file, and so for its record.
    record_verified = is_the_file(content or {}, "patch", undo_file)
    if record_verified is False:
        raise ValueError(f"--patch: {undo_file} is not the undo file that result.json names: it was changed since")

    from zsu_fast.cli.weights import read_weights
    from zsu_fast.safetensors_file import write_weights
    from zsu_fast.unlearn import Patch, model_digest
    from zsu_fast.unlearn.queue.chain import undone

    undo = Patch.load(undo_file)
    state, metadata = read_weights(file)
    expected = (undo.record.get("model") or {}).get("before")
    state = undone(state, undo, expected)
    digest = model_digest(state)
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
            "record_verified": record_verified is True,
            "record": undo.record,
        }
    )


def _restore_queue(
    path: Path,
    request: str | None,
    patch: Path | None,
    out: Path | None,
    force: bool,
    key: Path | None,
    console: Console,
) -> None:
    """One request undone in the folder; or the original written."""
    if patch is not None:
        raise ValueError("--patch: the ledger says which undo files there are")
    if key is not None and request is None:
        raise ValueError("--sign: goes with --request")
    sign = None if key is None else signer(key)
    if request is not None and out is not None:
        raise ValueError("--out: with --request the model in the folder of the queue is written")
    usual = path / "restored.safetensors"
    destination = out or usual
    if path.resolve() in destination.resolve().parents and destination.resolve() != usual.resolve():
        raise ValueError(f"--out: {destination} lies in the folder of the queue: give another file")
    if request is None:
        _check_free(destination, force)

    from zsu_fast.safetensors_file import write_weights
    from zsu_fast.unlearn.queue import Ledger

    ledger = Ledger(path)
    if request is None:
        state, metadata = ledger.before_all()
        write_weights(state, destination, metadata)
        console.show(f"restored {destination}, bit for bit: SHA-256 {ledger.original}")
        console.emit({"restored": str(destination), "sha256": ledger.original, "weights_verified": True})
        return
    if key is not None:
        check_before_signing(ledger.to_dict(), key, path / LEDGER, console.note)
    signed = ledger.signed
    again = ledger.undo(request, sign=sign)
    now = ledger.now
    console.show(f"undid {request} in {path}: the model's SHA-256 is now {now}")
    if again:
        console.show(f"laid anew on top: {', '.join(again)}")
    if signed and sign is None:
        console.note("the ledger was signed, and is not any more: --sign")
    console.show("no image was looked at since: forget --requests, run again, does")
    console.emit({"undone": request, "laid_anew": again, "sha256": now})


def _check_free(destination: Path, force: bool) -> None:
    if destination.exists() and not force:
        raise FileExistsError(f"--out: {destination} is there already (--force overwrites)")
