"""What ``zsu-fast forget`` can forget."""

from __future__ import annotations

from difflib import get_close_matches
from typing import Any

import typer

from zsu_fast.cli.lazy import Group, add_command

PLAIN, QUEUE = "class", "requests"


class ForgetKinds(Group):
    """`forget MODEL ...`, as it was before there were other kinds, is `forget class MODEL ...`.

    With `--requests FILE`, which has the kinds, it is `forget requests MODEL ...`. A word that is nearly a kind is
    refused with the kind's name: models have a colon.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        named = args and args[0][:1].isalpha() and ":" not in args[0] and get_close_matches(args[0], self.commands)
        queued = any(arg.partition("=")[0] == "--requests" for arg in args)
        return super().parse_args(ctx, args if named else [QUEUE if queued else PLAIN, *args])


KINDS = {
    PLAIN: (
        "forget_command:forget",
        "Make a model forget a class; write the weights, the undo file, the record and a report.",
    ),
    "instances": (
        "forget_instances_command:forget_instances",
        "Make a model forget single training images; write the weights, the undo file, the record and a report.",
    ),
    "concept": (
        "forget_concept_command:forget_concept",
        "Make the features forget a concept; write the weights, the undo file, the record and a report.",
    ),
    "text": (
        "forget_text_command:forget_text",
        "Make a language model forget what it says of something; write weights, undo file, record and a report.",
    ),
    "generator": (
        "forget_generator_command:forget_generator",
        "Make a generator make no more of a class, as a classifier tells it, or of given images; write weights, undo "
        "file, record, report.",
    ),
    QUEUE: (
        "forget_requests_command:forget_requests",
        "Carry out a queue of requests, one after the other, on one model; into one folder, with a ledger.",
    ),
}
app = typer.Typer(cls=ForgetKinds, rich_markup_mode="rich")
for kind, (where, line) in KINDS.items():
    add_command(app, kind, where, line)
