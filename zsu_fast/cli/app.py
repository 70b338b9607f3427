"""The application: its commands and what its help teaches."""

from __future__ import annotations

from typing import Annotated

import typer

from zsu_fast.cli.lazy import Group, add_command
from zsu_fast.version import __version__

HELP = r"""
Make a trained image classifier forget classes, without its training data
and without training.

A few dozen unseen images of the class are enough: the neurons that carry it
are found by layer-wise relevance propagation, their paths are masked in
place, and every change is recorded so that it can be undone bit for bit.

[bold]Start here[/]

  zsu-fast demo                       a small network forgets a digit

  zsu-fast forget timm:resnet18 -w mine.safetensors --target 3 \
      --probes cats/ --eval test.npz --out edited

  zsu-fast restore edited             the weights as they were, verified

[bold]Exit codes[/]

  0    done

  1    something failed (--debug shows where)

  2    bad usage or input

  3    the aim could not be reached, the model is as it was; or a check failed

  4    edited, but the images are too few to judge it

  130  interrupted
"""

app = typer.Typer(
    cls=Group,
    help=HELP,
    rich_markup_mode="rich",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"zsu-fast {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


COMMANDS = {
    "forget": (
        "forget_kinds:app",
        "Make a model forget a class (or forget instances, concept, text, generator, requests).",
    ),
    "evaluate": ("evaluate_command:evaluate", "Measure what a model knows of a class and of the others."),
    "depth": (
        "depth_command:depth",
        "Attack the features of an edited model, and of the original: how deep did it forget?",
    ),
    "restore": (
        "restore_command:restore",
        "Undo an edit: write the weights as they were, bit for bit, and verify their hash.",
    ),
    "verify": (
        "verify_command:verify",
        "Check a result: every hash, and that the model is the original plus exactly the recorded edits.",
    ),
    "ledger": (
        "ledger_command:ledger",
        "Show the ledger of a queue of requests: status, verdict and evidence of each, hashes before and after.",
    ),
    "relevance": (
        "relevance_command:relevance",
        "Show which pixels, or tokens, layers and units an answer rests on. The model is not changed.",
    ),
    "concepts": ("concepts_command:concepts", "Show what a class is made of. The model is not changed."),
    "info": ("info_command:info", "Say what is installed, what a patch did, or what a model is made of."),
    "benchmark": (
        "benchmark_command:run_benchmark",
        "Compare methods: models x classes x methods x seeds, each beside the original and a retrained model.",
    ),
    "demo": ("demo_command:demo", "Watch a small network forget a digit, and get it back bit for bit."),
}
for name, (where, line) in COMMANDS.items():
    add_command(app, name, where, line)
