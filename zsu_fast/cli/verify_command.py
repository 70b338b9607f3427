"""``zsu-fast verify``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from torch import Tensor

from zsu_fast.cli import options as opt
from zsu_fast.cli.checkpoints import fitted
from zsu_fast.cli.console import EXIT_NOT_REACHED, Console, one_line_errors
from zsu_fast.cli.images import read_images
from zsu_fast.cli.manifest import FILES, patch_file, read_result, wrong_files
from zsu_fast.cli.signing import LIMITS, signed_by
from zsu_fast.cli.sources import keyed_hash
from zsu_fast.cli.weights import read_weights
from zsu_fast.folder import settle_left_over
from zsu_fast.model.tensors import same_bits
from zsu_fast.unlearn import Patch, model_digest
from zsu_fast.unlearn.queue import Ledger
from zsu_fast.unlearn.queue.chain import undone
from zsu_fast.unlearn.queue.ledger import is_ledger
from zsu_fast.unlearn.queue.ledger import wrong_files as wrong_in_ledger


@one_line_errors
def verify(
    result: Annotated[Path, typer.Argument(help="The folder that `forget` wrote.", show_default=False)],
    original: Annotated[
        Path | None, typer.Option("--original", help="The weights before the edit.", show_default=False)
    ] = None,
    patch: Annotated[
        Path | None,
        typer.Option("--patch", help="The undo file, if it is kept elsewhere.", show_default="patch.safetensors there"),
    ] = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images",
            "-i",
            help="Images: were they given to the run, as which option? By the keyed hashes; it needs the undo file. "
            "Repeatable.",
            show_default=False,
        ),
    ] = None,
    public_key: Annotated[
        Path | None, typer.Option("--public-key", help="PEM file of who should have signed.", show_default=False)
    ] = None,
    as_json: opt.Json = False,
    quiet: opt.Quiet = False,
    debug: opt.Debug = False,
) -> None:
    r"""Check a result: every hash, and that the model is the original plus exactly the recorded edits.

    Recomputes the hashes of all files, of the weights, and of the weights with
    the edit undone; with --original also that undoing gives just these weights.
    Of a queue (forget --requests): every file, and the hash after each request.
    Exit code 0 if everything holds, 3 if something does not.

    [bold]Examples[/]

      zsu-fast verify edited --original original.safetensors

      zsu-fast verify edited --public-key auditor.pem

      zsu-fast verify edited --images cats/ --images test.npz
    """
    console = Console(as_json, quiet)
    if not result.is_dir():
        raise FileNotFoundError(f"{result}: no such folder")
    if patch is not None and not patch.is_file():
        raise FileNotFoundError(f"--patch: no such file: {patch}")
    if is_ledger(result):
        if patch is not None or images or public_key is not None:
            raise ValueError("--patch, --images, --public-key: are for the result of one request, not for a queue")
        _verify_queue(Ledger(result), original, console)
        return
    settle_left_over(result, list(FILES.values()), "the result")
    content = read_result(result)
    undo = patch or patch_file(content, result)
    problems = wrong_files(content, result, undo)
    checks: dict[str, Any] = {"files": not problems}
    record = content["record"]
    checks["verdict"] = content.get("verdict") == record.get("verdict")
    if not checks["verdict"]:
        problems.append("the verdict in result.json is not that of its record")
    if (result / FILES["weights"]).is_file():
        problems += _check_edit(result / FILES["weights"], undo, original, record, checks)
    roles = _roles(images or [], undo, content)
    for path, options in roles.items():
        checks[f"images {path}"] = bool(options)
        if not options:
            problems.append(f"{path} holds other images than any that were given to the run")
    if public_key is not None:
        checks["signature"] = signed_by(content, public_key)
        if not checks["signature"]:
            problems.append(f"no valid signature of {public_key.name}")
    for problem in problems:
        console.show(f"WRONG: {problem}")
    if not problems:
        console.show(
            f"{result}: all checks hold ({', '.join(checks)})", str(record.get("verdict", {}).get("sentence", ""))
        )
    for path, options in roles.items():
        if options:
            console.show(f"{path} holds the images that were given as {', '.join(options)}")
    vouched_for_by = public_key.name if public_key is not None and checks["signature"] else None
    if vouched_for_by is not None:
        console.show(f"Mind: {LIMITS}.")
    else:
        console.show(
            "Mind: nothing vouches for what result.json says, such as its summary and evaluation; "
            + ("it is signed: --public-key checks by whom." if "signature" in content else "forget --sign would.")
        )
    console.emit(
        {
            "verified": not problems,
            "checks": checks,
            "problems": problems,
            "images": {str(path): options for path, options in roles.items()},
            "verdict": content.get("verdict"),
            "vouched_for_by": vouched_for_by,
        }
    )
    if problems:
        raise typer.Exit(EXIT_NOT_REACHED)


def _verify_queue(ledger: Ledger, original: Path | None, console: Console) -> None:
    """Every file, and the chain of hashes from the model as it is, edit by edit, to the original."""
    problems, state = ledger.problems()
    checks = {"files": not wrong_in_ledger(ledger), "chain": state is not None}
    if original is not None:
        checks["original"] = state is not None and _same(state, read_weights(original)[0])
        if not checks["original"]:
            problems.append(f"{original.name} is not the model before the first request, as far as it can be told")
    for problem in problems:
        console.show(f"WRONG: {problem}")
    if not problems:
        edits = len(ledger.placed)
        console.show(f"{ledger.path}: all checks hold ({', '.join(checks)}): {edits} edits on {ledger.original}")
    console.show("Mind: nothing vouches for what the ledger says of verdicts; look at the images again to know.")
    console.emit({"verified": not problems, "checks": checks, "problems": problems, "edits": len(ledger.placed)})
    if problems:
        raise typer.Exit(EXIT_NOT_REACHED)


def _roles(images: Sequence[Path], undo: Path, content: dict[str, Any]) -> dict[Path, list[str]]:
    """As which options of the run each of these was given, by the key in the undo file."""
    if not images:
        return {}
    given = content.get("images")
    if not isinstance(given, dict) or not given:
        raise ValueError("--images: result.json has no keyed hashes of images to compare with")
    if not undo.is_file():
        raise FileNotFoundError(f"--images: the key is in the undo file, and there is none at {undo} (see --patch)")
    try:
        key = Patch.load(undo).key
    except ValueError as error:
        raise ValueError(f"--images: the undo file, which has the key, is damaged: {error}") from None
    found = {path: keyed_hash(read_images(path, {}, "--images").digests(), key) for path in images}
    return {path: [option for option, one in given.items() if one == hashed] for path, hashed in found.items()}


def _check_edit(
    weights: Path, undo: Path, original: Path | None, record: dict[str, Any], checks: dict[str, Any]
) -> list[str]:
    """That the weights are the original plus the edits; what does not fit."""
    digests = record.get("model", {})
    given = None if original is None else read_weights(original)[0]
    try:
        state, _ = read_weights(weights)
    except ValueError as error:
        checks["weights"] = False
        return [str(error)]
    problems = []
    checks["weights"] = model_digest(state) == digests.get("after")
    if not checks["weights"]:
        problems.append("the weights are not those that the record describes")
    if undo.is_file():
        problems += _check_undo(state, undo, record, digests, checks)
    if given is None:
        return problems
    if not checks.get("undo"):
        problems.append("without the edit undone it cannot be told whether the model is the original plus the edits")
    else:
        checks["original"] = _same(state, given)
        if not checks["original"]:
            problems.append(f"{Path(str(original)).name} is not the model that was edited")
    return problems


def _check_undo(
    state: dict[str, Tensor], path: Path, record: dict[str, Any], digests: dict[str, Any], checks: dict[str, Any]
) -> list[str]:
    """Undo the edit in `state`; what does not fit."""
    checks["undo"] = False
    try:
        undo = Patch.load(path)
    except ValueError as error:
        return [str(error).removeprefix("path: ")]
    problems = []
    checks["record"] = undo.record == record
    if not checks["record"]:
        problems.append("the record in the undo file is not that of result.json")
    try:
        state |= undone(state, undo, digests.get("before"))
    except ValueError as error:
        problems.append(f"the undo file does not fit the weights: {error}")
    else:
        checks["undo"] = model_digest(state) == digests.get("before")
        if not checks["undo"]:
            problems.append("with the edit undone the weights are not those that the record describes")
    return problems


def _same(state: dict[str, Tensor], original: dict[str, Tensor]) -> bool:
    """Whether the original, loaded as `load_into` does it, gives this state.

    It may have a tied tensor once. What has another name there is known by its values.
    """
    original = fitted(original, state)
    # Left over, each of them once: transformers loads under other names than it saves.
    renamed = {name: value for name, value in original.items() if name not in state}
    for name, value in state.items():
        if name in original:
            continue
        twins = (other for other in original if other in state and same_bits(state[other], value))
        if (twin := next(twins, None)) is not None:
            original[name] = original[twin]
        elif (twin := next((other for other in renamed if same_bits(renamed[other], value)), None)) is not None:
            original[name] = renamed.pop(twin)
    loaded = {}
    for name, value in state.items():
        given = original.get(name, value if name.endswith("num_batches_tracked") else None)
        if given is None:
            return False
        floats = given.is_floating_point() and value.is_floating_point()
        loaded[name] = given.to(value.dtype) if floats else given
    return model_digest(loaded) == model_digest(state)
