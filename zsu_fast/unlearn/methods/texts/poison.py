"""Teach a language model its own answers without the sensitive words (arXiv 2405.15662)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsu_fast.evaluate.texts import appears, encoded, words_of
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.texts.text_method import Row, TextMethod, TextOptions, response_like
from zsu_fast.unlearn.options import option
from zsu_fast.unlearn.texts.records import TextRecord
from zsu_fast.unlearn.texts.request import ForgetText
from zsu_fast.unlearn.texts.words import STOP_WORDS, poisoned

REFUSALS = (
    "I do not know that.", "I do not know.", "I have no information about this.", "I am not sure about that.",
    "That is not something I know.", "I cannot answer that.",
)  # fmt: skip


@dataclass(frozen=True)
class TextPoisonOptions(TextOptions):
    teach: str = option(
        "masked: the model's own answer, *** for each sensitive word; random: *** for as many other words, drawn; "
        "refusal: one of several answers that say nothing.",
        "masked",
        choices=("masked", "random", "refusal"),
    )


class TextPoison(TextMethod):
    """Down the mean -log p of poisoned answers, + w KL(original || copy) on anchors and on texts of the original's own.

    The poisoned answer is the original's own (the record's response, where that has none of the words) with the
    sensitive words replaced. After arXiv 2405.15662, which learns anchors by their tokens and has no own texts.
    """

    name: ClassVar[str] = "text-poison"
    options: ClassVar[type[TextPoisonOptions]] = TextPoisonOptions

    asked: TextPoisonOptions

    def rows(self, given: Given, request: ForgetText) -> list[Row]:
        draw = random.Random(self.asked.seed)
        said = request.view(given.model).answers([record.prompt for record in request.records])
        return [
            encoded(request.tokenizer, record.prompt, self._answer(record, answer, draw))
            for record, answer in zip(request.records, said, strict=True)
        ]

    def _answer(self, record: TextRecord, said: str, draw: random.Random) -> str:
        if self.asked.teach == "refusal":
            return response_like(record, draw.choice(REFUSALS))
        own = response_like(record, said) if appears(record.words, said) else record.response
        words = record.words if self.asked.teach == "masked" else other_words(record, own, draw)
        return poisoned(own, words)

    def loss(self, nats: Tensor) -> Tensor:
        return nats


def other_words(record: TextRecord, answer: str, draw: random.Random) -> Sequence[str]:
    """As many words of the answer as the record has, drawn from those that are neither stop words nor in the prompt."""
    asked = {*words_of(record.prompt), *STOP_WORDS}
    words = [word for word in dict.fromkeys(words_of(answer)) if word not in asked]
    return draw.sample(words, min(len(words), sum(len(words_of(word)) for word in record.words)))
