"""The report on what a language model is to say no more. It shows the texts themselves only if they are handed over."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any, ClassVar

import torch
from torch import nn

from zsu_fast.evaluate.inference import inference_mode, model_device
from zsu_fast.evaluate.texts import appears, padded
from zsu_fast.lrp.tokens import token_relevance
from zsu_fast.plot.text import shaded
from zsu_fast.report import parts, words
from zsu_fast.report.base import Card, Report
from zsu_fast.unlearn import ForgetText, TextRecord
from zsu_fast.unlearn.texts.words import spelled, words_in

MOST_ROWS = 100
MOST_TEXTS = 12
FIGURES = {
    "exact_match": "what is to be kept: questions answered word for word",
    "rouge_l": "what is to be kept: ROUGE-L of the answers",
    "perplexity": "what is to be kept: perplexity of the responses",
    "held_out_perplexity": "held-out texts: perplexity",
}


@dataclass(frozen=True)
class Asked:
    """Questions, that no training saw, with the records that they are of, and the answers before and after."""

    records: Sequence[TextRecord]
    questions: Sequence[str]
    before: Sequence[str]
    after: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.questions)

    def answered(self, model: nn.Module, request: ForgetText) -> Asked:
        """With the answers of the model as it is now for those after."""
        return replace(self, after=request.view(model).answers(self.questions))


@dataclass(frozen=True)
class Shaded:
    """A text in its tokens, and how much each speaks for the sensitive words, at most 1; or why it is not known."""

    tokens: Sequence[tuple[str, float]] = ()
    missing: str = ""


def ask(model: nn.Module, request: ForgetText, records: Sequence[TextRecord]) -> Asked:
    """The paraphrases of the records, at most `MOST_ROWS`. The model is unchanged by this."""
    asked = [(record, question) for record in records for question in record.paraphrases][:MOST_ROWS]
    questions = [question for _, question in asked]
    return Asked([record for record, _ in asked], questions, request.view(model).answers(questions))


def shade(model: nn.Module, request: ForgetText) -> list[Shaded]:
    """What the sensitive words of the first records rest on, by AttnLRP; one line that says why, where it cannot be."""
    found = []
    try:
        with inference_mode(model):
            for record in request.records[:MOST_TEXTS]:
                ids, start = request.tokens(record)
                words = words_in(request.tokenizer, ids)
                own = {part.casefold() for word in record.words for part in re.findall(r"\w+", word)}
                said = [i for w in words if set(re.findall(r"\w+", w.word)) & own for i in w.tokens if i >= start]
                tokens, counted = padded([(ids, start)], model_device(model, torch.device("cpu")))
                if said:
                    counted = torch.zeros_like(counted)
                    counted[0, said] = True
                values = token_relevance(model, tokens, [counted])[0].input[0].float().tolist()
                texts = spelled(request.tokenizer, ids)
                top = max((abs(value) for value in values), default=0.0) or 1.0
                found.append(Shaded([(text, value / top) for text, value in zip(texts, values, strict=True) if text]))
    except (ValueError, TypeError, RuntimeError) as error:
        found.append(Shaded(missing=f"Relevance could not be computed ({type(error).__name__})"))
    return found


@dataclass(frozen=True, kw_only=True)
class TextReport(Report):
    """Everything may be missing; its section is then left out.

    Attributes:
        forgotten, kept: questions about what was to be forgotten, and about what was to be kept.
        shaded: what the sensitive words rested on.
    """

    forgotten: Asked | None = None
    kept: Asked | None = None
    shaded: Sequence[Shaded] = ()

    inputs: ClassVar[str] = "texts"
    trained_on: ClassVar[str] = "texts"
    pipeline: ClassVar[str] = "text-generation"
    glossary: ClassVar[tuple[str, ...]] = (
        "at most .. %, with 95 % confidence", "95 % interval", "relearning", "membership inference", "relevance",
        "sensitive words", "paraphrases", "perplexity",
    )  # fmt: skip

    @property
    def title(self) -> str:
        count = self.request["records"]
        return f"Forget {count} record{'s' if count > 1 else ''}"

    @property
    def asked(self) -> str:
        return (
            f"The language model is to say no more what stands in {words.count(self.request['records'], 'record')}: "
            "none of their sensitive words is to be in its answers. What else it says is to stay."
        )

    def shown(self) -> list[str]:
        old, new = self._seen
        said = []
        if new["exact_match"] is not None:
            said.append(
                "Of what is to be kept it answers "
                f"{_share(new['exact_match'])} of the paraphrased questions word for word (before: "
                f"{_share(old['exact_match'])})."
            )
        for what, name in (("what is to be kept", "perplexity"), ("other texts", "held_out_perplexity")):
            if new[name] is not None:
                said.append(f"Perplexity of {what}: {words.number(old[name])} before, {words.number(new[name])} after.")
        return said

    def not_shown(self) -> list[str]:
        said = [
            "Questions of another kind than these paraphrases: other languages, long conversations, prompts that were "
            "made to bring it out. None were tried.",
            "What the model says of it without its sensitive words: only these were looked for.",
            "What it still holds inside, and how soon training on other texts brings it back: not tested here.",
            "Whether it can be told that these texts were among those that it was trained on (membership inference): "
            "not tested here.",
        ]
        if self._seen[1]["exact_match"] is None and self._seen[1]["held_out_perplexity"] is None:
            said.append("What the edit costs on texts that had no part in it: not measured.")
        return said

    def judges(self) -> list[str]:
        found = []
        for what, name in (("of what is to go", "said"), ("of what is to be kept", "exact_match")):
            if (one := self._seen[1][name]) is not None:
                found.append(f"{one['total']} paraphrased questions {what}, which no training saw")
        return found

    def cards(self) -> list[Card]:
        old, new = self._seen
        cards = []
        for what, name in (
            ("Answers with a sensitive word", "said"),
            ("Others, word for word", "exact_match"),
        ):
            if new[name] is not None:
                note = f"{new[name]['count']} of {new[name]['total']} paraphrased questions; "
                note += words.interval(new[name]["interval"])
                cards.append(Card.share(what, old[name]["share"], new[name]["share"], note))
        for what, name in (("Perplexity, kept", "perplexity"), ("Perplexity, held out", "held_out_perplexity")):
            if new[name] is not None:
                note = "of the responses that are to stay" if name == "perplexity" else "of other texts"
                cards.append(Card(what, words.number(old[name]), words.number(new[name]), note))
        return cards

    def sections(self) -> list[str]:
        return [
            self._figures(),
            _answers("What it says of what was to be forgotten", self.forgotten, True),
            _answers("What it says of what was to be kept", self.kept, False),
            self._shaded(),
        ]

    @property
    def _seen(self) -> tuple[dict[str, Any], dict[str, Any]]:
        seen = self.record["evaluation"]
        return seen["before"], seen["after"]

    def _figures(self) -> str:
        old, new = self._seen
        lines = []
        if new["said"] is not None:
            lines.append(("questions answered with a sensitive word", *(_share(one["said"]) for one in (old, new))))
        for name, what in FIGURES.items():
            if new[name] is not None:
                show = _share if name == "exact_match" else words.number
                lines.append((what, *(show(one[name]) for one in (old, new))))
        lead = "Paraphrased questions, which no training saw. In brackets 95 % intervals."
        return parts.section("Figures", lead, parts.table("figures", ("", "before", "after"), lines)) if lines else ""

    def _shaded(self) -> str:
        if not self.shaded:
            return ""
        found = [escape(one.missing) or "".join(shaded(*token) for token in one.tokens) for one in self.shaded]
        lead = (
            "Prompts with responses, before the edit: the redder a token, the more the probability of the sensitive "
            "words rests on it; blue speaks against them. Relevance by AttnLRP."
        )
        return parts.section(
            "What the sensitive words rest on", lead, "".join(f'<p class="text">{t}</p>' for t in found)
        )


def _share(found: dict[str, Any]) -> str:
    low, high = map(words.percent, found["interval"])
    return f"{found['count']} of {found['total']}, {words.percent(found['share'])} ({low} to {high})"


def _answers(title: str, asked: Asked | None, sensitive: bool) -> str:
    if asked is None or not len(asked):
        return ""
    head = ["question", "answer before", *([] if asked.after is None else ["answer after"])]
    columns = [asked.before, *([] if asked.after is None else [asked.after])]
    lines = []
    for i, (record, question) in enumerate(zip(asked.records, asked.questions, strict=True)):
        words = record.words if sensitive else ()
        lines.append([escape(question), *(_marked(column[i], words) for column in columns)])
    lead = "Paraphrased questions" if len(asked) < MOST_ROWS else f"The first {MOST_ROWS} paraphrased questions"
    lead += ", which no training saw. Marked: sensitive words." if sensitive else ", which no training saw."
    return parts.section(title, lead, parts.table(title, head, lines))


def _marked(text: str, words: Sequence[str]) -> str:
    """HTML; the words, or phrases, are marked where they stand as whole words, whatever their case."""
    if not appears(words, text):
        return escape(text)
    either = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    pieces = re.split(rf"(?<!\w)({either})(?!\w)", text, flags=re.IGNORECASE)
    return "".join(f"<mark>{escape(piece)}</mark>" if i % 2 else escape(piece) for i, piece in enumerate(pieces))
