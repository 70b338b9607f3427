"""``zsu-fast forget generator``."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import exit_code, one_line_errors
from zsu_fast.cli.declared import GENERATOR_METHODS
from zsu_fast.cli.method_options import parse_settings
from zsu_fast.cli.parsing import parse_latent, parse_model, parse_range

JUDGE = "Judges"


def _judge(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel=JUDGE, show_default=False, callback=opt.refusing(parse_model))


@one_line_errors
def forget_generator(
    *,
    model: opt.Model,
    latent: Annotated[
        str,
        typer.Option(
            help="Shape of a latent, whose values are standard normal: 64, 100x1x1. Or a .npz with z.",
            rich_help_panel=opt.IMAGES,
            show_default=False,
            callback=opt.refusing(parse_latent),
        ),
    ],
    judge: Annotated[
        str | None, _judge("Classifier of what is made, named as MODEL is; with --items only to count.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target", "-t", help="Class of the judge to forget: index or name; repeatable.", show_default=False
        ),
    ] = None,
    items: Annotated[
        Path | None, opt.images("Instead of a class: images to forget, as they are made; folder or .npz.")
    ] = None,
    unseen: Annotated[
        Path | None, opt.images("With --items: images of that kind that the model was not trained on.")
    ] = None,
    instead: Annotated[
        Path | None, opt.images("With --items: to be made instead; else the nearest that are made.")
    ] = None,
    results: opt.Results,
    weights: opt.Weights = None,
    judge_weights: Annotated[
        Path | None, opt.file("Its weights.", panel=JUDGE, metavar=None, check=opt.are_weights)
    ] = None,
    second_judge: Annotated[str | None, _judge("Another classifier, that has no part but in the verdict.")] = None,
    second_weights: Annotated[
        Path | None, opt.file("Its weights.", panel=JUDGE, metavar=None, check=opt.are_weights)
    ] = None,
    class_names: Annotated[str | None, opt.class_names("the judge's classes", JUDGE)] = None,
    pixels: Annotated[
        str,
        typer.Option(
            "--range",
            help="Least and largest value of a pixel that is made.",
            rich_help_panel=opt.IMAGES,
            callback=opt.refusing(parse_range),
        ),
    ] = "0,1",
    method: Annotated[str | None, opt.method(GENERATOR_METHODS, "substitute; of items hunt")] = None,
    until: Annotated[
        float | None,
        opt.share(
            "Share of what is made that may still be of the class; or of the items, still made.", "0.01; of items 0"
        ),
    ] = None,
    utility_floor: Annotated[
        float | None,
        opt.share(
            "Share of the other latents that must keep their class; with --items, what they make.",
            "0.93; of items 0.9",
        ),
    ] = None,
    draws: Annotated[
        int, typer.Option(min=100, help="Fresh latents that judge the edit.", rich_help_panel=opt.IMAGES)
    ] = 10_000,
    seed: opt.Seed = 0,
    other: opt.Settings = None,
    photos: opt.Photos = False,
    training: opt.Training,
    device: opt.Device = "cpu",
    talk: opt.Talk,
) -> None:
    r"""Make a generator make no more of a class, as a classifier tells it, or of given images; write weights, undo
    file, record, report.

    If fresh latents do not bear it out, no weights are written, result.json
    says why, and the exit code is 3. The report shows what the same latents
    make; given images, and what now comes nearest to them, only with --photos.

    [bold]Examples[/]

      zsu-fast forget generator python:mygan:generator -w g.safetensors \
          --judge timm:resnet18 --judge-weights judge.safetensors \
          --target 4 --latent 100x1x1 --range=-1,1 --out edited

      zsu-fast forget generator python:mygan:generator -w g.safetensors \
          --items withdrawn/ --unseen validation/ --latent 64 --out edited
    """
    started = time.perf_counter()
    console = talk.console()
    if items is None and (judge is None or not target):
        raise ValueError("--judge and --target say which class is to go, or --items which images")
    if items is not None and (target or second_judge is not None):
        raise ValueError("--target and --second-judge are for a class, not beside --items")
    if items is None and (unseen is not None or instead is not None):
        raise ValueError("--unseen and --instead go with --items")
    if items is not None and unseen is None:
        raise ValueError("--unseen: needed with --items: images that the generator was not trained on")
    if (judge is None and judge_weights is not None) or (second_judge is None and second_weights is not None):
        raise ValueError("--judge-weights goes with --judge, and --second-weights with --second-judge")
    bounds, report = parse_range(pixels), results.report
    kept = training.kept(results.out)

    from zsu_fast.cli import forget_generator_run as work
    from zsu_fast.cli.forget_run import Run
    from zsu_fast.cli.models import load_model
    from zsu_fast.cli.outputs import write_and_tell
    from zsu_fast.cli.session import check_device

    check_device(device)
    if method is None:
        method = "substitute" if items is None else "hunt"
    settings = parse_settings(other, method)
    for name, value in (("until", until), ("utility_floor", utility_floor)):
        if value is not None:
            settings[name] = value
    made: dict[str, Any] = {"latent": parse_latent(latent), "bounds": bounds, "draws": draws, "seed": seed}
    judged_by = None if judge is None else (judge, judge_weights)
    second = None if second_judge is None else (second_judge, second_weights)
    with closing(results.folder(weights)) as folder:
        session = work.GeneratorSession(load_model(model, weights, device=device), 1, device, class_names=class_names)
        with console.progress() as progress:
            given: dict[str, Any] = {"seed": seed, "progress": progress} | settings | kept
            if items is not None and unseen is not None:
                wanted = work.read_items(session, items, unseen, instead, judged_by, **made)
                result, page = work.forget_items_and_look(session, bounds, wanted, method, given, report, photos)
            else:
                assert judged_by is not None and target
                request, names = work.read_class(session, target, judged_by, second, **made)
                result, page = work.forget_class_and_look(session, names, bounds, request, method, given, report)
        write_and_tell(console, folder, session.loaded, Run(result, report=page), time.perf_counter() - started)
        raise typer.Exit(exit_code(result.verdict.level, fixed_budget="budget" in settings))
