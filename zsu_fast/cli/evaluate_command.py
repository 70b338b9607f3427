"""``zsu-fast evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import one_line_errors

TESTS = "Tests of what is left"


@one_line_errors
def evaluate(
    *,
    model: opt.Model,
    images: Annotated[Path, opt.images("Labelled images: class folders or .npz.", "--images", "-i")],
    target: Annotated[
        list[str],
        typer.Option(
            "--target", "-t", help="Class that counts as forgotten: index or name; repeatable.", show_default=False
        ),
    ],
    linear_probe: Annotated[
        bool,
        typer.Option(
            "--linear-probe",
            help="Also fit a linear probe on the features (half to train, half to test).",
            rich_help_panel=TESTS,
        ),
    ] = False,
    relearn: Annotated[
        Path | None,
        opt.images(
            "Also fine-tune a copy of the model on these labelled images and watch the class return, judged on "
            "--images. A few of every class: few-shot relearning. None of the target: the retain-only test.",
            panel=TESTS,
        ),
    ] = None,
    relearn_steps: Annotated[
        int,
        typer.Option(
            min=1, help="Mini-batches to learn from (at most --batch-size images each).", rich_help_panel=TESTS
        ),
    ] = 64,
    learning_rate: Annotated[float, typer.Option(help="Of Adam, for --relearn.", rich_help_panel=TESTS)] = 1e-4,
    reference: Annotated[
        float | None,
        opt.share(
            "Accuracy of the original model on the class: --relearn then tells after how many steps 95 % of it "
            "are back.",
            False,
            TESTS,
        ),
    ] = None,
    members: Annotated[
        Path | None,
        opt.images(
            "Also attack the model: can these labelled images, which it was trained on, be told from --images, "
            "which it was not? Of the target and of other classes.",
            panel=TESTS,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice in the tests.", rich_help_panel=TESTS)] = 0,
    weights: opt.Weights = None,
    device: opt.Device = "cpu",
    batch_size: opt.AnyBatchSize = 256,
    classifier: opt.Classifier,
    talk: opt.Talk,
) -> None:
    r"""Measure what a model knows of a class and of the others.

    Images are class folders, named by class index or class name, or a .npz with
    uint8 images (N, H, W, C) under "images" or "x" and labels under "labels"
    or "y".

    A class that is gone from the answers may still be there: --linear-probe asks
    the features, --relearn how fast it returns, --members whether its training
    images stand out. Run them on the original model too: only the difference
    tells something.

    [bold]Examples[/]

      zsu-fast evaluate timm:resnet18 -w edited/model.safetensors \
          --images test.npz --target 3

      zsu-fast evaluate python:mynet:build --images val/ --target cat --json

      zsu-fast evaluate python:mynet:build -w edited/model.safetensors \
          -i test.npz -t 3 --linear-probe --relearn few.npz --members train.npz
    """
    console = talk.console()
    if reference is not None and relearn is None:
        raise ValueError("--reference needs --relearn: it is what the class has to come back to")
    if reference == 0.0:
        raise ValueError("--reference must be above 0: a class that the original model did not know cannot come back")

    from zsu_fast.cli.evaluate_run import attack_class, relearn_class
    from zsu_fast.cli.tables import before_after, membership_table, per_class, relearning_table

    session = classifier.session(model, weights, device, opt.number(batch_size, 256), console.note)
    found = session.read_labelled(images, "--images")
    if batch_size == "auto":
        session.fit(found, session.loaded.model)
    lessons = None if relearn is None else session.read_labelled(relearn, "--relearn")
    trained = None if members is None else session.read_labelled(members, "--members")
    targets = session.targets(target)
    for option, others in (("--relearn", lessons), ("--members", trained)):
        if others is not None and (shared := others.shared_with(found)):
            console.note(f"{shared} of the {len(others)} images of {option} are among --images: that test will mislead")
    with console.progress() as progress:
        result, probe = session.evaluate(found, targets, progress, "evaluate", seed if linear_probe else None)
        curve, attacked = None, None
        if lessons is not None:
            curve = relearn_class(session, lessons, found, targets, relearn_steps, learning_rate, seed, progress)
        if trained is not None:
            attacked = attack_class(session, trained, found, targets, seed, progress)
    console.show(before_after(f"{model}", None, result, None, probe), per_class(result, session.names))
    report: dict[str, Any] = {
        "model": session.loaded.spec,
        "images": len(found),
        "evaluation": result.to_dict(),
        "linear_probe": None if probe is None else probe.to_dict(),
        "relearning": None,
        "membership": None,
    }
    if curve is not None:
        time = None if reference is None else curve.relearn_time(reference)
        console.show(relearning_table(curve, reference, time))
        report["relearning"] = curve.to_dict() | {"reference": reference, "relearn_time": time}
    if attacked is not None:
        console.show(membership_table(attacked))
        report["membership"] = {name: one.to_dict() for name, one in attacked.items()}
    console.emit(report)
