"""Language models: relevance of the tokens beside LXT and beside the plain gradient, in one run.

    python -m bench.language --json bench/results/language.json

Models of transformers with random weights, one text, the logit of one token at its end. Everything computes the logits
of that position alone, weights frozen. LXT patches classes; that it does so anew for each call takes well below a
millisecond. Before anything is timed, relevance must be that of LXT.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.measure import time_interleaved
from bench.parts import run_parts
from tests import peers
from zsu_fast import relevance

VOCABULARY, SECONDS = 8000, 4.0
PAGE, BEGIN, END = Path("docs/language-models.md"), "<!-- language: begin -->", "<!-- language: end -->"
FAMILIES: dict[str, dict[str, Any]] = {
    "Llama": {
        "hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    "GPT2": {"n_embd": 256, "n_layer": 6, "n_head": 8},
}  # fmt: skip
LENGTHS = (64, 512)
Row = dict[str, Any]


def model_of(family: str) -> nn.Module:
    transformers = peers.import_transformers()
    torch.manual_seed(0)
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    config = getattr(transformers, f"{family}Config")(vocab_size=VOCABULARY, **ends, **FAMILIES[family])
    head = "LMHeadModel" if family == "GPT2" else "ForCausalLM"
    model: nn.Module = getattr(transformers, f"{family}{head}")(config).eval()
    return model.requires_grad_(False)


def gradient(model: nn.Module, tokens: Tensor) -> Tensor:
    """Gradient x embedding of each token; with LXT's patches in place, relevance."""
    table: Any = model.get_input_embeddings()  # type: ignore[operator]
    embedded = table(tokens).requires_grad_()
    logits = model(inputs_embeds=embedded, use_cache=False, logits_to_keep=1).logits
    (found,) = torch.autograd.grad(logits[:, -1, 7].sum(), embedded)
    return (found * embedded).detach().sum(-1)


def contenders(family: str, length: int) -> dict[str, Callable[[], Tensor]]:
    model = model_of(family)
    tokens = torch.randint(VOCABULARY, (1, length))

    def theirs() -> Tensor:
        with peers.lxt_patches(family.lower()):
            return gradient(model, tokens)

    def ours(layers: list[str] | None) -> Tensor:
        return relevance(model, {"input_ids": tokens}, (-1, 7), composite="attnlrp", layers=layers).input

    return {
        "gradient": lambda: gradient(model, tokens),
        "LXT": theirs,
        "tokens": lambda: ours([]),
        "tokens and units": lambda: ours(None),
    }


def speed(lengths: tuple[int, ...] = LENGTHS, seconds: float = SECONDS) -> Iterator[Row]:
    for family in FAMILIES:
        for length in lengths:
            runs = contenders(family, length)
            expected, found = runs["LXT"](), runs["tokens"]()
            error = float((found - expected).norm() / expected.norm())
            if not error < 1e-2:
                raise RuntimeError(f"{family}: relevance differs from LXT's by {error:.1%}: nothing is timed")
            times = time_interleaved(runs, torch.device("cpu"), seconds)
            medians = {name: statistics.median(samples.process) for name, samples in times.items()}
            row = {"family": family, "tokens": length, "difference": error, "seconds": medians}
            print(row, flush=True)
            yield row


def table(results: dict[str, Any]) -> str:
    lines = [
        f"{results['machine']['cpu']}, 1 thread, torch {results['machine']['torch']}, float32, six layers of width "
        "256, one text; processor time of the plain gradient, and of relevance in its units:",
        "",
        "| model | tokens | plain gradient | LXT | ours, tokens | ours, tokens and all units |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in results["parts"]["speed"]:
        unit = row["seconds"]["gradient"]
        ratios = (f"{row['seconds'][name] / unit:.2f}" for name in ("LXT", "tokens", "tokens and units"))
        lines.append(f"| {row['family']} | {row['tokens']} | {1000 * unit:.1f} ms | {' | '.join(ratios)} |")
    return "\n".join(lines)


PARTS = {"speed": speed}

if __name__ == "__main__":
    run_parts(__doc__, "zsu_fast language models", PARTS, lambda _: ((), {}), table, PAGE, (BEGIN, END))
