"""``zsu-fast forget --requests``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import (
    EXIT_FAILURE,
    EXIT_NOT_JUDGED,
    EXIT_NOT_REACHED,
    EXIT_OK,
    exit_code,
    one_line_errors,
)
from zsu_fast.cli.declared import LEDGER, RESUMABLE
from zsu_fast.cli.manifest import FILES
from zsu_fast.cli.parsing import parse_bytes, split_key
from zsu_fast.cli.signing import check_before_signing, signer
from zsu_fast.folder import holds

if TYPE_CHECKING:
    from zsu_fast.unlearn.queue import Queue, Row


@one_line_errors
def forget_requests(
    *,
    model: opt.Model,
    requests: Annotated[
        Path,
        opt.file(
            "The requests, in their order: .csv or .yaml, a row each: id, kind (class, instances, concept; text; "
            "generator, items), note, method, what the options of that kind are called (target, probes, eval ...), "
            "options of the method. Paths are relative to this file.",
            "--requests",
            panel=None,
        ),
    ],
    out: opt.Out = Path("zsu-fast-queue"),
    weights: opt.Weights = None,
    report: opt.Report = True,
    report_format: opt.ReportFormat = None,
    author: opt.Author = None,
    photos: opt.Photos = False,
    texts_shown: opt.TextsShown = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            metavar="DIR",
            help="Keep here what the training of a request has come to; after a kill the same command goes on from "
            f"there. Emptied when it is done. Methods: {', '.join(RESUMABLE)}.",
            rich_help_panel=opt.TRAINING,
            show_default=False,
        ),
    ] = None,
    checkpoint_every: opt.CheckpointEvery = 30.0,
    key: Annotated[
        Path | None,
        opt.file(
            "Sign ledger.json with this Ed25519 key, each time it is written.", "--sign", panel=opt.OUTPUT, metavar=None
        ),
    ] = None,
    max_shard_size: opt.MaxShardSize = None,
    float32: opt.Float32 = False,
    device: opt.Device = "cpu",
    batch_size: opt.BatchSize = 64,
    classifier: opt.Classifier,
    talk: opt.Talk,
) -> None:
    r"""Carry out a queue of requests, one after the other, on one model; into one folder, with a ledger.

    Each request has a patch of its own, which can be undone by itself where no
    later one stands on it (zsu-fast restore OUT --request ID). After each, the
    images of all earlier ones are looked at again. What is in the ledger is not
    repeated: after a kill the same command goes on where it stopped, and so it
    does for a line that was added to the file.

    Exit code 1: a request failed (it is tried again next time); 3: one was not
    reached, or one came back; 4: one is not judged. MODEL and --weights are the
    original each time.

    After a kill a request that was being trained begins anew, or goes on with
    --checkpoint. All requests of a file are to one model: to a classifier
    (class, instances, concept), a language model (text; MODEL is hf:DIR, or
    python: of model and tokenizer), or a generator (generator, items).

    [bold]Example[/]

      zsu-fast forget timm:resnet18 -w mine.safetensors --requests queue.csv --out withdrawn

    queue.csv:

      id,kind,target,images,probes,eval,note

      2026-001,class,3,,cats/,test.npz,letter of 3 May

      2026-002,instances,,withdrawn.npz,,test.npz,customer 17

    Of a language model: id,kind,records,anchors; of a generator:
    id,kind,target,judge,judge_weights,latent,range.
    """
    console = talk.console()
    ours = [(out / name).resolve() for name in ("", FILES["weights"], FILES["index"])]
    if weights is not None and split_key(weights)[0].resolve() in ours:
        raise ValueError(f"--weights: expected those before the first request, got {weights}, which the queue writes")

    from zsu_fast.cli.ledger_command import ledger_table, said_of
    from zsu_fast.cli.outputs import report_formats
    from zsu_fast.cli.request_jobs import Work, read_texts
    from zsu_fast.cli.request_kinds import Showing, open_model
    from zsu_fast.cli.requests_file import LANGUAGE_MODEL, missing_files, read_requests
    from zsu_fast.unlearn.queue import Ledger, Queue

    sign = None if key is None else signer(key)
    lines = read_requests(requests)
    of = lines[0].of
    texts = of == LANGUAGE_MODEL
    showing = Showing(report_formats(report, report_format, drawn=not texts), texts_shown if texts else photos, author)
    earlier = Ledger(out) if holds(out, LEDGER) else None
    if key is not None and earlier is not None:
        check_before_signing(earlier.to_dict(), key, out / LEDGER, console.note)
    finished = set() if earlier is None else {row.id for row in earlier.rows if row.finished}
    missing_files([line for line in lines if line.id not in finished])
    session = open_model(
        of, model, weights, device=device, batch_size=batch_size, float32=float32, note=console.note, **vars(classifier)
    )
    loaded = session.loaded
    beside = {FILES[kind]: text for kind, text in loaded.beside.items()}
    with ExitStack() as opened:
        progress = opened.enter_context(console.progress())
        works = [Work(session, line, showing, progress, line.id in finished) for line in lines]
        if texts:
            read_texts(works, earlier)
        # By the original, into which the queue puts the edits: the edited model may not know a concept any more.
        known = {work.line.id: work.job({}, console.note) for work in works if work.known}
        queue = opened.enter_context(
            Queue(
                out,
                loaded.model,
                name=loaded.spec,
                batch_size=batch_size,
                metadata=loaded.metadata,
                beside=beside,
                max_shard_size=parse_bytes(max_shard_size) or loaded.shard,
                sign=sign,
                checkpoint=checkpoint,
                checkpoint_every=checkpoint_every,
            )
        )
        for number, work in enumerate(works, 1):
            line = work.line
            if work.known:
                queue.carry_out(known[line.id])
                continue
            try:
                row = queue.carry_out(work.job(queue.kept_for(line.id, line.method), console.note))
            except Exception as error:
                if talk.debug or not _failed(queue, line.id):
                    raise
                console.note(f"request {line.id} failed: {' '.join(str(error).split())}")
                continue
            console.tell(f"{number}/{len(works)} {row.id}: {row.status}: {row.sentence}")
        if any(row.in_place and row.images is not None and row.left_now is None for row in queue.rows):
            queue.look_again()
        rows = queue.rows
    if sign is None and earlier is not None and earlier.signed and not Ledger(out).signed:
        console.note("the ledger was signed, and is not any more: --sign")
    left_out = [row.id for row in rows if row.id not in {line.id for line in lines}]
    if left_out:
        console.note(f"in the ledger and not in {requests}: {', '.join(left_out)}; their edits stay in the model")
    console.show(
        ledger_table(rows), *said_of(rows), f"wrote to {out}: who has {out / 'undo'} has back what was forgotten"
    )
    console.emit(Ledger(out).to_dict())
    raise typer.Exit(queue_exit_code(rows))


def _failed(queue: Queue, id: str) -> bool:
    """Whether the ledger has it as failed: any other error is of the queue itself."""
    return any(row.id == id and row.status == "failed" for row in queue.rows)


def queue_exit_code(rows: Sequence[Row]) -> int:
    """The worst of what the ledger says."""
    if any(row.status == "failed" for row in rows):
        return EXIT_FAILURE
    if any(row.status in ("not reached", "invalid") or (row.in_place and row.came_back) for row in rows):
        return EXIT_NOT_REACHED
    codes = {exit_code(row.status, "budget" in row.asked.get("options", {})) for row in rows if row.in_place}
    return EXIT_NOT_JUDGED if EXIT_NOT_JUDGED in codes else EXIT_OK
