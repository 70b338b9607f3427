"""Which words of a response are sensitive: what the model says only because it knows the subject."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.given import check_int
from zsu_fast.evaluate.inference import inference_mode, model_device
from zsu_fast.evaluate.texts import WORD, Tokenizer, encoded, padded, words_of
from zsu_fast.lrp.tokens import integrated_gradients, token_relevance
from zsu_fast.unlearn.options import check_choice, check_share
from zsu_fast.unlearn.texts.records import TextRecord, check_records

MASK = "***"
STOP_WORDS = frozenset(
    re.findall(
        r"\w+",
        "a about after all also an and any are as at be been before being between both but by can could did do does "
        "doing during each either for from had has have having he her here hers him his how i if in into is it its "
        "itself just me might more most must my no nor not of off on once only or other our out over own same she "
        "should so some such than that the their them then there these they this those through to too under until "
        "up very was we were what when where which while who whom why will with would you your",
    )
)
WAYS = ("subject", "attnlrp", "ig", "random")


@dataclass(frozen=True)
class Word:
    """A word of a text, in small letters, and the positions of its tokens."""

    word: str
    tokens: tuple[int, ...]


def sensitive_words(
    model: nn.Module,
    records: Sequence[TextRecord],
    tokenizer: Tokenizer,
    *,
    by: str = "subject",
    most: int = 5,
    least_share: float = 0.35,
    steps: int = 32,
    stop_words: frozenset[str] = STOP_WORDS,
    seed: int = 0,
    batch_size: int = 16,
    progress: Callable[[int, int, str], None] | None = None,
) -> list[TextRecord]:
    """The records, each with its sensitive words; records that have words already stay as they are.

    Words of the prompt and stop words are none: the first are no secret, the others say nothing.

    Args:
        by: "subject": a word scores the AttnLRP relevance that the subject's tokens (without a subject those of the
            prompt, but for stop words) have for the word's own log-probability: how much of it is said because of whom
            it is about. One forward pass, and one backward pass for each word of the longest response.
            "attnlrp", "ig": the relevance, or the integrated gradients with `steps` steps, of the word's tokens for the
            log-probability of the whole response (arXiv 2405.15662, which takes the latter): how much what follows
            rests on it. "random": drawn.
        most: words of a record, at most. least_share: of the best word's score that the others must have.

    Raises:
        TypeError, ValueError: naming the argument, or the record that has no word left, or not its subject.
    """
    records = check_records("records", records)
    check_choice("by", by, WAYS)
    check_int("most", most, 1)
    check_int("batch_size", batch_size, 1)
    check_share("least_share", least_share)
    found = list(records)
    draw = random.Random(seed)
    open_ones = [i for i, record in enumerate(records) if not record.words]
    with inference_mode(model):
        for start in range(0, len(open_ones), batch_size):
            chosen = open_ones[start : start + batch_size]
            batch = [records[i] for i in chosen]
            rows = [encoded(tokenizer, record.prompt, record.response) for record in batch]
            words = [_candidates(tokenizer, *row, stop_words) for row in rows]
            for i, own in zip(chosen, words, strict=True):
                if not own:
                    raise ValueError(f"records: no word of the response at {i} is left, {records[i].response!r}")
            tokens, counted = padded(rows, model_device(model, torch.device("cpu")))
            if by == "subject":
                scores = _by_subject(model, tokens, batch, rows, words, tokenizer, stop_words)
            elif by == "random":
                scores = [{word.word: draw.random() for word in own} for own in words]
            else:
                if by == "ig":
                    of_tokens, _ = integrated_gradients(model, tokens, counted, steps=steps)
                else:
                    of_tokens = token_relevance(model, tokens, [counted])[0].input
                scores = [_sums(own, of_tokens[row].tolist()) for row, own in enumerate(words)]
            for i, score in zip(chosen, scores, strict=True):
                first, *others = sorted(score, key=lambda word: -score[word])[:most]
                others = [word for word in others if score[word] > 0 and score[word] >= least_share * score[first]]
                found[i] = replace(records[i], words=(first, *others))
            if progress is not None:
                progress(start + len(chosen), len(open_ones), "sensitive words")
    return found


def poisoned(response: str, words: Sequence[str], mask: str = MASK) -> str:
    """The response with `mask` for each of the words or phrases: whole words, whatever their case."""
    for word in sorted(words, key=len, reverse=True):
        response = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", lambda _: mask, response, flags=re.IGNORECASE)
    return response


def words_in(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[Word]:
    """The words of a text of tokens, each with its tokens: those that have a letter of it. Special tokens have none."""
    ends = _ends(tokenizer, tokens)
    starts = [0, *ends]
    return [
        Word(
            match.group().casefold(),
            tuple(i for i, end in enumerate(ends) if starts[i] < match.end() and end > match.start()),
        )
        for match in WORD.finditer(tokenizer.decode(tokens, skip_special_tokens=True))
    ]


def spelled(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text."""
    text, ends = tokenizer.decode(tokens, skip_special_tokens=True), _ends(tokenizer, tokens)
    return [text[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _ends(tokenizer: Tokenizer, tokens: Sequence[int]) -> list[int]:
    return [len(tokenizer.decode(tokens[: i + 1], skip_special_tokens=True)) for i in range(len(tokens))]


def _candidates(tokenizer: Tokenizer, tokens: list[int], start: int, stop_words: frozenset[str]) -> list[Word]:
    """Words of the response that may be sensitive."""
    words = words_in(tokenizer, tokens)
    asked = {word.word for word in words if word.tokens and word.tokens[0] < start}
    return [w for w in words if w.tokens and w.tokens[0] >= start and w.word not in asked | stop_words]


def _sums(words: Sequence[Word], of_tokens: Sequence[float]) -> dict[str, float]:
    found: dict[str, float] = {}
    for word in words:
        found[word.word] = found.get(word.word, 0.0) + sum(of_tokens[i] for i in word.tokens)
    return found


def _by_subject(
    model: nn.Module,
    tokens: Tensor,
    records: Sequence[TextRecord],
    rows: Sequence[tuple[Sequence[int], int]],
    words: Sequence[Sequence[Word]],
    tokenizer: Tokenizer,
    stop_words: frozenset[str],
) -> list[dict[str, float]]:
    """For each word the relevance that the subject's tokens before it have for the word's log-probability."""
    sets = []
    for number in range(max(map(len, words))):
        counted = torch.zeros_like(tokens, dtype=torch.bool)
        for row, own in enumerate(words):
            counted[row, list(own[min(number, len(own) - 1)].tokens)] = True
        sets.append(counted)
    relevances = [found.input.tolist() for found in token_relevance(model, tokens, sets)]
    scores: list[dict[str, float]] = []
    for row, (record, (ids, start), own) in enumerate(zip(records, rows, words, strict=True)):
        names = set(words_of(record.subject))
        subject = [
            i
            for word in words_in(tokenizer, ids)
            if (word.word in names if names else word.tokens[0] < start and word.word not in stop_words)
            for i in word.tokens
        ]
        if names and not subject:
            raise ValueError(f"records: the subject {record.subject!r} does not stand in the text {record.text!r}")
        found: dict[str, float] = {}
        for word, of_tokens in zip(own, relevances, strict=False):
            score = sum(of_tokens[row][i] for i in subject if i < word.tokens[0])
            found[word.word] = found.get(word.word, 0.0) + score
        scores.append(found)
    return scores
