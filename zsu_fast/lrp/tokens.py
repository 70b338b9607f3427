"""Which tokens a language model's words rest on: relevance of the tokens' embeddings, and integrated gradients beside.

What is explained is F = sum of log p(token | all before it) over some of the tokens of a text, the response. Relevance
takes one forward and one backward pass; integrated gradients take as many of each as they have steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from .composites import Composite
from .eager import compiled_parts_as_written, refuse_transforms, uncompiled
from .embedded import Lookup, embeddings, look_up
from .passes import Request, propagate
from .result import Relevance


@uncompiled
def token_relevance(
    model: nn.Module,
    tokens: Tensor,
    counted: Sequence[Tensor],
    *,
    composite: str | Composite = "attnlrp",
    layers: Sequence[str] | None = (),
) -> tuple[Relevance, ...]:
    """Relevance of every token for the log-probability of those that are `counted` (AttnLRP: Achtibat et al. 2024).

    The logarithm of the softmax is taken at first order, as AttnLRP takes the softmax (Prop. 3.1): relevance starts at
    each logit as (1 - p) logit for the token that came, and as -p logit for the others.

    Args:
        model: Tokens int64 [B, T] -> logits [B, T, vocabulary], or an object with `.logits`: at each position those of
            the token after it. Causal, in eval mode; it looks up the embeddings of the tokens.
        tokens: int64 [B, T]. Shorter texts are filled up on the right, with any token.
        counted: Sets of tokens whose log-probabilities are added up, bool [B, T] each; never the first of a text. They
            share the forward pass: each costs one backward pass.
        composite: Rules, see `zsu_fast.lrp`.
        layers: Layers of which the relevance of units is wanted too, `fnmatch` patterns included; None: all.

    Returns:
        For each of `counted` a Relevance. `input` is [B, T], by token; `neurons` as in `zsu_fast.relevance`; `logits`
        [B, 1] is the sum of log-probabilities.

    Raises:
        TypeError, ValueError: naming the argument. UncoveredFunctionError: a function has no rule.
    """
    for chosen in counted:
        check_tokens(tokens, chosen)
    sums: list[Tensor] = []

    def scored(logits: Tensor) -> Tensor:
        sums[:] = [log_probability(logits.detach(), tokens, chosen) for chosen in counted]
        slope = -_wide(logits[:, :-1].detach()).softmax(-1)
        slope.scatter_add_(-1, tokens[:, 1:, None], torch.ones_like(slope[..., :1]))
        of_tokens = (logits[:, :-1] * slope.to(logits)).sum(-1)
        return torch.stack([(of_tokens * chosen[:, 1:]).sum(1) for chosen in counted], 1)

    refuse_transforms()
    request = Request.of(composite, "logit", layers, True, True)
    run = _Scored(model, tokens, scored)
    columns = [(f"counted[{i}]", i) for i in range(len(counted))]
    found, _ = propagate(model, run.embedded, columns, request, run=run)
    return tuple(
        replace(each, input=each.input.sum(-1), logits=total[:, None]) for each, total in zip(found, sums, strict=True)
    )


def integrated_gradients(
    model: nn.Module, tokens: Tensor, counted: Tensor, *, steps: int = 32, baseline: int | None = None
) -> tuple[Tensor, Tensor]:
    """Integrated gradients of F (Sundararajan et al. 2017), from embeddings e0 that say nothing to those of the tokens.

        R_t = sum_d (e - e0)_td 1/m sum_k dF/de_td at e0 + (k + 1/2) / m (e - e0),    k = 0 .. m - 1

    Arguments as in `token_relevance`, with one set of tokens; steps: m. baseline: the token that says nothing (that
    fills up, say) everywhere; None: zeros. A model that normalises its embeddings first jumps there: it needs a token.

    Returns:
        (R [B, T], completeness error [B]: |sum R - (F(e) - F(e0))| / |F(e) - F(e0)|, which more steps lessen).
    """
    check_tokens(tokens, counted)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps!r}")
    run = _Scored(model, tokens, lambda logits: log_probability(logits, tokens, counted))
    embedded = run.embedded
    nothing = torch.zeros_like(embedded)
    if baseline is not None:
        nothing = embeddings(model, torch.full_like(tokens, baseline))
    total, way = torch.zeros_like(embedded), embedded - nothing
    with compiled_parts_as_written():
        with torch.inference_mode(False), torch.enable_grad():
            for k in range(steps):
                at = (nothing + (k + 0.5) / steps * way).requires_grad_()
                total += torch.autograd.grad(run(at).sum(), at)[0]
        with torch.no_grad():
            change = run(embedded) - run(nothing)
    found = (way * total / steps).sum(-1)
    return found, (found.sum(1) - change).abs() / change.abs()


def log_probability(logits: Tensor, tokens: Tensor, counted: Tensor) -> Tensor:
    """F [B] of logits [B, T, vocabulary]: the sum of log p(token | all before it) over the `counted` tokens."""
    odds = _wide(logits[:, :-1]).log_softmax(-1)
    of_tokens = odds.gather(-1, tokens[:, 1:, None])[..., 0]
    return of_tokens.where(counted[:, 1:], torch.zeros_like(of_tokens)).sum(1)


def _wide(values: Tensor) -> Tensor:
    """At least in float32."""
    return values.float() if values.dtype.itemsize < 4 else values


def language_logits(output: Any, tokens: Tensor) -> Tensor:
    """The logits [B, T, vocabulary] in what a language model returned. ValueError if there are none."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 3 or logits.shape[:2] != tokens.shape:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"model: expected logits [{tokens.shape[0]}, {tokens.shape[1]}, vocabulary] or an object with .logits, "
            f"got {got}"
        )
    return logits


def check_tokens(tokens: Tensor, counted: Tensor) -> None:
    if not isinstance(tokens, Tensor) or tokens.dtype != torch.int64 or tokens.dim() != 2 or 0 in tokens.shape:
        got = f"{tokens.dtype} {tuple(tokens.shape)}" if isinstance(tokens, Tensor) else type(tokens).__name__
        raise TypeError(f"tokens: expected int64 [B, T], got {got}")
    if not isinstance(counted, Tensor) or counted.dtype != torch.bool or counted.shape != tokens.shape:
        got = f"{counted.dtype} {tuple(counted.shape)}" if isinstance(counted, Tensor) else type(counted).__name__
        raise TypeError(f"counted: expected bool {list(tokens.shape)}, got {got}")
    if bool(counted[:, 0].any()) or not bool(counted.any(1).all()):
        raise ValueError("counted: expected at least one token of each text, and not its first, which nothing predicts")


class _Scored:
    """Embeddings of the tokens [B, T, D] -> `score` of the model's logits; of fewer texts, the logits."""

    def __init__(self, model: nn.Module, tokens: Tensor, score: Callable[[Tensor], Tensor]) -> None:
        self.model, self.tokens, self.score = model, tokens, score
        self.embedded, self.table = look_up(lambda: model(tokens), model, tokens)

    def __call__(self, embedded: Tensor) -> Tensor:
        tokens = self.tokens[: len(embedded)]
        with Lookup(tokens, self.table, embedded):
            logits = language_logits(self.model(tokens), tokens)
        return self.score(logits) if len(tokens) == len(self.tokens) else logits
