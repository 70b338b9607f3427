"""``zsu-fast concepts``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import one_line_errors
from zsu_fast.cli.declared import UNNAMED_CONCEPTS
from zsu_fast.extras import require
from zsu_fast.version import __version__

CONCEPTS = "Concepts"


@one_line_errors
def concepts(
    *,
    model: opt.Model,
    images: Annotated[
        Path, opt.images("Labelled images of the class and of others: class folders, or .npz.", "--images", "-i")
    ],
    target: Annotated[str, typer.Option("--target", "-t", help="Class to explain: index or name.", show_default=False)],
    folders: Annotated[
        Path | None,
        opt.images(
            "Named concepts: a folder with a folder of images for each. Needs --random.", "--concepts", panel=CONCEPTS
        ),
    ] = None,
    random: Annotated[
        Path | None,
        opt.images("Images without any of these concepts, alike otherwise: a folder, or .npz.", panel=CONCEPTS),
    ] = None,
    bank: Annotated[Path | None, opt.file("Named concepts from a file that --save-bank wrote.", panel=CONCEPTS)] = None,
    save_bank: Annotated[
        Path | None,
        typer.Option(
            "--save-bank",
            metavar="FILE",
            help="Write the named concepts, for forget concept --bank.",
            rich_help_panel=CONCEPTS,
            show_default=False,
        ),
    ] = None,
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            "-l",
            metavar="NAME",
            help="Module whose input is looked at, for crops one that has places: a late convolution or block.",
            rich_help_panel=CONCEPTS,
            show_default="the classifier",
        ),
    ] = None,
    kind: Annotated[
        str,
        typer.Option(
            help="Concepts that nobody named: channels, or directions (factors of the relevance).",
            rich_help_panel=CONCEPTS,
            metavar="|".join(UNNAMED_CONCEPTS),
        ),
    ] = "channels",
    count: Annotated[int, typer.Option(min=1, max=24, help="Concepts to show.", rich_help_panel=CONCEPTS)] = 5,
    crops: Annotated[int, typer.Option(min=1, max=16, help="Crops of each.", rich_help_panel=CONCEPTS)] = 6,
    composite: Annotated[
        str, typer.Option("--composite", "-c", metavar="NAME", help="Rules of relevance.", rich_help_panel=CONCEPTS)
    ] = "epsilon_plus",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="NAME.png or NAME.svg: the picture; NAME.json beside it.",
            rich_help_panel=opt.OUTPUT,
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of whatever is drawn.", rich_help_panel=CONCEPTS)] = 0,
    weights: opt.Weights = None,
    device: opt.Device = "cpu",
    batch_size: opt.BatchSize = 16,
    classifier: opt.Classifier,
    force: opt.Force = False,
    talk: opt.Talk,
) -> None:
    r"""Show what a class is made of. The model is not changed.

    Concepts that nobody named are found by relevance: what at a layer speaks
    for the class and for no other, shown by the patches that it rests on most.
    Named ones are tested first: one whose images are told from the random ones
    no better than by chance is refused. A sparse layer on them says which speak
    for the class; it counts as an account of the model only where it answers
    about as well, and the command says whether it does.

    [bold]Examples[/]

      zsu-fast concepts timm:resnet18 -w mine.safetensors -i val/ -t zebra \
          --layer layer4 --out zebra.png

      zsu-fast concepts timm:resnet18 -w mine.safetensors -i val/ -t zebra \
          --concepts textures/ --random others/ --save-bank bank.safetensors
    """
    console = talk.console()
    if (folders is None) != (random is None):
        raise ValueError("--concepts and --random: give both, or neither")
    if folders is not None and bank is not None:
        raise ValueError("--bank: --concepts makes one; give one of the two")
    if save_bank is not None and folders is None:
        raise ValueError("--save-bank: needs --concepts and --random")
    check_outputs(out, save_bank, force)

    from zsu_fast import plot
    from zsu_fast.cli.concepts_run import read_folders, tables
    from zsu_fast.concepts import ConceptBank, concept_bank, explain_class
    from zsu_fast.report.files import write_text

    session = classifier.session(model, weights, device, batch_size, console.note)
    found = session.read_labelled(images, "--images")
    assert found.labels is not None
    (chosen,) = session.targets([target])
    pictures = session.tensor(found)
    with console.progress() as progress:
        named = None if bank is None else ConceptBank.load(bank)
        if folders is not None and random is not None:
            named = concept_bank(
                session.loaded.model, read_folders(session, folders), session.tensor(session.read(random, "--random")),
                batch_size=batch_size, seed=seed, progress=progress,
            )  # fmt: skip
        explanation = explain_class(
            session.loaded.model, (pictures, found.labels.to(pictures.device)), chosen, layer, bank=named, kind=kind,
            count=count, top=crops, composite=composite, batch_size=batch_size, seed=seed,
        )  # fmt: skip
    result = {"zsu_fast": __version__, "model": session.loaded.spec, "name": session.label(chosen)}
    result |= explanation.to_dict()
    files = {}
    if save_bank is not None and named is not None:
        named.save(save_bank)
        files["bank"] = str(save_bank)
    if out is not None:
        rows = [(one.name, one.share, one.other, session.photos(one.crops)) for one in explanation.found]
        plot.save(plot.concepts(rows, session.label(chosen)), out)
        files |= {"picture": str(out), "json": str(out.with_suffix(".json"))}
        write_text(json.dumps(result | {"files": files}, indent=2, allow_nan=False) + "\n", files["json"])
    for table in tables(explanation, session.label(chosen)):
        console.show(table)
    for path in files.values():
        console.show(f"wrote {path}")
    console.emit(result | {"files": files})


def check_outputs(out: Path | None, bank: Path | None, force: bool) -> None:
    """Refuse before the work."""
    if out is not None:
        if out.suffix.lower() not in (".png", ".svg"):
            raise ValueError(f"--out must end in .png or .svg, got {out}")
        require("matplotlib", "report")
    for name, paths in (("--out", [] if out is None else [out, out.with_suffix(".json")]),
                        ("--save-bank", [] if bank is None else [bank])):  # fmt: skip
        for path in paths:
            if not path.resolve().parent.is_dir():
                raise ValueError(f"{name}: {path.parent} is no folder")
            if path.exists() and not force:
                raise FileExistsError(f"{name}: {path} is there already (--force overwrites)")
