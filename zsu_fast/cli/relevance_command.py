"""``zsu-fast relevance``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import one_line_errors
from zsu_fast.cli.declared import COMPOSITES

RULES, TEXTS = "Rules", "Texts"
MOST_TARGETS = 12


@one_line_errors
def relevance(
    *,
    model: opt.Model,
    images: Annotated[Path | None, opt.images("Images: a folder, class folders or .npz.", "--images", "-i")] = None,
    text: Annotated[
        list[str] | None,
        typer.Option(
            "--text",
            help="In place of images, for language models (hf:DIR): a text; repeat for several.",
            rich_help_panel=TEXTS,
            show_default=False,
        ),
    ] = None,
    position: Annotated[
        int | None,
        typer.Option(
            help="Token of the text at which --target is explained; from -1 downwards they count from the end.",
            rich_help_panel=TEXTS,
            show_default="-1, what comes next",
        ),
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            "-t",
            help="Class whose logit is explained, index or name; for texts a token, ' cat' or '#number'. Repeat for "
            "several, side by side.",
            rich_help_panel=RULES,
            show_default="what the model answers",
        ),
    ] = None,
    composite: Annotated[
        str,
        typer.Option(
            "--composite", "-c", metavar="NAME", help=f"Rules: {', '.join(COMPOSITES)}.", rich_help_panel=RULES
        ),
    ] = "epsilon",
    layers: Annotated[
        list[str] | None,
        typer.Option(
            "--layers",
            "-l",
            metavar="NAME",
            help="Only these layers: a name, or a pattern such as 'layer4.*'; repeat for several.",
            rich_help_panel=RULES,
            show_default="all",
        ),
    ] = None,
    check: Annotated[
        bool,
        typer.Option(
            "--check", help="Check conservation, on the first batch: what each layer kept.", rich_help_panel=RULES
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="NAME.png or NAME.svg: heatmaps; bars in NAME.layers.png and NAME.neurons.png, and with --check "
            "NAME.conservation.png. NAME.npz: all numbers. For texts NAME.html. Always NAME.json beside.",
            rich_help_panel=opt.OUTPUT,
            show_default=False,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Units to list for each layer.", rich_help_panel=opt.OUTPUT)] = 5,
    heatmaps: Annotated[
        int, typer.Option(min=1, max=100, help="Images to draw, the first ones.", rich_help_panel=opt.OUTPUT)
    ] = 8,
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Draw over the image, not beside it.", rich_help_panel=opt.OUTPUT)
    ] = False,
    cell: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pixels a side that are drawn as one; their relevance is summed.",
            rich_help_panel=opt.OUTPUT,
            show_default="64 cells or a few more a side",
        ),
    ] = None,
    weights: opt.Weights = None,
    device: opt.Device = "cpu",
    batch_size: opt.AnyBatchSize = 32,
    classifier: opt.Classifier,
    force: opt.Force = False,
    talk: opt.Talk,
) -> None:
    r"""Show which pixels, or tokens, layers and units an answer rests on. The model is not changed.

    Relevance is the logit of the class, shared out over the units of each
    layer and over the pixels: what speaks for the class is positive, what
    speaks against it negative. How it is shared out is the choice of the
    composite: epsilon tells what each unit contributes, epsilon_plus_flat
    draws clear heatmaps of convolutional networks, attnlrp and cp_lrp are for
    transformers.

    [bold]Examples[/]

      zsu-fast relevance timm:resnet18 -w mine.safetensors \
          --images cats/ --target 3 -c epsilon_plus_flat --out cats.png

      zsu-fast relevance hf:./vit --images pets/ --target cat --target dog \
          -c attnlrp --layers '*.heads' --out pets.svg

      zsu-fast relevance hf:./qwen --text "The capital of Styria is" \
          --target " Graz" -c attnlrp --out graz.html
    """
    console = talk.console()
    if composite not in COMPOSITES:
        raise ValueError(f"--composite must be one of {', '.join(COMPOSITES)}, got {composite!r}")
    if text:
        of_images = {"images": images, "check": check, "overlay": overlay, "cell": cell} | vars(classifier)
        for name, value in of_images.items():
            if value:
                raise ValueError(f"--text: --{name.replace('_', '-')} is for images alone")

        from zsu_fast.cli.relevance_run import composite_of
        from zsu_fast.cli.relevance_texts import explain_texts

        at, rules = -1 if position is None else position, composite_of(composite, None)
        told = explain_texts(
            console, model, text, target or [], at, composite, rules, layers,
            weights=weights, device=device, top=top, out=out, force=force,
        )  # fmt: skip
        console.emit(told)
        return
    if images is None or position is not None:
        raise ValueError("--images: expected them, or --text (and --position)")

    from zsu_fast.cli.relevance_files import RelevanceFiles
    from zsu_fast.cli.relevance_run import composite_of, find, fit, relevance_table

    files = None if out is None else RelevanceFiles(out, force, check)
    session = classifier.session(model, weights, device, opt.number(batch_size, 32), console.note)
    found = session.read(images, "--images")
    targets: list[int | None] = [*session.targets(target)] if target else [None]
    if files is not None and not files.arrays and len(targets) > MOST_TARGETS:
        raise ValueError(f"--target: pictures can show {MOST_TARGETS} targets, got {len(targets)}")
    rules = composite_of(composite, session.loaded.preprocess)
    if batch_size == "auto":
        fit(session, found, rules, layers)
    keep = 0 if files is None else len(found) if files.arrays else min(heatmaps, len(found))
    with console.progress() as progress:
        findings = find(session, found, targets, rules, layers, keep, check, progress)
        result = {"model": session.loaded.spec, "composite": composite, **findings.summary(top)}
        if files is not None:
            result["files"] = files.write(
                findings, result, session, found, overlay=overlay, cell=cell, all_layers=not layers, progress=progress
            )
    for remark in findings.remarks():
        console.note(remark)
    for told in result["targets"]:
        console.show(relevance_table(told, len(found), top))
    for title, books in zip(findings.titles, findings.books, strict=False):
        kept = ", ".join(f"{account} {value:.4g}" for account, value in books.totals.items())
        balance = "accounts balance" if books.ok else f"accounts do NOT balance, worst in layer {books.worst}"
        console.show(f"{title}: {balance}: logits {books.start:.4g}, input {books.input:.4g}; kept by {kept}")
    for path in result.get("files", {}).values():
        console.show(f"wrote {path}")
    console.emit(result)
