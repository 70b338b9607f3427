"""Whose rows are whose: tokens of several samples that were picked out, as a router does for its experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .marks import Marks
from .tables import functions_named

_INDEX_SELECT = frozenset(functions_named("index_select"))
# fmt: off
_ROW_BY_ROW = frozenset(functions_named(
    "__add__", "__getitem__", "__mul__", "__radd__", "__rmul__", "__truediv__", "_grouped_mm", "add", "bfloat16",
    "chunk", "clamp", "clone", "contiguous", "div", "dropout", "float", "gelu", "half", "linear", "masked_fill",
    "matmul", "mm", "mul", "relu", "sigmoid", "silu", "split", "tanh", "to", "type_as",
)) | frozenset([F.grouped_mm] if hasattr(F, "grouped_mm") else [])
# fmt: on
"""What leaves each row of dimension 0 where it is."""


def note_rows(
    marks: Marks, samples: int, func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> None:
    """Mark the `result` of `func` with the sample [rows] of each row, if rows were picked, now or before."""
    if samples < 2 or not args:
        return
    rows = _picked(marks, samples, args[0], _index(func, args, kwargs))
    if rows is None and func in _ROW_BY_ROW:
        known = (marks[t].rows for t in args if isinstance(t, Tensor))
        rows = next((r for r in known if r is not None), None)
    if rows is None:
        return
    for output in result if isinstance(result, tuple | list) else (result,):
        if isinstance(output, Tensor) and output.dim() > 1 and len(output) == len(rows):
            marks[output] = marks[output]._replace(rows=rows)


def _index(func: Callable, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """By which numbers `func` picks rows of its first argument, if it does."""
    if func is torch.Tensor.__getitem__:
        return args[1]
    if func in _INDEX_SELECT:
        dim, index = *args[1:], *(kwargs[name] for name in ("dim", "index")[len(args) - 1 :])
        return index if dim == 0 else None
    return None


def _picked(marks: Marks, samples: int, values: Any, index: Any) -> Tensor | None:
    """The samples of the rows that are picked."""
    if not isinstance(index, Tensor) or index.dtype not in (torch.int64, torch.int32) or index.dim() != 1:
        return None
    rows = marks[values].rows
    if rows is None:
        if len(values) % samples:
            return None
        rows = torch.arange(len(values), device=values.device) // (len(values) // samples)
    return rows[index]
