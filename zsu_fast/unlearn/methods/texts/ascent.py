"""Unlearn responses by going up their loss: the baseline of the field."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.texts.text_method import Row, TextMethod, TextOptions
from zsu_fast.unlearn.options import option
from zsu_fast.unlearn.texts.request import ForgetText


@dataclass(frozen=True)
class TextAscentOptions(TextOptions):
    learning_rate: float = option("At its height, after a warm-up; it falls by a cosine.", 1e-4)


class TextAscent(TextMethod):
    """Up the mean -log p of the responses, with anchors held ("gradient difference" of TOFU, arXiv 2401.06121).

    With anchor_weight 0 gradient ascent alone (Jang et al. 2022, arXiv 2210.01504). Nothing bounds it: it is stopped
    by its steps, or where the aim is met.
    """

    name: ClassVar[str] = "text-ascent"
    options: ClassVar[type[TextAscentOptions]] = TextAscentOptions

    def rows(self, given: Given, request: ForgetText) -> list[Row]:
        return [request.tokens(record) for record in request.records]

    def loss(self, nats: Tensor) -> Tensor:
        return -nats
