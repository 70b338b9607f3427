"""The embeddings of tokens: what a text model looks up for them, and how to give it others in their place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack

from .eager import compiled_parts_as_written


class _Found(Exception):
    """The embeddings are found: the rest of the pass is not needed."""


class Lookup(TorchFunctionMode):
    """Inside, looking up the embeddings of `tokens` in `table` gives `given`.

    Without `given`, what is looked up ends the pass. Without `table`, it is the first in which these tokens are looked
    up; positions may happen to have the same numbers, in a table of their own.
    """

    def __init__(
        self, tokens: Tensor, table: Tensor | None, given: Tensor | None = None, label: str = "tokens"
    ) -> None:
        super().__init__()
        self.tokens, self.table, self.given, self.label = tokens, table, given, label
        self.found: tuple[Tensor, Tensor] | None = None

    def __exit__(self, *exception: Any) -> None:
        if self in _get_current_function_mode_stack():  # an interrupt may have come while torch had set it aside
            super().__exit__(*exception)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        found = self.of(*args, **kwargs) if func is F.embedding else None
        return func(*args, **kwargs) if found is None else found

    def of(self, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
        """What F.embedding of these arguments is to give, if it is the look-up that is meant."""
        if not self._is_meant(input, weight):
            return None
        if self.given is not None:
            return self.given
        _check_numbers(self.label, input, weight)
        self.found = F.embedding(input, weight, *args, **kwargs).detach(), weight
        raise _Found

    def _is_meant(self, indices: Tensor, table: Tensor) -> bool:
        if indices.shape != self.tokens.shape or not (self.table is None or table is self.table):
            return False
        return self.table is not None or torch.equal(indices, self.tokens)


def _check_numbers(label: str, tokens: Tensor, table: Tensor) -> None:
    if tokens.device != table.device:
        raise ValueError(f"{label}: expected tokens on the model's device, {table.device}, got {tokens.device}")
    wrong = ((tokens < 0) | (tokens >= len(table))).nonzero()
    if len(wrong):
        text, place = wrong[0].tolist()
        got = int(tokens[text, place])
        raise ValueError(f"{label}: expected numbers in 0..{len(table) - 1}, got {got} in text {text} at {place}")


def look_up(run: Callable[[], Any], model: object, tokens: Tensor, label: str = "tokens") -> tuple[Tensor, Tensor]:
    """(embeddings [B, T, D], their table) that `model` looks up for `tokens` [B, T] when `run` runs it.

    ValueError: it looks up none (with torch.nn.functional.embedding), or its table has no such tokens. `label` names
    them.
    """
    named = getattr(model, "get_input_embeddings", None)  # as the models of transformers have it
    mode = Lookup(tokens, getattr(named() if callable(named) else None, "weight", None), label=label)
    try:
        with torch.no_grad(), compiled_parts_as_written(), mode:
            run()
    except _Found:
        assert mode.found is not None
        return mode.found
    raise ValueError("model: it looks up no embeddings of its tokens (with torch.nn.functional.embedding)")


def embeddings(model: nn.Module, tokens: Tensor) -> Tensor:
    """The embeddings [B, T, D] that `model(tokens)` looks up. ValueError if it does not."""
    return look_up(lambda: model(tokens), model, tokens)[0]
