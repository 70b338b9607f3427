"""Texts that a language model writes itself: without any data they show what it knows beside what it is to forget."""

from __future__ import annotations

import torch
from torch import nn

from zsu_fast.evaluate.inference import inference_mode, model_device
from zsu_fast.evaluate.texts import appears, words_of
from zsu_fast.lrp.tokens import language_logits
from zsu_fast.unlearn.methods.base import Progress
from zsu_fast.unlearn.texts.request import ForgetText
from zsu_fast.unlearn.texts.words import STOP_WORDS

LENGTH = 20
BATCH = 64


def own_texts(
    model: nn.Module, request: ForgetText, count: int, generator: torch.Generator, progress: Progress
) -> list[list[int]]:
    """Tokens of at most `count` texts, drawn token by token from the model.

    They begin with the token that begins texts, or, where the tokenizer has none, with any, drawn at random.

    Texts that name a subject of the request (or, of a record without one, say one of its words) are left out: held on
    to, they would hold on to what must go.
    """
    tokenizer, device = request.tokenizer, model_device(model, torch.device("cpu"))
    begin, found = getattr(tokenizer, "bos_token_id", None), []
    with inference_mode(model):
        for start in range(0, count, BATCH):
            size = min(BATCH, count - start)
            tokens = torch.full((size, 1), 0 if begin is None else begin, device=device)
            if begin is None:
                vocabulary = language_logits(model(tokens), tokens).shape[-1]
                tokens = torch.randint(vocabulary, (size, 1), generator=generator).to(device)
            for _ in range(LENGTH):
                odds = language_logits(model(tokens), tokens)[:, -1].float().softmax(-1).cpu()
                tokens = torch.cat([tokens, torch.multinomial(odds, 1, generator=generator).to(device)], 1)
            found += tokens.tolist()
            progress(len(found), count, "texts of the model's own")
    forbidden = [
        [word for word in words_of(record.subject) if word not in STOP_WORDS] or list(record.words)
        for record in request.records
    ]
    texts = [tokenizer.decode(tokens) for tokens in found]
    return [tokens for tokens, text in zip(found, texts, strict=True) if not any(appears(w, text) for w in forbidden)]
