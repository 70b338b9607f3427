"""What methods share that train a language model: options, batches, what holds on to the rest, and when they stop."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.given import check_int
from zsu_fast.evaluate.inference import inference_mode, model_device
from zsu_fast.evaluate.texts import appears, padded
from zsu_fast.lrp.tokens import language_logits
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.texts.lora import adapted
from zsu_fast.unlearn.methods.texts.own_texts import own_texts
from zsu_fast.unlearn.methods.training import EndlessBatches, LearningMethod, descend
from zsu_fast.unlearn.options import Options, check_layers, check_positive, option
from zsu_fast.unlearn.texts.records import TextRecord
from zsu_fast.unlearn.texts.request import ForgetText

WARM_UP = 0.03
Row = tuple[Sequence[int], int]


@dataclass(frozen=True)
class TextOptions(Options):
    steps: int = option("Most steps of AdamW; fewer where the aim is met.", 120)
    learning_rate: float = option(
        "At its height, after a warm-up; it falls by a cosine. For models of billions of parameters 1e-5 to 1e-4.", 1e-3
    )
    weight_decay: float = option("Of AdamW.", 0.0)
    clip: float = option("Largest norm of a step's gradients.", 1.0)
    train_batch_size: int = option("Records in a step, as many anchors, and as many texts of the model's own.", 8)
    anchor_weight: float = option("Of the divergence from the original's words on anchors and own texts.", 3.0)
    own_texts: int = option(
        "Texts that the original writes, without those about a subject of the records: where anchors are few they keep "
        "the rest of what it knows.",
        512,
    )
    look_every: int = option("Steps between looks at the answers to the records' prompts.", 20)
    patience: int = option("Looks in a row that must meet the aim before training stops early; 0: it never does.", 5)
    lora_rank: int = option("Of low-rank updates, merged into the weights in the end; 0: all weights learn.", 0)
    lora_alpha: float = option("Scale of the updates, times 1 / rank.", 16.0)
    layers: tuple[str, ...] | None = option(
        "Only these layers get low-rank updates; patterns as q_proj or *.mlp.* are names.", shown="all linear layers"
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", check_layers(self.layers))
        super().__post_init__()

    def check(self) -> None:
        super().check()
        for name in ("steps", "train_batch_size", "look_every"):
            check_int(name, getattr(self, name), 1)
        for name in ("own_texts", "patience", "lora_rank"):
            check_int(name, getattr(self, name), 0)
        for name in ("learning_rate", "clip", "lora_alpha"):
            check_positive(name, getattr(self, name))
        for name in ("anchor_weight", "weight_decay"):
            check_positive(name, getattr(self, name), or_zero=True)
        if self.layers is not None and not self.lora_rank:
            raise ValueError("layers: only low-rank updates choose their layers; give a lora_rank")


class TextMethod(LearningMethod):
    """AdamW on a copy of the model, a step being of records, of anchors 1:1, and of texts that the original writes.

    Anchors and own texts keep what the original says of them by KL(original || copy), for every token. The copy is in
    evaluation mode: dropout is off.
    """

    takes: ClassVar[frozenset[str]] = frozenset({ForgetText.kind})
    until: ClassVar[float] = 0.05
    folds: int = 1
    resumable: ClassVar[bool] = True

    asked: TextOptions

    @abstractmethod
    def rows(self, given: Given, request: ForgetText) -> list[Row]:
        """Tokens of the texts that the copy learns, or unlearns, and how many of each are the prompt's."""

    @abstractmethod
    def loss(self, nats: Tensor) -> Tensor:
        """Of the mean loss for a token of these texts."""

    def learn(self, student: nn.Module, given: Given, images: Tensor, labels: Tensor) -> None:
        asked, request = self.asked, request_of(given)
        generator = torch.Generator().manual_seed(asked.seed)
        forget = _Drawn(self.rows(given, request), asked.train_batch_size, generator)
        keep = _Drawn([request.tokens(record) for record in request.anchors], asked.train_batch_size, generator)
        own = _Drawn([], 1, generator)
        if asked.own_texts and asked.anchor_weight:
            written = own_texts(given.model, request, asked.own_texts, generator, given.progress)
            own = _Drawn([(tokens, 1) for tokens in written], asked.train_batch_size, generator)
        device, looks = model_device(student, torch.device("cpu")), {"steps": 0, "met": 0}

        with adapted(student, asked.lora_rank, asked.lora_alpha, asked.layers, generator) as parameters:
            optimizer = torch.optim.AdamW(parameters, asked.learning_rate, weight_decay=asked.weight_decay)

            def loss_of(step: int) -> Tensor:
                for group in optimizer.param_groups:
                    group["lr"] = asked.learning_rate * rate(step, asked.steps)
                tokens, counted = padded(forget.draw(), device)
                given.count(len(tokens))
                loss = self.loss(_nats(language_logits(student(tokens), tokens), tokens, counted))
                held = keep.draw() + own.draw()
                if held and asked.anchor_weight:
                    tokens, counted = padded(held, device)
                    given.count(len(tokens))
                    with torch.no_grad():
                        wanted = language_logits(given.model(tokens), tokens)
                    found = language_logits(student(tokens), tokens)
                    loss = loss + asked.anchor_weight * divergence(wanted, found, counted)
                return loss

            def enough() -> bool:
                looks["steps"] += 1
                if not asked.patience or looks["steps"] % asked.look_every:
                    return False
                looks["met"] = looks["met"] + 1 if self._reached(student, request) else 0
                return looks["met"] >= asked.patience

            drawn = [rows.batches for rows in (forget, keep, own)]
            stretch = given.stretch([student, optimizer, generator, *drawn, looks])
            descend(
                loss_of, parameters, optimizer, asked.steps, given.progress, self.name, stretch, enough=enough,
                clip=asked.clip,
            )  # fmt: skip

    def _reached(self, student: nn.Module, request: ForgetText) -> bool:
        with inference_mode(student):
            answers = request.view(student).answers([record.prompt for record in request.records])
        said = [appears(record.words, answer) for record, answer in zip(request.records, answers, strict=True)]
        return sum(said) <= (self.until if self.asked.until is None else self.asked.until) * len(said)

    def described(self, given: Given) -> dict[str, Any]:
        data = ["records"] + (["anchors"] if request_of(given).anchors else [])
        return {"data": data + (["own texts"] if self.asked.own_texts else []), "zero_shot": False}


