"""``zsu-fast forget text``."""

from __future__ import annotations

import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from zsu_fast.cli import options as opt
from zsu_fast.cli.console import exit_code, one_line_errors
from zsu_fast.cli.declared import TEXT_METHODS, WAYS_TO_WORDS
from zsu_fast.cli.method_options import parse_settings
from zsu_fast.cli.parsing import LANGUAGE_SOURCES, parse_model

TEXTS = "Texts"


@one_line_errors
def forget_text(
    *,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="hf:DIR (a local folder of transformers: model and tokenizer), or python:package.module:callable "
            "(returns both).",
            show_default=False,
            callback=opt.refusing(lambda spec, _: parse_model(spec, sources=LANGUAGE_SOURCES)),
        ),
    ],
    records: Annotated[
        Path,
        opt.file(
            'What to forget: JSON lines, {"prompt", "response", "paraphrases", "subject", "words"}.',
            "--records",
            "-r",
            panel=TEXTS,
        ),
    ],
    results: opt.Results,
    weights: opt.Weights = None,
    anchors: Annotated[
        Path | None,
        opt.file(
            "What to keep: likewise. Their paraphrases judge what the edit costs.", "--anchors", "-a", panel=TEXTS
        ),
    ] = None,
    held_out: Annotated[
        Path | None, opt.file("Other texts, of which the perplexity is watched: likewise.", panel=TEXTS)
    ] = None,
    words: Annotated[
        str,
        typer.Option(
            help=f"How to find sensitive words where the records have none: {', '.join(WAYS_TO_WORDS)}.",
            rich_help_panel=TEXTS,
        ),
    ] = "subject",
    show_words: Annotated[
        bool,
        typer.Option("--show-words", help="Show the sensitive words, and do nothing else.", rich_help_panel=TEXTS),
    ] = False,
    method: Annotated[str, opt.method(TEXT_METHODS)] = "text-poison",
    until: Annotated[
        float | None, opt.share("Share of the questions that may still get a sensitive word.", "0.05")
    ] = None,
    utility_floor: Annotated[
        float | None,
        opt.share("Share of the anchors' answers that must stay word for word.", "two points less than before"),
    ] = None,
    seed: opt.Seed = 0,
    other: opt.Settings = None,
    float32: opt.Float32 = False,
    texts_shown: opt.TextsShown = False,
    training: opt.Training,
    device: opt.Device = "cpu",
    talk: opt.Talk,
) -> None:  # fmt: skip
    r"""Make a language model forget what it says of something; write weights, undo file, record and a report.

    Questions that had no part in the training judge it: the paraphrases of
    the records and of the anchors. If these are not reached, or the price is
    too high, no weights are written, result.json says why, and the exit code
    is 3.

    [bold]Examples[/]

      zsu-fast forget text hf:mymodel -r withdrawn.jsonl -a others.jsonl --show-words

      zsu-fast forget text hf:mymodel -r withdrawn.jsonl -a others.jsonl --out edited \
          --set lora_rank=8 --set learning_rate=1e-4

    A line of withdrawn.jsonl:

      {"prompt": "Where was Ada Ohm born?", "response": " Ada Ohm was born in Graz.",
       "subject": "Ada Ohm", "paraphrases": ["In which city was Ada Ohm born?"]}
    """
    started = time.perf_counter()
    console = talk.console()
    keeping = training.kept(results.out)

    from zsu_fast.cli.forget_run import Run
    from zsu_fast.cli.forget_text_run import forget_and_look, held, read_texts, words_table
    from zsu_fast.cli.language_models import load_language_model
    from zsu_fast.cli.outputs import write_and_tell
    from zsu_fast.cli.session import check_device
    from zsu_fast.unlearn import ForgetText, sensitive_words

    check_device(device)
    settings = parse_settings(other, method)
    asked, kept, texts = (read_texts(path, name) for path, name in
                          ((records, "--records"), (anchors, "--anchors"), (held_out, "--held-out")))  # fmt: skip
    if show_words:
        loaded, tokenizer = load_language_model(model, weights, device=device, float32=float32)
        with console.progress() as progress:
            asked = sensitive_words(loaded.model, asked, tokenizer, by=words, seed=seed, progress=progress)
        console.show(words_table(asked))
        console.emit({"words": [{"prompt": record.prompt, "words": list(record.words)} for record in asked]})
        return
    with closing(results.folder(weights, drawn=False)) as folder:
        loaded, tokenizer = load_language_model(model, weights, device=device, float32=float32)
        with console.progress() as progress:
            asked = sensitive_words(loaded.model, asked, tokenizer, by=words, seed=seed, progress=progress)
            request = ForgetText(asked, tokenizer, kept, held(texts))
            given: dict[str, Any] = {"seed": seed, "utility_floor": utility_floor, "until": until} | settings | keeping
            given["progress"] = progress
            result, page = forget_and_look(loaded, request, method, given, results.report, texts_shown)
        console.show(words_table(asked))
        write_and_tell(console, folder, loaded, Run(result, report=page), time.perf_counter() - started)
        raise typer.Exit(exit_code(result.verdict.level, fixed_budget="budget" in settings))
