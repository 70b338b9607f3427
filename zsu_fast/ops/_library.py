"""The torch operator library `zsu_fast` and the one way to add an op to it.

An op is born here complete: schema, reference implementation, fake (shapes and strides for tracing) and, if it writes
to its arguments, the bookkeeping that autograd needs. The compiled libraries only add faster kernels for CPU and CUDA
under the same name, so every op works with none of them loaded.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

library = torch.library.Library("zsu_fast", "DEF")
lib = library

# Private name of torch, used nowhere else: the dispatch keys that come after ADInplaceOrView.
_AFTER_IN_PLACE = torch._C._after_ADInplaceOrView_keyset

_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides)

names: list[str] = []
"""Every op defined so far, in order, by its name without the namespace."""


def define(schema: str, reference: Callable[..., Any], fake: Callable[..., Any], mutates: tuple[int, ...] = ()) -> None:
    """Define an op of the namespace `zsu_fast`.

    Args:
        schema: name, arguments and returns as torch writes them. An op that writes to its arguments returns `()`:
            autograd and torch.compile reject custom ops whose outputs alias their inputs.
        reference: what the op computes, in plain PyTorch; serves every device that has no compiled kernel.
        fake: the outputs' shapes, strides and dtypes, computed without data.
        mutates: positions of the arguments that are written to (Tensor, Tensor? or Tensor[]); exactly those that the
            schema annotates.

    Raises:
        ValueError: `mutates` and the schema disagree, or an op that mutates returns something.
    """
    parsed = torch._C.parse_schema(f"zsu_fast::{schema}")
    written = tuple(
        i
        for i, argument in enumerate(parsed.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    if written != mutates:
        raise ValueError(f"{schema}: the schema writes to arguments {written}, mutates says {mutates}")
    if mutates and parsed.returns:
        raise ValueError(f"{schema}: an op that writes to its arguments must return ()")

    name = schema.partition("(")[0]
    library.define(schema, tags=_TAGS)
    library.impl(name, reference, "CompositeExplicitAutograd")
    torch.library.register_fake(f"zsu_fast::{name}", fake, lib=library)
    if mutates:
        _count_versions(name, mutates)
    names.append(name)


def _count_versions(name: str, mutates: tuple[int, ...]) -> None:
    """Tell autograd that op `name` writes: without this, a backward that needs the old values is silently wrong."""
    op = getattr(torch.ops.zsu_fast, name).default

    def kernel(keyset: Any, *args: Any) -> None:
        # All at once; passes over inference tensors, which have no version counter.
        torch.autograd.graph.increment_version([t for position in mutates for t in _tensors(args[position])])
        op.redispatch(keyset & _AFTER_IN_PLACE, *args)

    library.impl(name, kernel, "ADInplaceOrView", with_keyset=True)


def _tensors(argument: Tensor | list[Tensor] | None) -> Iterator[Tensor]:
    if isinstance(argument, Tensor):
        yield argument
    elif argument is not None:
        yield from argument
