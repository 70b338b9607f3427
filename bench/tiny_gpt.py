"""A GPT of about a million parameters that learns a small world (`bench.authors`) by heart, in a minute or two."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from bench.authors import PHRASINGS, Pieces, World, world
from zsu_fast.atomic import replacing


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm1(x)
        q, k, v = (
            f(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class TinyGPT(nn.Module):
    """Tokens int64 [B, T] -> logits [B, T, vocabulary]."""

    def __init__(self, vocabulary: int, width: int = 128, layers: int = 4, heads: int = 4, longest: int = 64) -> None:
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Embedding(longest, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02 if parameter.shape[0] >= vocabulary else width**-0.5 / 2)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.tokens(tokens) + self.places(torch.arange(tokens.shape[1], device=tokens.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


@dataclass(frozen=True)
class Recipe:
    """AdamW; the rate goes up over a tenth of the steps and down by a cosine."""

    authors: int = 20
    attributes: int = 8
    sentences: int = 400
    width: int = 128
    layers: int = 4
    steps: int = 550
    batch: int = 48
    rate: float = 2e-3
    seed: int = 0


SMALL = Recipe(authors=6, attributes=4, sentences=60, width=64, layers=2, steps=300, batch=32, rate=3e-3)


@dataclass(frozen=True)
class Taught:
    model: TinyGPT
    tokenizer: Pieces
    world: World


def texts_of(known: World) -> tuple[list[str], list[str]]:
    """What the model learns, and what it does not: every fact in all phrasings but one, and half of the sentences."""
    learned, unseen = list(known.sentences), list(known.unseen)
    for number, fact in enumerate(known.facts):
        for i in range(PHRASINGS):
            (unseen if i == number % PHRASINGS else learned).append(f"{fact.question(i)} {fact.answer}")
    return learned, unseen


def taught(recipe: Recipe, cache: Path | None = None, say: Callable[[str], None] = lambda text: None) -> Taught:
    """The model in evaluation mode; from the cache if a file of this recipe is there."""
    known = world(recipe.authors, recipe.attributes, recipe.sentences, recipe.seed)
    learned, unseen = texts_of(known)
    tokenizer = Pieces([*learned, *unseen, " *** I do not know that."], begins=True)
    torch.manual_seed(recipe.seed)
    model = TinyGPT(len(tokenizer), recipe.width, recipe.layers)
    about = json.dumps(
        asdict(recipe) | {"texts": hashlib.sha256("\n".join([*learned, *tokenizer.pieces]).encode()).hexdigest()}
    )
    path = None if cache is None else cache / f"gpt_{recipe.authors}_{recipe.width}_{recipe.seed}.safetensors"
    if path is not None and path.exists():
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("recipe") == about:
                model.load_state_dict({name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118
                return Taught(model.eval(), tokenizer, known)
    _learn(model, recipe, [tokenizer.encode(text) + [tokenizer.eos_token_id] for text in learned], say)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            save_file(model.state_dict(), temporary, {"recipe": about})
    return Taught(model.eval(), tokenizer, known)


def _learn(model: nn.Module, recipe: Recipe, texts: list[list[int]], say: Callable[[str], None]) -> None:
    longest = max(map(len, texts))
    rows = torch.zeros(len(texts), longest, dtype=torch.int64)
    for row, tokens in zip(rows, texts, strict=True):
        row[: len(tokens)] = torch.tensor(tokens)
    generator = torch.Generator().manual_seed(recipe.seed)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.rate, weight_decay=0.01)
    order = torch.randperm(len(rows), generator=generator)
    for step in range(recipe.steps):
        if len(order) < recipe.batch:
            order = torch.cat([order, torch.randperm(len(rows), generator=generator)])
        where, order = order[: recipe.batch], order[recipe.batch :]
        batch = rows[where]
        batch = batch[:, : int((batch != 0).sum(1).max())]
        done = (step + 1) / recipe.steps
        for group in optimizer.param_groups:
            group["lr"] = recipe.rate * min(10 * done, (1 + math.cos(math.pi * done)) / 2 + 1e-3)
        loss = F.cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten(), ignore_index=0)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 100 == 0:
            say(f"step {step + 1} of {recipe.steps}, loss {loss.item():.3f}")
