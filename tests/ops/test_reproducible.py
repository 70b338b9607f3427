"""Every op gives the same bits in every run, and in a captured CUDA graph whose operands change between replays."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from tests.graphs import captured
from tests.ops import samples
from tests.ops.samples import tensors_of
from tests.ops.scores import RUNS
from zsu_fast.ops import _library

Arguments = tuple[Any, ...]


def _topk_count(device: torch.device) -> Iterator[Arguments]:
    for shape, k in (((36, 512), 50), ((3, 5000), 4999), ((2, 70), 0)):
        yield (torch.randn(shape, device=device).round(decimals=1), k, False)


def _topk_indices(device: torch.device) -> Iterator[Arguments]:
    scores = [torch.randn(units, device=device).round(decimals=1) for units in (4096, 70, 9)]
    yield (scores, [500, 0, 9], False)
    yield (scores, [1, 69, 3], True)


def _topk_mask(device: torch.device) -> Iterator[Arguments]:
    for absolute in (False, True):
        weight, scores = torch.randn(2, 40_000, device=device)
        indices, values = torch.empty(900, dtype=torch.int64, device=device), torch.empty(900, device=device)
        yield (weight, scores.round(decimals=1), 900, absolute, 0.0, None, None)
        yield (weight, scores.round(decimals=1), 900, absolute, 0.5, indices, values)


def _mask_neurons(device: torch.device) -> Iterator[Arguments]:
    tensors = [
        torch.randn(64, 32, 3, 3, device=device),
        torch.randn(64, device=device),
        torch.randn(10, 64, device=device),
    ]
    index = torch.tensor([3, 63, 5], device=device)
    saved = [t.index_select(d, index) for t, d in zip(tensors, (0, 0, 1), strict=True)]
    yield (tensors, [index] * 3, [0, 0, 1], [], [], 0, 0.0)
    yield (tensors, [index] * 3, [0, 0, 1], saved, [], 1, 0.5)


ARGUMENTS: dict[str, Callable[[torch.device], Iterator[Arguments]]] = {
    **{
        op: lambda device, op=op: (arguments for _, arguments in samples.samples(op, torch.bfloat16, device))
        for op in samples.OPS
    },
    "topk_count": _topk_count,
    "topk_indices": _topk_indices,
    "topk_mask_": _topk_mask,
    "mask_neurons_": _mask_neurons,
}


def test_every_op_is_held_to_this() -> None:
    assert set(ARGUMENTS) == set(_library.names), "give each op some arguments in the table above"


def flat(arguments: Sequence[Any]) -> list[Tensor]:
    """The tensors among the arguments, lists opened."""
    return [t for a in arguments for t in (a if isinstance(a, list) else [a]) if isinstance(t, Tensor)]


def call(op: str, arguments: Arguments) -> list[Tensor]:
    """What the op returns or, if it writes to its arguments, what it writes (to copies)."""
    overload = getattr(torch.ops.zsu_fast, op).default
    writes = [a.alias_info is not None and a.alias_info.is_write for a in overload._schema.arguments]
    given = [
        tree_map(lambda t: t.clone() if isinstance(t, Tensor) else t, argument) if written else argument
        for written, argument in zip(writes, arguments, strict=True)
    ]
    returned = overload(*given)
    return (
        flat([a for written, a in zip(writes, given, strict=True) if written])
        if any(writes)
        else list(tensors_of(returned))
    )


def assert_same(left: list[Tensor], right: list[Tensor]) -> None:
    for a, b in zip(left, right, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("op", ARGUMENTS)
def test_the_same_bits_in_every_run(op: str, device: torch.device) -> None:
    for arguments in ARGUMENTS[op](device):
        first = call(op, arguments)
        for _ in range(RUNS - 1 if device.type == "cuda" else 1):
            assert_same(first, call(op, arguments))


@pytest.mark.parametrize("op", ARGUMENTS)
def test_a_captured_graph_follows_its_operands(op: str, device: torch.device) -> None:
    for number, arguments in enumerate(ARGUMENTS[op](device)):
        if number % 7:  # each sample once would be thousands of graphs
            continue
        replay, outputs = captured(lambda arguments=arguments: call(op, arguments), device)
        for _ in range(2):
            for tensor in flat(arguments):
                if tensor.is_floating_point() and 0 not in tensor.stride():
                    tensor.neg_()
            replay()
            assert_same(outputs, call(op, arguments))
