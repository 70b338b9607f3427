"""Where the k largest scores are, for many vectors in one call."""

import pytest
import torch

from tests.ops.scores import DTYPES, LAYOUTS, SCORES, changing, ranking
from zsu_fast import ops
from zsu_fast.ops import _load
from zsu_fast.reference import selection as reference


def brute_force(scores, k, absolute):
    return sorted(ranking(scores.tolist(), absolute)[:k])


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_finds_every_kind_of_score(device, dtype, absolute):
    """Vectors of all lengths, layouts and kinds at once."""
    scores, k = [], []
    for kind in SCORES:
        for units in (0, 1, 37, 600):
            vector = SCORES[kind]((units,), dtype).to(device)
            for count in {0, units // 3, units}:
                scores.append(LAYOUTS["every_second" if count % 2 else "contiguous"](vector))
                k.append(count)
    result = ops.topk_indices(scores, k, absolute=absolute)
    assert len(result) == len(scores)
    for vector, count, indices in zip(scores, k, result, strict=True):
        assert indices.dtype == torch.int64 and indices.device == vector.device and indices.is_contiguous()
        assert indices.tolist() == brute_force(vector, count, absolute)
    assert torch.equal(torch.cat(result).cpu(), reference.topk_indices([s.cpu() for s in scores], k, absolute))


@pytest.mark.parametrize("kind", ["random", "few_values", "rectified", "non_finite"])
def test_long_vectors(device, kind):
    """Long enough for every route through the selection, with ties that end anywhere."""
    scores = SCORES[kind]((150_000,), torch.float32)
    counts = [1, 300, 75_000, 149_999]
    result = ops.topk_indices([scores.to(device)] * 4, counts)
    for count, indices in zip(counts, result, strict=True):
        assert torch.equal(indices.cpu(), reference.topk_indices([scores], [count], False))


def test_one_vector_and_many(device):
    scores = torch.tensor([1.0, 3.0, 2.0, 3.0], device=device)
    assert ops.topk_indices(scores, 2).tolist() == [1, 3]
    assert [i.tolist() for i in ops.topk_indices([scores, scores[1:]], 1)] == [[1], [0]]
    assert [i.tolist() for i in ops.topk_indices((scores, -scores), (3, 1))] == [[1, 2, 3], [0]]
    assert ops.topk_indices([], 1) == []


def test_from_scores_to_masked_heads_and_units(device):
    """Attention heads are slices of views: their rows in q, k and v, their columns in the projection."""
    heads, width, hidden = 4, 8, 24
    qkv, projection = torch.ones(3 * heads * width, 5, device=device), torch.ones(5, heads * width, device=device)
    up, down = torch.ones(hidden, 5, device=device), torch.ones(5, hidden, device=device)
    scores = [torch.tensor([0.0, 2.0, 1.0, 2.0], device=device), torch.arange(hidden, device=device).float()]
    by_head, by_unit = ops.topk_indices(scores, [1, 3])
    ops.mask_neurons_(
        [qkv.view(3, heads, width, 5), projection.view(5, heads, width), up, down],
        [by_head, by_head, by_unit, by_unit],
        [1, 1, 0, 1],
        check=False,
    )
    rows = (qkv.view(3, heads, width, 5) == 0).all(3)
    assert rows.any(2).any(0).tolist() == [False, True, False, False] and rows[:, 1].all()
    assert (projection == 0).all(0).nonzero().flatten().tolist() == list(range(width, 2 * width))
    assert (up == 0).all(1).nonzero().flatten().tolist() == [21, 22, 23]
    assert (down == 0).all(0).nonzero().flatten().tolist() == [21, 22, 23]


def test_same_for_any_number_of_threads():
    scores = [SCORES["few_values"]((n,), torch.float32) for n in (5, 5000, 200_000)]
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(torch.cat(ops.topk_indices(scores, [2, 2001, 123_456])))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)


