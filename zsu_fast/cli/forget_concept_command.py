"""``zsu-fast forget concept``."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, exit_code, one_line_errors
from zsu_fast.cli.forget_run import Run
from zsu_fast.cli.method_options import parse_settings
from zsu_fast.cli.outputs import OutputFolder, report_formats, write_and_tell
from zsu_fast.cli.session import Session, open_session
from zsu_fast.concepts import ConceptBank, concept_bank
from zsu_fast.report.analysis import begun
from zsu_fast.report.concept import SHOWN, ConceptReport, look, made_of_one
from zsu_fast.unlearn import ForgetConcept, ForgetResult
from zsu_fast.unlearn import forget as forget_request


@one_line_errors
def forget_concept(
    model: opt.Model,
    inside: Annotated[
        Path,
        typer.Option(
            "--with",
            help="Images with the concept, some hundreds if they can be had: a folder, or .npz.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ],
    without: Annotated[
        Path,
        typer.Option(
            "--without",
            help="Images without it, alike otherwise: what else the two differ in goes too.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ],
    concept: Annotated[
        str | None,
        typer.Option(
            "--concept", help="Its name (in --bank).", rich_help_panel=opt.METHOD, show_default="that of the folder"
        ),
    ] = None,
    bank: Annotated[
        Path | None,
        typer.Option(
            "--bank",
            metavar="FILE",
            help="Concepts that zsu-fast concepts --save-bank wrote, from other images than these.",
            rich_help_panel=opt.METHOD,
            show_default="half of the images make one, the other half judges",
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            "-l",
            metavar="NAME",
            help="Without --bank: module whose input is to forget it.",
            rich_help_panel=opt.METHOD,
            show_default="the classifier: the features",
        ),
    ] = None,
    used_by: Annotated[
        list[str] | None,
        typer.Option(
            "--used-by",
            help="Class that uses it and may suffer: index or name; repeatable.",
            rich_help_panel=opt.METHOD,
            show_default="those answered more often with it",
        ),
    ] = None,
    out: opt.Out = Path("zsu-fast-out"),
    weights: opt.Weights = None,
    retain: Annotated[
        Path | None,
        typer.Option(
            "--retain",
            help="Images of the classes that do not use it, to guard (with labels or without).",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(
            "--eval",
            help="Labelled images: what becomes of the classes that use it and of those that do not.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="concept, or another package's.", rich_help_panel=opt.METHOD)] = "concept",
    utility_floor: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Accuracy that must be kept on --retain, and on --eval by the classes that do not use it.",
            rich_help_panel=opt.METHOD,
            show_default="two points less than before",
        ),
    ] = None,
    seed: opt.Seed = 0,
    other: opt.Settings = None,
    report: opt.Report = True,
    report_format: opt.ReportFormat = None,
    author: opt.Author = None,
    photos: opt.Photos = False,
    undo: opt.Undo = None,
    no_undo: opt.NoUndo = False,
    key: opt.Sign = None,
    classes: opt.Classes = None,
    device: opt.Device = "cpu",
    batch_size: opt.BatchSize = 64,
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
    r"""Make the features forget a concept; write the weights, the undo file, the record and a report.

    The concept is erased from what layers write, or the units that carry it are
    masked. It counts as forgotten when vectors that are fitted anew on the
    edited features tell the images with it from those without no better than
    about chance. Classes that use it lose what they used; the others are
    guarded. If that cannot be reached no weights are written, and the exit code
    is 3.

    [bold]Examples[/]

      zsu-fast forget concept timm:resnet18 -w mine.safetensors --with logo/ --without plain/ \
          --retain others/ --eval test.npz

      zsu-fast forget concept timm:resnet18 -w mine.safetensors --bank bank.safetensors \
          --concept striped --with more-striped/ --without more-plain/ --used-by zebra
    """
    started = time.perf_counter()
    console = Console(as_json, quiet)
    settings = parse_settings(other, method)
    formats = report_formats(report, report_format)
    with closing(OutputFolder(out, force, weights, undo, not no_undo, key, formats, author)) as folder:
        session = open_session(
            model, weights, classes=classes, device=device, batch_size=batch_size, mean=mean, std=std, size=size,
            class_names=class_names, class_map=class_map, note=console.note,
        )  # fmt: skip
        session.sources = {}
        request = concept_request(session, inside, without, concept, bank, layer, used_by, seed)
        given: dict[str, Any] = {"seed": seed, "utility_floor": utility_floor, "batch_size": batch_size} | settings
        if retain is not None:
            given["retain_probes"] = session.pair(session.read(retain, "--retain"))
        if evaluation is not None:
            given["evaluate_on"] = session.pair(session.read_labelled(evaluation, "--eval"))
        with console.progress() as progress:
            result, page = forget_and_look(session, request, method, given | {"progress": progress}, report, photos)
        run = Run(result, report=page, sources=session.sources)
        write_and_tell(console, folder, session.loaded, run, time.perf_counter() - started)
        raise typer.Exit(exit_code(result.verdict.level, fixed_budget="budget" in settings))


def concept_request(
    session: Session,
    inside: Path,
    without: Path,
    concept: str | None,
    bank: Path | None,
    layer: str | None,
    used_by: Sequence[str] | None,
    seed: int,
) -> ForgetConcept:
    """Read what the request is made of; without a bank half of the images make one."""
    if bank is not None and layer is not None:
        raise ValueError("--layer: the bank says which")
    images = session.tensor(session.read(inside, "--with"))
    others = session.tensor(session.read(without, "--without"))
    if bank is not None:
        known = ConceptBank.load(bank)
        name = concept or known.names[0]
    else:
        name = concept or inside.stem
        known, images, others = _bank_of_halves(session, name, images, others, layer, seed)
    using = session.targets(used_by, "--used-by") if used_by else None
    return ForgetConcept(name, known, images, others, using)


def _bank_of_halves(
    session: Session, name: str, images: Tensor, others: Tensor, layer: str | None, seed: int
) -> tuple[ConceptBank, Tensor, Tensor]:
    """A bank from half of the images of each side, and the other halves."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [side[torch.randperm(len(side), generator=generator).to(side.device)] for side in (images, others)]
    bank = concept_bank(
        session.loaded.model, {name: drawn[0][::2]}, drawn[1][::2], layer, batch_size=session.batch_size, seed=seed
    )
    return bank, drawn[0][1::2], drawn[1][1::2]


def forget_and_look(
    session: Session, request: ForgetConcept, method: str, given: dict[str, Any], report: bool, photos: bool
) -> tuple[ForgetResult, ConceptReport | None]:
    """Look, forget, look again."""
    model, batch_size, seed = session.loaded.model, session.batch_size, given["seed"]
    if not report:
        return forget_request(model, request, method=method, **given), None
    pictures = photos and request.images.dim() == 4
    judging = given.get("evaluate_on") if pictures else None
    users = begun(model, request, batch_size).users
    before, was = look(model, request, batch_size, seed), made_of_one(model, users, judging, session.photos)
    result = forget_request(model, request, method=method, **given)
    edited = bool(result.patch.entries)
    now = made_of_one(model, users, judging, session.photos) if edited else None
    page = ConceptReport(
        model=session.loaded.spec,
        record=result.record,
        picks=result.picks,
        names=session.names,
        before=before,
        after=look(model, request, batch_size, seed) if edited else None,
        photos=(session.photos(request.images[:SHOWN]), session.photos(request.without[:SHOWN])) if pictures else None,
        made_of=(was, now),
    )
    return result, page
