"""How often each unit is among the k most relevant."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.scores import DTYPES, LAYOUTS, RUNS, SCORES, ranking
from zsu_fast import ops
from zsu_fast.reference import selection as reference


def brute_force(relevance, k, absolute):
    counts = [0] * relevance.shape[1]
    for row in relevance.tolist():
        for unit in ranking(row, absolute)[:k]:
            counts[unit] += 1
    return torch.tensor(counts, dtype=torch.int64)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_counts_every_kind_of_score(device, dtype, kind, absolute):
    relevance = SCORES[kind]((9, 37), dtype)
    for k in (0, 1, 7, 36, 37):
        expected = brute_force(relevance, k, absolute)
        assert torch.equal(reference.topk_count(relevance, k, absolute), expected)
        assert torch.equal(ops.topk_count(relevance.to(device), k, absolute=absolute).cpu(), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_counts_every_layout(device, layout):
    relevance = SCORES["few_values"]((13, 50), torch.float32).to(device)
    expected = brute_force(relevance, 20, False)
    assert torch.equal(ops.topk_count(LAYOUTS[layout](relevance), 20).cpu(), expected)
    assert torch.equal(ops.topk_count(relevance[:1].expand(4, -1), 20), 4 * ops.topk_count(relevance[:1], 20))


@settings(max_examples=RUNS, deadline=None)
@given(
    samples=st.integers(0, 40),
    units=st.integers(0, 300),
    share=st.floats(0, 1),
    kind=st.sampled_from(sorted(SCORES)),
    dtype=st.sampled_from(DTYPES),
    absolute=st.booleans(),
)
def test_equals_the_reference_for_any_shape(samples, units, share, kind, dtype, absolute):
    relevance = SCORES[kind]((samples, units), dtype)
    k = round(share * units)
    counts = ops.topk_count(relevance, k, absolute=absolute)
    assert torch.equal(counts, reference.topk_count(relevance, k, absolute))
    assert counts.sum() == samples * k


@pytest.mark.parametrize("kind", ["random", "few_values", "rectified", "non_finite"])
def test_wide_rows(device, kind):
    """Rows long enough for every route through the selection."""
    relevance = SCORES[kind]((3, 30_000), torch.float32)
    for k in (1, 300, 15_000, 29_999):
        expected = reference.topk_count(relevance, k, False)
        assert torch.equal(ops.topk_count(relevance.to(device), k).cpu(), expected)


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["random", "few_values", "rectified", "non_finite"])
def test_few_samples_of_very_many_units(device, kind, dtype, absolute):
    """So few that a GPU takes all its multiprocessors for each, in memory that is read by vectors and not."""
    wide = SCORES[kind]((2, 40_001), dtype).to(device)
    for relevance in (wide[:1], wide[1:], wide[:1, 1:], wide.T.contiguous().T[1:]):
        for k in (1, 20_000, relevance.shape[1] - 1, relevance.shape[1]):
            expected = reference.topk_count(relevance, k, absolute)
            assert torch.equal(ops.topk_count(relevance, k, absolute=absolute), expected)


def test_same_for_any_number_of_threads():
    relevance = SCORES["few_values"]((64, 5000), torch.float32)
    threads = torch.get_num_threads()
    try:
        counts = []
        for n in (1, 2):
            torch.set_num_threads(n)
            counts.append(ops.topk_count(relevance, 1234))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*counts)


def test_empty(device):
    for samples, units in ((0, 5), (3, 0), (0, 0)):
        counts = ops.topk_count(torch.empty(samples, units, device=device), 0)
        assert torch.equal(counts.cpu(), torch.zeros(units, dtype=torch.int64))
    assert torch.equal(ops.topk_count(torch.empty(0, 5, device=device), 5).cpu(), torch.zeros(5, dtype=torch.int64))


def test_registered_as_torch_wants_it(device):
    relevance = torch.randn(4, 9, device=device)
    torch.library.opcheck(torch.ops.zsu_fast.topk_count.default, (relevance, 3, True))
    compiled = torch.compile(lambda r: ops.topk_count(r, 3) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(relevance), ops.topk_count(relevance, 3) + 1)


def test_is_a_constant_to_autograd():
    counts = ops.topk_count(torch.randn(4, 9, requires_grad=True), 3)
    assert not counts.requires_grad


@pytest.mark.parametrize(
    ("relevance", "k", "error", "text"),
    [
        (torch.randn(4), 1, ValueError, r"relevance must have shape \[samples, units\], got \(4,\)"),
        (torch.randn(2, 4), 5, ValueError, r"k must be in 0\.\.4 \(the number of units\), got 5"),
        (torch.randn(2, 4), -1, ValueError, r"k must be in 0\.\.4"),
        (torch.randn(2, 4), 1.0, TypeError, "k must be an int, got float"),
        (torch.randn(2, 4), True, TypeError, "k must be an int, got bool"),
        (torch.ones(2, 4, dtype=torch.int64), 1, TypeError, "relevance must be a dense float32.*got torch.int64"),
        ([[1.0, 2.0]], 1, TypeError, "relevance must be a Tensor, got list"),
    ],
)
def test_refuses(relevance, k, error, text):
    with pytest.raises(error, match=text):
        ops.topk_count(relevance, k)


def test_the_op_itself_refuses_what_would_read_outside():
    with pytest.raises((RuntimeError, IndexError)):
        torch.ops.zsu_fast.topk_count(torch.randn(4), 1, False)


@pytest.mark.cuda
def test_in_a_captured_graph():
    relevance = torch.randn(36, 512, device="cuda")
    ops.topk_count(relevance, 50)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        counts = ops.topk_count(relevance, 50)
    relevance.copy_(SCORES["few_values"]((36, 512), torch.float32))
    graph.replay()
    assert torch.equal(counts.cpu(), ops.topk_count(relevance.cpu(), 50))
