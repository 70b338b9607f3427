"""``zsu-fast forget``."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Annotated, Any

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import exit_code, one_line_errors
from zsu_fast.cli.declared import BASELINES
from zsu_fast.cli.method_options import of_method, parse_settings
from zsu_fast.cli.parsing import count_or_share
from zsu_fast.cli.torchrun import in_all_processes


@one_line_errors
@in_all_processes
def forget(
    *,
    model: opt.Model,
    target: Annotated[
        list[str],
        typer.Option("--target", "-t", help="Class to forget: index or name; repeatable.", show_default=False),
    ],
    probes: Annotated[
        Path | None,
        opt.images(
            "Unseen images of the class, a few dozen: a folder of them, class folders, or .npz (of labelled ones "
            "those of the target are taken).",
            "--probes",
            "-p",
        ),
    ] = None,
    synthetic: Annotated[
        str | None,
        typer.Option(
            "--synthetic",
            metavar="CxHxW",
            help="Without images: synthesise them from the model, for pictures of that size, as 3x32x32. What is "
            "reached is then not judged on real images, but for --eval.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
        ),
    ] = None,
    results: opt.Results,
    weights: opt.Weights = None,
    retain: Annotated[
        Path | None, opt.images("Images of other classes, to guard them (with labels or without).")
    ] = None,
    evaluation: Annotated[
        Path | None,
        opt.images(
            "Labelled images to judge the model on, before and after; none of the probes should be among them.",
            "--eval",
        ),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            help="lra-npp: paths into the classifier. channels: units of any layers. deep: teaches late layers, so "
            "that the features forget too (needs --retain). poison: learns the class as another one, from labelled "
            "training images (--probes and --retain); for the report its parts are measured one by one (not with "
            "--set ablation=false). To compare with, baselines of the field: "
            f"{', '.join(BASELINES)}. Other packages add theirs.",
            rich_help_panel=opt.METHOD,
        ),
    ] = "lra-npp",
    budget: Annotated[str | None, of_method("budget", callback=opt.refusing(count_or_share))] = None,
    until: Annotated[float | None, of_method("until", min=0, max=1)] = None,
    utility_floor: Annotated[float | None, of_method("utility_floor", min=0, max=1)] = None,
    k: Annotated[str | None, of_method("k", "--k", callback=opt.refusing(count_or_share))] = None,
    mode: Annotated[str | None, of_method("mode")] = None,
    strength: Annotated[float | None, of_method("strength")] = None,
    path: Annotated[str | None, of_method("path")] = None,
    score: Annotated[str | None, of_method("score")] = None,
    scope: Annotated[str | None, of_method("scope")] = None,
    layers: Annotated[list[str] | None, of_method("layers", "--layer")] = None,
    composite: Annotated[str | None, of_method("composite")] = None,
    memory: Annotated[str | None, of_method("memory")] = None,
    preset: Annotated[str | None, of_method("preset")] = None,
    authors_compat: Annotated[bool, of_method("authors_compat", "--authors-compat")] = False,
    seed: Annotated[int, of_method("seed")] = 0,
    other: opt.Settings = None,
    linear_probe: Annotated[
        bool,
        typer.Option(
            "--linear-probe",
            help="Also ask the features, before and after (on halves of --eval).",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = False,
    front: Annotated[
        bool,
        typer.Option(
            "--front",
            help="Also measure edits of other sizes, on --eval: what each leaves and costs (result.json, report).",
            rich_help_panel=opt.OUTPUT,
        ),
    ] = False,
    photos: opt.Photos = False,
    training: opt.Training,
    device: opt.Device = "cpu",
    batch_size: Annotated[Any, of_method("batch_size", panel=opt.MODEL, **opt.SIZE_OR_AUTO)] = None,
    classifier: opt.Classifier,
    talk: opt.Talk,
) -> None:
    r"""Make a model forget a class; write the weights, the undo file, the record and a report.

    The folder then holds model.safetensors, patch.safetensors, result.json and
    report.html. If the aim cannot be reached, no weights are written,
    result.json says why, and the exit code is 3. If the images are too few to
    judge the edit it is 4: 29 of the class, best as --eval, are enough.

    Single training images: zsu-fast forget instances --help; what images have
    in common, whatever their class: zsu-fast forget concept --help; what a
    language model says: zsu-fast forget text --help; what a generator makes:
    zsu-fast forget generator --help. Many requests, one after
    the other: zsu-fast forget requests --help.

    [bold]Examples[/]

      zsu-fast forget timm:resnet18 -w mine.safetensors -t 3 --probes cats/

      zsu-fast forget python:mynet:build -w w.safetensors -t cat \
          --probes probes.npz --eval test.npz --linear-probe --out edited

      zsu-fast forget hf:./vit -t 7 --probes val/ --method channels \
          --retain others.npz --until 0.1 --utility-floor 0.9

      zsu-fast forget timm:resnet18 -w mine.safetensors -t 3 --synthetic 3x224x224

      torchrun --nproc-per-node 4 -m zsu_fast forget hf:./vit -t 7 \
          --probes val/ --device cuda
    """
    started = time.perf_counter()
    console = talk.console()
    kept = training.kept(results.out)
    for name, asked in (("--linear-probe", linear_probe), ("--front", front)):
        if asked and evaluation is None:
            raise ValueError(f"{name} needs --eval: labelled images of all classes")
    source = probes if synthetic is None else synthetic
    if source is None or (probes is not None and synthetic is not None):
        raise ValueError("one of --probes (images of the class) and --synthetic (none) must be given")

    from zsu_fast.cli.forget_run import read_forget_images, run_forget
    from zsu_fast.cli.outputs import write_and_tell
    from zsu_fast.cli.processes import current
    from zsu_fast.unlearn.group import ALONE

    others = parse_settings(other, method)
    group = current()
    with ExitStack() as stack:
        folder = results.folder(weights) if group.rank == 0 else None
        if folder is not None:
            stack.enter_context(closing(folder))
        for name, given_so in (("--linear-probe", linear_probe), ("--front", front), ("--synthetic", synthetic)):
            if given_so and group is not ALONE:
                raise ValueError(f"{name}: is for one process, not under torchrun")
        session = classifier.session(model, weights, device, opt.number(batch_size, 64), console.note)
        session.sources = {}
        images = read_forget_images(session, target, source, retain, evaluation, seed)
        for warning in images.warnings:
            console.note(warning)
        given = {
            "k": count_or_share(k, "--k"),
            "budget": count_or_share(budget, "--budget"),
            "until": until,
            "utility_floor": utility_floor,
            "mode": mode,
            "strength": strength,
            "path": path,
            "score": score,
            "scope": scope,
            "layers": layers or None,
            "composite": composite,
            "memory": memory,
            "preset": preset,
            "authors_compat": authors_compat or None,
            "seed": seed,
            "batch_size": batch_size,
        }
        settings = {"method": method} | {name: value for name, value in given.items() if value is not None}
        settings |= others | kept
        with console.progress() as progress:
            run = run_forget(
                session, images, settings, linear_probe=linear_probe, front=front, report=results.report, photos=photos,
                progress=progress,
            )  # fmt: skip
        if folder is not None:
            write_and_tell(console, folder, session.loaded, run, time.perf_counter() - started)
        raise typer.Exit(exit_code(run.result.verdict.level, fixed_budget=budget is not None))
