"""``zsu-fast depth``."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import EXIT_NOT_REACHED, one_line_errors
from zsu_fast.cli.declared import RELEARN_BY

ATTACKER = "The attacker"


def _setting(text: str, flag: str = "--relearn-by") -> tuple[str, float]:
    optimizer, _, rate = text.partition(":")
    known = dict(RELEARN_BY)
    try:
        if optimizer in known and 0 < float(rate) < math.inf:
            return optimizer, float(rate)
    except ValueError:
        pass
    raise ValueError(f"{flag}: expected {' or '.join(known)}, and a rate, such as adam:1e-4, got {text!r}")


@one_line_errors
def depth(
    *,
    model: opt.Model,
    weights: Annotated[
        Path,
        opt.file(
            "The edited weights: .safetensors, or a state dict of torch.save.", "--weights", "-w", check=opt.are_weights
        ),
    ],
    original: Annotated[Path, opt.file("The weights before the edit.", check=opt.are_weights)],
    lessons: Annotated[
        Path,
        opt.images("Labelled images that the attacker has, of the target and of other classes.", "--lessons", "-l"),
    ],
    images: Annotated[
        Path, opt.images("Labelled images that judge, other ones: class folders or .npz.", "--images", "-i")
    ],
    target: Annotated[
        str, typer.Option("--target", "-t", help="Class that was forgotten: index or name.", show_default=False)
    ],
    oracle: Annotated[
        Path | None, opt.file("Weights of the same net, retrained without the class.", check=opt.are_weights)
    ] = None,
    relearn_steps: Annotated[
        int, typer.Option(min=0, help="Mini-batches to relearn from; 0: leave that out.", rich_help_panel=ATTACKER)
    ] = 32,
    relearn_by: Annotated[
        list[str] | None,
        typer.Option(
            "--relearn-by",
            metavar="OPTIMIZER:RATE",
            help="Such as adam:1e-4 or sgd:0.1; may be repeated, the one that has most back counts.",
            rich_help_panel=ATTACKER,
            show_default=" ".join(f"{name}:{rate:g}" for name, rate in RELEARN_BY),
            callback=opt.refusing(_setting),
        ),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of every random choice.", rich_help_panel=ATTACKER)] = 0,
    device: opt.Device = "cpu",
    batch_size: opt.BatchSize = 64,
    classifier: opt.Classifier,
    talk: opt.Talk,
) -> None:
    r"""Attack the features of an edited model, and of the original: how deep did it forget?

    Prototype rows, nearest prototype, neighbours, a linear probe, a small MLP
    and relearning, all from the same --lessons, say what an attacker has back
    of the class.

    How deep is deep enough only a net can tell that was retrained without the
    class: with --oracle the verdict is "features", or the exit code is 3.

    [bold]Example[/]

      zsu-fast depth python:mynet:build -w edited/model.safetensors \
          --original mine.safetensors --oracle retrained.safetensors \
          --lessons few.npz --images test.npz --target cat
    """
    settings = [_setting(text) for text in relearn_by or ()] or RELEARN_BY
    console = talk.console()

    from zsu_fast.cli.models import load_model
    from zsu_fast.cli.tables import depth_table
    from zsu_fast.evaluate import depth as attack
    from zsu_fast.unlearn.verdict import judge_depth

    session = classifier.session(model, weights, device, batch_size, console.note)
    shown, judging = (
        session.read_labelled(path, option) for path, option in ((lessons, "--lessons"), (images, "--images"))
    )
    (wanted,) = session.targets([target])
    if shared := shown.shared_with(judging):
        console.note(f"{shared} of the {len(shown)} images of --lessons are among --images: the attacks will mislead")
    assert shown.labels is not None and judging.labels is not None

    before, retrained = (
        None if path is None else load_model(model, path, classes=classifier.classes, device=device).model
        for path in (original, oracle)
    )
    assert before is not None
    with console.progress() as progress:
        found = attack(
            session.loaded.model, before, (session.tensor(shown), shown.labels),
            (session.tensor(judging), judging.labels), wanted, oracle=retrained, relearn_steps=relearn_steps,
            relearn_by=settings, batch_size=batch_size, seed=seed, progress=progress,
        )  # fmt: skip
    verdict = judge_depth(f"class {session.label(wanted)}", found)
    console.show(depth_table(found, f"{session.loaded.spec}: {session.label(wanted)}"), verdict.sentence)
    console.emit(
        {
            "model": session.loaded.spec,
            "target": wanted,
            "lessons": len(shown),
            "images": len(judging),
            "verdict": verdict.to_dict(),
            "depth": found.to_dict(),
        }
    )
    if found.holds is not None and verdict.level != "features":
        raise typer.Exit(EXIT_NOT_REACHED)
