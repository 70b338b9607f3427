"""``zsu-fast relevance --text``: which tokens a word rests on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from zsu_fast import plot
from zsu_fast.cli.console import Console
from zsu_fast.cli.language_models import load_language_model
from zsu_fast.cli.relevance_files import number, strongest
from zsu_fast.evaluate.texts import Tokenizer
from zsu_fast.lrp import Composite, relevance
from zsu_fast.report.files import write_text
from zsu_fast.version import __version__


def explain_texts(
    console: Console,
    spec: str,
    texts: Sequence[str],
    targets: Sequence[str],
    position: int,
    composite: str,
    rules: Composite,
    layers: list[str] | None,
    *,
    weights: Path | None,
    device: str,
    top: int,
    out: Path | None,
    force: bool,
) -> dict[str, Any]:
    """What is found, as JSON; shown, and written to `out`, NAME.html, with NAME.json beside.

    Raises:
        ValueError: a target that is no token, a text without any, a file of another kind.
        FileExistsError: one of the files is there and ``force`` is not given.
    """
    files = [] if out is None else [out, out.with_suffix(".json")]
    if out is not None and out.suffix.lower() != ".html":
        raise ValueError(f"--out must end in .html for texts, got {out}")
    for file in files:
        if file.exists() and not force:
            raise FileExistsError(f"--out: {file} is there already (--force overwrites)")
    loaded, tokenizer = load_language_model(spec, weights, device=device)
    wanted: list[int | None] = [_token(tokenizer, target) for target in targets]
    wanted = wanted or [None]
    told: list[dict[str, Any]] = []
    shown = []
    with console.progress() as progress:
        for done, text in enumerate(texts, 1):
            tokens = tokenizer.encode(text)
            if not tokens:
                raise ValueError(f"--text: {text!r} has no tokens")
            words = [tokenizer.decode([token]) for token in tokens]
            found = relevance(
                loaded.model,
                {"input_ids": torch.tensor([tokens], device=device)},
                [(position, token) for token in wanted],
                composite=rules,
                layers=layers,
            )
            maps, of_targets = {}, []
            for token, each in zip(wanted, found, strict=True):
                chosen = int(each.logits.argmax()) if token is None else token
                named = repr(tokenizer.decode([chosen]))
                maps[named] = each.input
                of_targets.append({
                    "token": chosen,
                    "text": tokenizer.decode([chosen]),
                    "logit": number(each.logits[0, chosen]),
                    "relevance": [number(value) for value in each.input[0]],
                    "layers": [{"layer": name, **strongest(v[0], top)} for name, v in each.neurons.items()],
                })  # fmt: skip
            shown.append(plot.text(maps, words))
            told.append({"text": text, "tokens": words, "targets": of_targets})
            progress(done, len(texts), "relevance")
    for drawn in shown:
        console.show(drawn)
    settings = {"model": loaded.spec, "composite": composite, "position": position}
    result: dict[str, Any] = {"zsu_fast": __version__, **settings, "texts": told}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        plot.TextMap([passage for drawn in shown for passage in drawn.passages]).save(out)
        result["files"] = {"page": str(out), "json": str(files[1])}
        write_text(json.dumps(result, indent=2, allow_nan=False) + "\n", files[1])
        for file in files:
            console.show(f"wrote {file}")
    return result


def _token(tokenizer: Tokenizer, target: str) -> int:
    """The number of a token, from its text, or from "#" and the number."""
    if target.startswith("#") and target[1:].isdigit():
        return int(target[1:])
    tokens = tokenizer.encode(target, add_special_tokens=False)
    if len(tokens) != 1:
        pieces = ", ".join(f"{tokenizer.decode([token])!r} (#{token})" for token in tokens) or "none"
        raise ValueError(f"--target: expected one token, {target!r} is {len(tokens)}: {pieces}")
    return tokens[0]
