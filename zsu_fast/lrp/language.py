"""Relevance of models that take texts by name: from logits, at positions of a text, to the embeddings of its tokens."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.overrides import _get_current_function_mode_stack

from .conservation import Ledger
from .embedded import Lookup, look_up
from .engine import Engine
from .models import checked_model
from .passes import Request, propagate
from .result import Relevance
from .starts import Target, Unseen, start
from .texts import Asked, At, Texts


@torch.inference_mode(False)  # what is made here meets autograd in the passes
def text_relevance(
    model: Callable[..., Any],
    inputs: Mapping[str, Any],
    target: Target | At | Sequence[Target | At],
    request: Request,
    ledger: Ledger | None = None,
) -> list[Relevance]:
    """What `relevance` does with inputs by name; see there."""
    texts = Texts.of(inputs)
    wanted = target if isinstance(target, list) else [target]
    if not wanted:
        raise ValueError("target is empty: give one target, or a list of at least one")
    labels = [f"target[{i}]" for i in range(len(wanted))] if isinstance(target, list) else ["target"]
    asked = [texts.asked(label, value) for label, value in zip(labels, wanted, strict=True)]
    run = _Run(checked_model(model), texts, asked, request)
    columns = list(zip(labels, range(len(asked)), strict=True))
    found, _ = propagate(run.model, run.inputs, columns, replace(request, init="logit"), ledger, run)
    for unseen in run.unseen:
        unseen.check()
    return [
        replace(each, **run.at_inputs(each.input), logits=logits)
        for each, logits in zip(found, run.logits, strict=True)
    ]


class _Run:
    """The model as a function of the embeddings of its tokens, and of whatever else it is given in floating point.

    What it returns, [N, targets], is the logit of each target: times a constant, so that its relevance starts as `init`
    says.

    Attributes:
        inputs: What it takes: the embeddings [N, T, D], or [N, values] where there is more than these.
        logits: For each target those where it is, [N, vocabulary or classes].
        unseen: What the host still has to look at.
    """

    def __init__(self, model: Callable[..., Any], texts: Texts, asked: Sequence[Asked], request: Request) -> None:
        self.model, self.texts, self.asked, self.request = model, texts, asked, request
        self.extra, self.kept = _extra(model, texts, asked)
        self.leaves, self.table = dict(texts.leaves), None
        if texts.tokens is not None:
            call = lambda: model(**texts.arguments, **self.extra)  # noqa: E731
            embedded, self.table = look_up(call, model, texts.tokens, "inputs['input_ids']")
            self.leaves = {"input_ids": embedded, **self.leaves}
        self.inputs = next(iter(self.leaves.values()))
        if len(self.leaves) > 1:
            self.inputs = torch.cat([leaf.reshape(len(texts), -1) for leaf in self.leaves.values()], 1)
        self.logits: list[Tensor] = []
        self.unseen: list[Unseen] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        count = len(inputs)
        given = {**self.texts.first(count), **self._apart(inputs), **self.extra}
        if self.texts.tokens is None:
            return self._explained(self.model(**given), count)
        tokens = self.texts.tokens[:count]
        with looked_up(Lookup(tokens, self.table, given["input_ids"])):
            output = self.model(**{**given, "input_ids": tokens})
        return self._explained(output, count)

    def at_inputs(self, relevance: Tensor) -> dict[str, Any]:
        """The fields of a `Relevance` for that of `inputs`; without it, [N, 0], as it is."""
        if not relevance.numel():
            return {"input": relevance}
        others = self._apart(relevance)
        embedded = others.pop("input_ids" if self.texts.tokens is not None else "inputs_embeds")
        return {"input": embedded.sum(-1), "others": others}

    def _apart(self, values: Tensor) -> dict[str, Tensor]:
        """The leaves in `values`, of the shape of `inputs`, for its first texts."""
        if len(self.leaves) == 1:
            return dict.fromkeys(self.leaves, values)
        parts = values.split([leaf.numel() // len(self.texts) for leaf in self.leaves.values()], 1)
        return {
            name: part.reshape(-1 if len(self.texts) > 1 else len(leaf), *leaf.shape[1:]).to(leaf.dtype)
            for (name, leaf), part in zip(self.leaves.items(), parts, strict=True)
        }

    def _explained(self, output: Any, count: int) -> Tensor:
        logits = getattr(output, "logits", output)
        if not isinstance(logits, Tensor) or logits.dim() not in (2, 3) or len(logits) != count:
            got = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"model: expected logits [{count}, T, vocabulary] or [{count}, classes], got {got}")
        if count < len(self.texts):
            return logits  # of a run for the shapes of layers alone
        self.logits, self.unseen, explained = [], [], []
        for one in self.asked:
            there = self._there(logits, one)
            c, unseen = start(there.detach(), one.label, one.token, self.request.init)
            explained.append((there * c).sum(1))
            self.logits.append(there.detach())
            self.unseen.append(unseen)
        return torch.stack(explained, 1)

    def _there(self, logits: Tensor, asked: Asked) -> Tensor:
        """The logits where a target is: [N, vocabulary or classes]."""
        if logits.dim() == 2:
            if asked.column is not None and not asked.anything:
                raise ValueError(
                    f"{asked.label}: the model has logits {list(logits.shape)} of whole texts: give a class"
                )
            return logits
        if asked.column is None:
            raise ValueError(f"{asked.label}: the model has logits {list(logits.shape)}: give (position, token)")
        column = asked.column
        if self.kept is not None and logits.shape[1] == len(self.kept):
            column = torch.searchsorted(self.kept, column)
        elif logits.shape[1] != self.texts.length:
            raise ValueError(f"model: expected logits of {self.texts.length} positions, got {list(logits.shape)}")
        return logits[torch.arange(len(logits), device=logits.device), column.to(logits.device)]


@contextmanager
def looked_up(lookup: Lookup) -> Iterator[None]:
    """`lookup` holds inside: it is asked by the engine that is under way, and else a mode of its own.

    A second mode takes its time at every function.
    """
    modes = _get_current_function_mode_stack()
    if not modes or not isinstance(engine := modes[-1], Engine):
        with lookup:
            yield
        return
    engine.lookup = lookup
    try:
        yield
    finally:
        engine.lookup = None


def _extra(model: Callable[..., Any], texts: Texts, asked: Sequence[Asked]) -> tuple[dict[str, Any], Tensor | None]:
    """Arguments for models of transformers that save work: no cache, logits of the positions asked for alone.

    With the positions, ascending.
    """
    extra: dict[str, Any] = {}
    known = inspect.signature(getattr(model, "forward", model)).parameters
    others = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in known.values()) and hasattr(model, "generate")
    if ("use_cache" in known or others) and "use_cache" not in texts.arguments:
        extra["use_cache"] = False
    columns = [one.column for one in asked if one.column is not None]
    if "logits_to_keep" not in known or "logits_to_keep" in texts.arguments or len(columns) < len(asked):
        return extra, None
    extra["logits_to_keep"] = kept = torch.stack(columns).unique()
    return extra, kept