def test_registered_as_torch_wants_it(device):
    scores = [torch.randn(9, device=device), torch.randn(4, device=device)]
    torch.library.opcheck(torch.ops.zsu_fast.topk_indices.default, (scores, [3, 1], True))
    compiled = torch.compile(lambda a, b: ops.topk_indices([a, b], [3, 1])[0] + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*scores), ops.topk_indices(scores[0], 3) + 1)


@pytest.mark.parametrize(
    ("scores", "k", "error", "text"),
    [
        (torch.randn(2, 3), 1, ValueError, r"scores must be one-dimensional, got shape \(2, 3\)"),
        (
            [torch.randn(3), torch.randn(2)],
            3,
            ValueError,
            r"k must be in 0\.\.2 \(the number of units of scores\[1\]\)",
        ),
        ([torch.randn(3)], [1, 1], ValueError, "k must be an int or one for each of the 1 vectors, got 2"),
        (torch.randn(3), [1], TypeError, "k must be an int, got list"),
        (torch.randn(3), 1.0, TypeError, "k must be an int, got float"),
        (
            [torch.randn(3), torch.randn(3).half()],
            1,
            ValueError,
            r"one dtype and device, got .*scores\[1\], torch.float16",
        ),
        ([torch.randn(3), [1.0]], 1, TypeError, r"scores\[1\] must be a Tensor, got list"),
        (torch.arange(3), 1, TypeError, "scores must be a dense float32.*got torch.int64"),
        (None, 1, TypeError, "scores must be a Tensor or a sequence of Tensors, got NoneType"),
    ],
)
def test_refuses(scores, k, error, text):
    with pytest.raises(error, match=text):
        ops.topk_indices(scores, k)


@pytest.mark.skipif(not _load.cpu_loaded, reason="the reference slices, and stays within memory")
@pytest.mark.parametrize(("scores", "k"), [([4], [5]), ([4], [-1]), ([4], []), ([2, 3], [1, 4])])
def test_the_op_itself_refuses_what_would_read_outside(scores, k):
    with pytest.raises(RuntimeError, match="topk_indices"):
        torch.ops.zsu_fast.topk_indices.default([torch.randn(n) for n in scores], k, False)


def test_scores_that_change_meanwhile_give_different_indices_within_bounds():
    n, k = 1 << 18, 64
    scores = torch.randn(n)
    for _ in changing(scores):
        indices = ops.topk_indices(scores, k)
        assert int(indices.min()) >= 0 and int(indices.max()) < n and bool((indices.diff() > 0).all())


@pytest.mark.cuda
def test_in_a_captured_graph():
    """Scores to masked neurons without the host; replayed on other scores."""
    scores = [torch.randn(700, device="cuda"), torch.randn(16, device="cuda")]
    weights = [torch.ones(700, 3, device="cuda"), torch.ones(3, 16, device="cuda")]

    def mask():
        return ops.mask_neurons_(weights, ops.topk_indices(scores, [90, 5]), [0, 1], check=False)

    mask()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mask()
    for kind in ("random", "few_values"):
        for vector, weight in zip(scores, weights, strict=True):
            vector.copy_(SCORES[kind](vector.shape, torch.float32))
            weight.fill_(1)
        graph.replay()
        first, second = ops.topk_indices([vector.cpu() for vector in scores], [90, 5])
        assert (weights[0] == 0).all(1).nonzero().flatten().tolist() == first.tolist()
        assert (weights[1] == 0).all(0).nonzero().flatten().tolist() == second.tolist()


@pytest.mark.cuda
def test_nothing_is_waited_for():
    scores, weight = torch.randn(64, device="cuda"), torch.ones(64, 3, device="cuda")
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.mask_neurons_(weight, ops.topk_indices(scores, 7), check=False)
        ops.topk_mask_(weight, torch.rand_like(weight), 5)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
    assert int((weight == 0).all(1).sum()) >= 7
