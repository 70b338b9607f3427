"""``zsu-fast relevance``."""

from __future__ import annotations

import inspect
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.markup import escape
from rich.table import Table
from torch import Tensor

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import Console, one_line_errors
from zsu_fast.cli.images import ImageSet
from zsu_fast.cli.preprocess import AnyPreprocess, Preprocess
from zsu_fast.cli.relevance_files import Findings, RelevanceFiles
from zsu_fast.cli.relevance_texts import explain_texts
from zsu_fast.cli.session import Session, open_session
from zsu_fast.evaluate.inference import Progress
from zsu_fast.lrp import COMPOSITES, Composite, Conservation
from zsu_fast.lrp import relevance as relevance_of

RULES, TEXTS = "Rules", "Texts"
MOST_TARGETS = 12


@one_line_errors
def relevance(
    model: opt.Model,
    images: Annotated[
        Path | None,
        typer.Option(
            "--images",
            "-i",
            help="Images: a folder, class folders or .npz.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ] = None,
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
    classes: opt.Classes = None,
    device: opt.Device = "cpu",
    batch_size: opt.AnyBatchSize = 32,
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
    console = Console(as_json, quiet)
    if text:
        of_images = {"--images": images, "--check": check, "--overlay": overlay, "--cell": cell, "--classes": classes}
        for name, value in (of_images | {"--mean": mean, "--std": std, "--size": size}).items():
            if value:
                raise ValueError(f"--text: {name} is for images alone")
        at, rules = -1 if position is None else position, _composite(composite, None)
        told = explain_texts(
            console, model, text, target or [], at, composite, rules, layers,
            weights=weights, device=device, top=top, out=out, force=force,
        )  # fmt: skip
        console.emit(told)
        return
    if images is None or position is not None:
        raise ValueError("--images: expected them, or --text (and --position)")
    files = None if out is None else RelevanceFiles(out, force, check)
    session = open_session(
        model, weights, classes=classes, device=device, batch_size=opt.number(batch_size, 32), mean=mean, std=std,
        size=size, class_names=class_names, class_map=class_map, note=console.note,
    )  # fmt: skip
    found = session.read(images, "--images")
    targets: list[int | None] = [*session.targets(target)] if target else [None]
    if files is not None and not files.arrays and len(targets) > MOST_TARGETS:
        raise ValueError(f"--target: pictures can show {MOST_TARGETS} targets, got {len(targets)}")
    rules = _composite(composite, session.loaded.preprocess)
    if batch_size == "auto":
        session.fit(found, partial(relevance_of, session.loaded.model, composite=rules, layers=layers))
    keep = 0 if files is None else len(found) if files.arrays else min(heatmaps, len(found))
    with console.progress() as progress:
        findings = _find(session, found, targets, rules, layers, keep, check, progress)
        result = {"model": session.loaded.spec, "composite": composite, **findings.summary(top)}
        if files is not None:
            result["files"] = files.write(
                findings, result, session, found, overlay=overlay, cell=cell, all_layers=not layers, progress=progress
            )
    for remark in findings.remarks():
        console.note(remark)
    for told in result["targets"]:
        console.show(_table(told, len(found), top))
    for title, books in zip(findings.titles, findings.books, strict=False):
        kept = ", ".join(f"{account} {value:.4g}" for account, value in books.totals.items())
        balance = "accounts balance" if books.ok else f"accounts do NOT balance, worst in layer {books.worst}"
        console.show(f"{title}: {balance}: logits {books.start:.4g}, input {books.input:.4g}; kept by {kept}")
    for path in result.get("files", {}).values():
        console.show(f"wrote {path}")
    console.emit(result)


def _find(
    session: Session,
    images: ImageSet,
    targets: list[int | None],
    composite: Composite,
    layers: list[str] | None,
    keep: int,
    check: bool,
    progress: Progress,
) -> Findings:
    """Relevance of all images, batch by batch; that of the pixels, which may be large, of the first ``keep``."""
    inputs: list[list[Tensor]] = [[] for _ in targets]
    neurons: list[dict[str, list[Tensor]]] = [{} for _ in targets]
    logits: list[Tensor] = []
    books: list[Conservation] = []
    done = 0
    for batch in images.batches(session.loaded.preprocess, session.batch_size):
        given = batch.to(session.device)
        noted = check and not logits
        results = relevance_of(
            session.loaded.model, given, targets, composite=composite, layers=layers, conservation=noted
        )
        books = [result.check() for result in results] if noted else books
        logits.append(results[0].logits.float().cpu())
        for place, result in enumerate(results):
            if done < keep:
                inputs[place].append(result.input[: keep - done].float().cpu())
            for name, values in result.neurons.items():
                neurons[place].setdefault(name, []).append(values.float().cpu())
        done += len(batch)
        progress(done, len(images), "relevance")
    return Findings(
        targets=targets,
        titles=_titles(targets, session.names),
        inputs=[torch.cat(parts) for parts in inputs] if keep else [],
        neurons=[{name: torch.cat(parts) for name, parts in found.items()} for found in neurons],
        logits=torch.cat(logits),
        books=books,
    )


def _titles(targets: list[int | None], names: dict[int, str]) -> list[str]:
    """What to call the targets. Some classes of ImageNet share a name: they get their index too."""
    found = ["answer" if target is None else names.get(target, f"class {target}") for target in targets]
    return [f"{t} ({i})" if found.count(t) > 1 else t for t, i in zip(found, targets, strict=True)]


def _composite(name: str, preprocess: AnyPreprocess | None) -> Composite:
    """A composite by name; bounds of the input, where one asks for them, are black and white after normalisation."""
    if name not in COMPOSITES:
        raise ValueError(f"--composite must be one of {', '.join(COMPOSITES)}, got {name!r}")
    if "low" not in inspect.signature(COMPOSITES[name]).parameters:
        return COMPOSITES[name]()
    if not isinstance(preprocess, Preprocess):
        hidden = "which texts have not" if preprocess is None else "and the model's own preprocessing hides them"
        raise ValueError(f"--composite {name} needs the bounds of the input, {hidden}")
    bounds = [[(value - m) / s for m, s in zip(preprocess.mean, preprocess.std, strict=True)] for value in (0.0, 1.0)]
    return COMPOSITES[name](*bounds)


def _table(told: dict[str, Any], images: int, top: int) -> Table:
    logit = "" if told["mean_logit"] is None else f", logit {told['mean_logit']:.4g}"
    title = f"{told['name']}: relevance per layer, mean over {images} images{logit}"
    table = Table(title=escape(title), title_justify="left", title_style="bold")
    listed = f"top {top} units"
    for column in ("layer", "units", "sum", listed):
        table.add_column(column, justify="left" if column in ("layer", listed) else "right", no_wrap=True)
    for layer in told["layers"]:
        units = "  ".join(f"{pick['unit']}:{_short(pick['relevance'], 3)}" for pick in layer["top"])
        table.add_row(escape(layer["layer"]), str(layer["units"]), _short(layer["sum"], 4), units)
    return table


def _short(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}g}"
