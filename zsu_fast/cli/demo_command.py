"""``zsu-fast demo``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import exit_code, one_line_errors

if TYPE_CHECKING:
    from zsu_fast.demo import DemoResult


@one_line_errors
def demo(
    *,
    digit: Annotated[int, typer.Option(min=0, max=9, help="The digit to forget.")] = 3,
    seed: Annotated[int, typer.Option(help="Of the training and of the split.")] = 0,
    out: Annotated[Path, typer.Option("--out", "-o", help="Where report and patch go.")] = Path("zsu-fast-demo"),
    talk: opt.Talk,
) -> None:
    """Watch a small network forget a digit, and get it back bit for bit.

    Needs no download: the 1,797 real digits ship with scikit-learn. Trains a
    small convolutional network, lets it forget one digit from three dozen
    unseen images of it, writes a report and the patch, and reverts it.

    [bold]Example[/]

      zsu-fast demo --digit 7
    """
    console = talk.console()

    from zsu_fast.demo import run_demo

    with console.progress() as progress:
        result = run_demo(digit, seed, out, progress)
    console.show(*_told(result))
    console.emit(result.to_dict())
    if not result.restored:
        raise RuntimeError("the reverted network differs from the original")
    raise typer.Exit(exit_code(result.result.verdict.level))


def _told(result: DemoResult) -> list[Any]:
    from zsu_fast.cli.tables import before_after

    judged = sum(result.before.counts.values())
    title = f"{judged} digits that neither trained nor edited the network"
    table = before_after(title, result.before, result.after, result.probe_before, result.probe_after)
    verdict = "bit for bit what it was" if result.restored else "NOT what it was"
    return [
        result.result.summary(),
        "",
        table,
        "The linear probe asks whether the class can still be read off the features.",
        "",
        f"report  {result.files['report']}",
        f"patch   {result.files['patch']}, loaded and reverted: the network is {verdict}",
        *(f"  {name:9s} SHA-256 {digest[:32]}..." for name, digest in result.digests.items()),
        f"forget took {result.forget_seconds:.2f} s of {result.seconds:.1f} s",
    ]
