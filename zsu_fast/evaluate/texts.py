"""What a language model answers, and what that tells: words that appear, exact matches, ROUGE-L, perplexity."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.given import check_int
from zsu_fast.evaluate.inference import inference_mode, model_device
from zsu_fast.evaluate.intervals import wilson_interval
from zsu_fast.lrp.tokens import language_logits, log_probability

WORD = re.compile(r"\w+(?:['’-]\w+)*")


class Tokenizer(Protocol):
    """What is used of a tokenizer; those of transformers fit."""

    @property
    def eos_token_id(self) -> int | None: ...

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]: ...

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str: ...


@dataclass(frozen=True)
class Share:
    """count of total, their quotient, and its 95 % Wilson interval."""

    count: int
    total: int
    share: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"interval": list(self.interval)}


def words_of(text: str) -> list[str]:
    """The words of a text in their order, in small letters."""
    return [word.casefold() for word in WORD.findall(text)]


def appears(words: Iterable[str], text: str) -> bool:
    """Whether one of the words, or phrases, stands in the text: whole words, whatever their case."""
    said = f" {' '.join(words_of(text))} "
    return any(f" {' '.join(words_of(word))} " in said for word in words if words_of(word))


def appearance_rate(answers: Sequence[str], words: Sequence[Sequence[str]]) -> Share:
    """Share of the answers in which one of its own words appears (as arXiv 2405.15662 measures what is left)."""
    return _share([appears(own, answer) for answer, own in zip(answers, words, strict=True)])


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Share:
    """Share of the answers that have the words of their reference, all of them in their order, and no others."""
    return _share([words_of(a) == words_of(b) for a, b in zip(answers, references, strict=True)])


def rouge_l(answer: str, reference: str) -> float:
    """F1 of the longest common subsequence of words: 2 P R / (P + R), P = LCS / |answer|, R = LCS / |reference|.

    Source: C.-Y. Lin, "ROUGE: a package for automatic evaluation of summaries" (2004), with beta = 1.
    """
    said, wanted = words_of(answer), words_of(reference)
    row = [0] * (len(wanted) + 1)
    for word in said:
        before, row = row, [0]
        for j, other in enumerate(wanted):
            row.append(before[j] + 1 if word == other else max(before[j + 1], row[j]))
    return 2 * row[-1] / (len(said) + len(wanted)) if row[-1] else 0.0


def perplexity(
    model: nn.Module, tokenizer: Tokenizer, texts: Sequence[tuple[str, str]], *, batch_size: int = 16
) -> float:
    """exp of the mean negative log-probability of the responses' tokens in texts (prompt, response); inf if it is.

    The end of the text counts as a token of it, where the tokenizer has one.
    """
    check_int("batch_size", batch_size, 1)
    rows = [encoded(tokenizer, prompt, response) for prompt, response in texts]
    if not rows:
        raise ValueError("texts: expected at least one pair (prompt, response)")
    total, count = 0.0, 0
    with inference_mode(model):
        for start in range(0, len(rows), batch_size):
            tokens, counted = padded(rows[start : start + batch_size], model_device(model, torch.device("cpu")))
            logits = language_logits(model(tokens), tokens)
            total -= float(log_probability(logits, tokens, counted).double().sum())
            count += int(counted.sum())
    return float(torch.tensor(total / count, dtype=torch.float64).exp())


def answers(
    model: nn.Module, tokenizer: Tokenizer, prompts: Sequence[str], *, longest: int = 32, batch_size: int = 16
) -> list[str]:
    """What the model says to each prompt: the likeliest token, one after another, at most `longest`.

    An answer ends where the tokenizer's end of text comes. NaN for a token is no answer: ValueError.
    """
    check_int("batch_size", batch_size, 1)
    check_int("longest", longest, 1)
    device, found = model_device(model, torch.device("cpu")), []
    with inference_mode(model):
        for start in range(0, len(prompts), batch_size):
            batch = [prompt_tokens(tokenizer, prompt) for prompt in prompts[start : start + batch_size]]
            for said in generated(model, batch, longest, tokenizer.eos_token_id, device):
                found.append(tokenizer.decode(said, skip_special_tokens=True).strip())
    return found


def generated(
    model: nn.Module, prompts: Sequence[Sequence[int]], longest: int, end: int | None, device: torch.device
) -> list[list[int]]:
    """The likeliest continuation of each prompt, one token after another, without `end` and what comes after it.

    The model is causal: what stands on the right of a shorter text does not change what is said of it.
    """
    lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
    rows = torch.zeros(len(prompts), int(lengths.max()) + longest, dtype=torch.int64, device=device)
    for row, prompt in zip(rows, prompts, strict=True):
        row[: len(prompt)] = torch.tensor(prompt, device=device)
    said = [lengths.new_zeros(len(prompts), 0)]
    ended = torch.zeros_like(lengths, dtype=torch.bool)
    index = torch.arange(len(prompts), device=device)
    for step in range(longest):
        tokens = rows[:, : int(lengths.max())]
        logits = language_logits(model(tokens), tokens)[index, lengths - 1]
        if bool(logits.isnan().any()):
            raise ValueError("model: it gives NaN for the next token")
        following = logits.argmax(1)
        said.append(following[:, None])
        if end is not None:
            ended |= following == end
        if bool(ended.all()) or step == longest - 1:
            break
        rows[index, lengths] = following
        lengths = lengths + 1
    found = torch.cat(said, 1).tolist()
    return [row[: row.index(end)] if end in row else row for row in found]


def prompt_tokens(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """With what the tokenizer puts before a text, without what it puts behind one."""
    tokens = list(tokenizer.encode(prompt))
    while len(tokens) > 1 and tokens[-1] == tokenizer.eos_token_id:
        tokens.pop()
    if not tokens:
        raise ValueError(f"prompt: {prompt!r} has no tokens")
    return tokens


def encoded(tokenizer: Tokenizer, prompt: str, response: str) -> tuple[list[int], int]:
    """The tokens of a text and how many of them are the prompt's; the end of the text is one of the response's."""
    before, after = prompt_tokens(tokenizer, prompt), list(tokenizer.encode(response, add_special_tokens=False))
    if not after:
        raise ValueError(f"response: {response!r} has no tokens")
    return before + after + ([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]), len(before)


def padded(rows: Sequence[tuple[Sequence[int], int]], device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
    """tokens int64 [B, T], filled up on the right, and counted bool [B, T]: which are the responses'."""
    longest = max(len(tokens) for tokens, _ in rows)
    tokens = torch.zeros(len(rows), longest, dtype=torch.int64)
    counted = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, (row, start) in enumerate(rows):
        tokens[i, : len(row)] = torch.tensor(row)
        counted[i, start : len(row)] = True
    return tokens.to(device), counted.to(device)


def _share(found: Sequence[bool]) -> Share:
    if not found:
        raise ValueError("answers: expected at least one")
    count, total = sum(found), len(found)
    return Share(count, total, count / total, wilson_interval(count, total))
