"""Language models with their tokenizers: ``hf:DIR``, ``python:package.module:callable``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from zsu_fast.cli.models import LoadedModel, called, files_beside, from_folder, shard_of
from zsu_fast.cli.parsing import LANGUAGE_SOURCES, parse_model
from zsu_fast.cli.preprocess import Preprocess
from zsu_fast.cli.weights import load_into, read_weights
from zsu_fast.evaluate.texts import Tokenizer
from zsu_fast.extras import require


def load_language_model(
    spec: str, weights: Path | None = None, *, device: str = "cpu", float32: bool = False
) -> tuple[LoadedModel, Tokenizer]:
    """A causal language model in evaluation mode, and its tokenizer.

    Args:
        spec: ``hf:DIR``, a local folder of transformers with model and tokenizer (nothing is downloaded, no code in it
            is run), or ``python:package.module:callable``, which returns both.
        weights: a file to load instead of the model's own.
        float32: convert weights of half precision.

    Raises:
        ValueError: a spec, folder or file that cannot be used. ImportError: transformers is missing (extra "models").
    """
    source, name = parse_model(spec, sources=LANGUAGE_SOURCES)
    state, metadata = read_weights(weights) if weights is not None else (None, {})
    model, tokenizer = _transformers(name, whole=state is None) if source == "hf" else _python(name)
    if float32:
        model = model.float()
    if state is not None:
        load_into(model, state, str(weights))
    told = f"{source}:{Path(name).expanduser().resolve().name if source == 'hf' else name}"
    file = None if weights is None else str(weights)
    # The configuration names the type of the numbers, which `float32` changes.
    beside = files_beside(Path(name).expanduser()) if source == "hf" and not float32 else {}
    model = model.to(torch.device(device)).eval()
    shard = shard_of(source, name, weights)
    return LoadedModel(model, Preprocess(), told, file, metadata, beside=beside, shard=shard), tokenizer


def _transformers(name: str, whole: bool) -> tuple[nn.Module, Any]:
    folder = Path(name).expanduser()
    transformers = require("transformers", "models")
    transformers.utils.logging.disable_progress_bar()  # of a second: commands show their own
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"hf:DIR: no tokenizer in {name!r}: {str(error).strip().splitlines()[0]}") from None
    return from_folder(transformers.AutoModelForCausalLM, folder, whole), tokenizer


def _python(name: str) -> tuple[nn.Module, Any]:
    found = called(name)
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], nn.Module)):
        raise ValueError(f"python:{name} must return a language model and its tokenizer, got {type(found).__name__}")
    return found
