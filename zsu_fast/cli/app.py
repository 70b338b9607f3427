"""The application: its commands and what its help teaches."""

from __future__ import annotations

from typing import Annotated

import typer

from zsu_fast.cli import (
    benchmark_command,
    concepts_command,
    demo_command,
    depth_command,
    evaluate_command,
    forget_command,
    forget_concept_command,
    forget_generator_command,
    forget_instances_command,
    forget_kinds,
    forget_requests_command,
    forget_text_command,
    info_command,
    ledger_command,
    relevance_command,
    restore_command,
    verify_command,
)
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


forget_app = typer.Typer(cls=forget_kinds.ForgetKinds)
forget_app.command("class")(forget_command.forget)
forget_app.command("instances")(forget_instances_command.forget_instances)
forget_app.command("concept")(forget_concept_command.forget_concept)
forget_app.command("text")(forget_text_command.forget_text)
forget_app.command("generator")(forget_generator_command.forget_generator)
forget_app.command("requests")(forget_requests_command.forget_requests)
app.add_typer(
    forget_app,
    name="forget",
    help="Make a model forget a class (or forget instances, concept, text, generator, requests).",
)
app.command("evaluate")(evaluate_command.evaluate)
app.command("depth")(depth_command.depth)
app.command("restore")(restore_command.restore)
app.command("verify")(verify_command.verify)
app.command("ledger")(ledger_command.ledger)
app.command("relevance")(relevance_command.relevance)
app.command("concepts")(concepts_command.concepts)
app.command("info")(info_command.info)
app.command("benchmark")(benchmark_command.run_benchmark)
app.command("demo")(demo_command.demo)