def rate(step: int, steps: int) -> float:
    """Share of the learning rate: linear up to 1 in the first 3 % of the steps, then down to 0 by half a cosine."""
    warm = max(1, round(WARM_UP * steps))
    if step < warm:
        return (step + 1) / warm
    return (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm))) / 2


def divergence(wanted: Tensor, found: Tensor, counted: Tensor) -> Tensor:
    """KL(wanted || found) of logits [B, T, vocabulary], in the mean over the tokens that are `counted`."""
    wanted, found = wanted[:, :-1][counted[:, 1:]].float(), found[:, :-1][counted[:, 1:]].float()
    return F.kl_div(found.log_softmax(-1), wanted.log_softmax(-1), reduction="batchmean", log_target=True)


def request_of(given: Given) -> ForgetText:
    assert isinstance(given.request, ForgetText)
    return given.request


def response_like(record: TextRecord, answer: str) -> str:
    """The answer with the space that the response begins with."""
    return record.response[: len(record.response) - len(record.response.lstrip())] + answer


def _nats(logits: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    """Mean of -log p over the tokens that are `counted`."""
    chosen = counted[:, 1:]
    return F.cross_entropy(logits[:, :-1][chosen].float(), tokens[:, 1:][chosen])


class _Drawn:
    """Batches of rows, without end; empty ones of no rows."""

    def __init__(self, rows: Sequence[Row], size: int, generator: torch.Generator) -> None:
        self._rows, self.batches = rows, EndlessBatches(len(rows), size, generator)

    def draw(self) -> list[Row]:
        return [self._rows[i] for i in next(self.batches).tolist()]
