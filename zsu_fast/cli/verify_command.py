"""``zsu-fast verify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import EXIT_NOT_REACHED, one_line_errors
from zsu_fast.cli.declared import LEDGER
from zsu_fast.cli.manifest import NAMES, patch_file, read_result, wrong_files
from zsu_fast.cli.signing import LIMITS, signed_by
from zsu_fast.folder import holds, settle_left_over
from zsu_fast.sharded import written_in


@one_line_errors
def verify(
    *,
    result: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="The folder that `forget` wrote.", show_default=False)
    ],
    original: Annotated[
        Path | None, opt.file("The weights before the edit.", panel=None, metavar=None, check=opt.are_weights)
    ] = None,
    patch: Annotated[
        Path | None,
        opt.file("The undo file, if it is kept elsewhere.", shown="patch.safetensors there", panel=None, metavar=None),
    ] = None,
    images: Annotated[
        list[Path] | None,
        opt.images(
            "Images: were they given to the run, as which option? By the keyed hashes; it needs the undo file. "
            "Repeatable.",
            "--images",
            "-i",
            panel=None,
        ),
    ] = None,
    public_key: Annotated[
        Path | None, opt.file("PEM file of who should have signed.", panel=None, metavar=None)
    ] = None,
    talk: opt.Talk,
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
    console = talk.console()
    if not result.is_dir():
        what = "a file, and not the folder that it lies in" if result.is_file() else "no such folder"
        raise FileNotFoundError(f"{result}: {what}")
    if holds(result, LEDGER) and (patch is not None or images):
        raise ValueError("--patch, --images: are for the result of one request, not for a queue")

    if holds(result, LEDGER):
        from zsu_fast.cli.verify_run import check_queue

        found = check_queue(result, original, public_key)
        for problem in found["problems"]:
            console.show(f"WRONG: {problem}")
        if found["verified"]:
            console.show(f"{result}: all checks hold ({', '.join(found['checks'])}) for {found['edits']} edits")
        said = "nothing vouches for what the ledger says of verdicts; only its hashes were checked; " + (
            "it is signed: --public-key checks by whom" if found["signed"] else "forget --sign would"
        )
        console.show(f"Mind: {LIMITS if found['vouched_for_by'] else said}.")
        console.emit(found)
        if found["problems"]:
            raise typer.Exit(EXIT_NOT_REACHED)
        return
    settle_left_over(result, NAMES, "the result")
    content = read_result(result)

    from zsu_fast.cli.verify_run import check_edit, roles_of

    undo = patch or patch_file(content, result)
    problems = wrong_files(content, result, undo)
    checks: dict[str, Any] = {"files": not problems}
    record = content["record"]
    checks["verdict"] = content.get("verdict") == record.get("verdict")
    if not checks["verdict"]:
        problems.append("the verdict in result.json is not that of its record")
    if (weights := written_in(result)) is not None:
        problems += check_edit(weights, undo, original, record, checks)
    roles = roles_of(images or [], undo, content)
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
