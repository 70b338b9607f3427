"""Autograd's graph behind the logits: what the engine has recorded, and what did not pass by it."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.utils.checkpoint import CheckpointFunction

from . import functions
from .collector import Collector
from .distributed import passes_on
from .engine import Engine, UncoveredFunctionError
from .names import Names

_PATTERN_NODES = (functions.Layer, functions.Scale, functions.Share)


def nodes_behind(logits: Tensor) -> Iterator[Any]:
    """Every node that `logits` come from, each once."""
    waiting, seen = [logits.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting.extend(parent for parent, _ in node.next_functions)


def lowest_edges(logits: Tensor, collector: Collector) -> list[GradientEdge]:
    """Where a pass that `collector` alone is to learn from may end: below each layer it wants that has none below it.

    It then runs no node that leads to none of them.
    """
    edges, reaching = [], set()  # nodes from which relevance reaches a wanted layer
    # What ran first comes first. (Leaves have no number of their own, and nothing below them.)
    for node in sorted(nodes_behind(logits), key=lambda node: node._sequence_nr()):
        below = any(parent in reaching for parent, _ in node.next_functions)
        unit = getattr(getattr(node, "call", node), "unit", None)  # of Layer, or of Heads
        wanted = unit is not None and collector.wants(unit)
        if wanted and not below:
            edges.append(GradientEdge(*node.next_functions[0]))
        if wanted or below:
            reaching.add(node)
    return edges


def _modules_calling(function: type, names: Names, run: Callable[[], object]) -> str:
    """Where an autograd.Function is applied: torch's modes do not see that, its forward tells it in a second run.

    Only for a message: an error is on its way already.
    """
    found: dict[str, None] = {}
    own = "forward" in vars(function)
    forward = function.forward  # type: ignore[attr-defined]

    def spy(*arguments: Any, **keywords: Any) -> Any:
        found[names.running_module() or ""] = None
        return forward(*arguments, **keywords)

    function.forward = staticmethod(spy)  # type: ignore[attr-defined]
    try:
        # Whatever the model does the second time is not what is told here.
        with torch.no_grad(), contextlib.suppress(Exception):
            run()
    finally:
        if own:
            function.forward = staticmethod(forward)  # type: ignore[attr-defined]
        else:
            del function.forward  # type: ignore[attr-defined]
    where = ", ".join(repr(name) for name in found if name)
    return f", called in module {where}" if where else ""


def check_graph(logits: Tensor, engine: Engine, strict: bool, run: Callable[[], object]) -> None:
    """Look for what no rule covers in the graph that leads to the logits; elsewhere it does not matter.

    `run` runs the model once more, to find out where, if something is found.

    A user's own autograd.Function, and tensors that were computed before, did not pass by the engine: they show here.
    """
    found = []
    for node in nodes_behind(logits):
        leaf = getattr(node, "variable", None)
        if leaf is not None and not engine.depends(leaf):
            raise ValueError(
                "model: it uses a tensor that was computed before the call, with a graph that leads to a parameter of "
                f"shape {tuple(leaf.shape)}; compute it in forward, or detach it"
            )
        function = getattr(node, "_forward_cls", None)
        if function is CheckpointFunction:
            raise ValueError(
                "model: torch.utils.checkpoint with use_reentrant=True hides what runs inside of it; pass "
                "use_reentrant=False, or switch checkpointing off"
            )
        if node in engine.refused:
            found.append(engine.refused[node])
        elif function is not None and engine.follows_patterns and function not in _PATTERN_NODES:
            reason = "PatternNet and PatternAttribution are not defined for a norm or an activation that stands alone"
            found.append(UncoveredFunctionError(reason))
        elif function is not None and function.__module__ != functions.__name__ and not passes_on(function):
            reason = "an autograd.Function brings a gradient of its own, which is no LRP rule"
            where = _modules_calling(function, engine.names, run)
            found.append(UncoveredFunctionError(f"{function.__qualname__}.apply{where}: {reason}"))
    if not found:
        return
    if strict:
        raise found[-1]  # the one that runs first
    listed = "; ".join(sorted({str(error) for error in found}))
    warnings.warn(
        f"relevance goes through ordinary gradients where no rule holds: {listed}", stacklevel=_depth_of_caller()
    )


def _depth_of_caller() -> int:
    """`stacklevel` of the code that called `relevance`, for a warning of the function that asks."""
    frame, depth = sys._getframe(1), 1
    while frame.f_back and frame.f_globals.get("__name__", "").startswith(("zsu_fast.lrp.", "torch._dynamo.")):
        frame, depth = frame.f_back, depth + 1
    return depth
