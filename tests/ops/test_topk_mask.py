"""Setting the elements of the k largest scores to a value."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ops.scores import DTYPES, LAYOUTS, RUNS, SCORES, assert_same_bits, bits, changing, ranking
from zsu_fast import ops
from zsu_fast.ops import _load
from zsu_fast.reference import masking as reference


def brute_force(weight, scores, k, value, absolute):
    """(masked weight, indices, old values); by Python's floats and lists."""
    picked = sorted(ranking(scores.flatten().tolist(), absolute)[:k])
    indices = torch.tensor(picked, dtype=torch.int64)
    flat = weight.contiguous().flatten().clone()
    values = flat[indices]
    flat[indices] = value
    return flat.view(weight.shape), indices, values


def check(weight, scores, k, value, absolute):
    """Against brute force, with and without recording; restores the weight bit for bit."""
    expected, indices, values = brute_force(weight.cpu(), scores.cpu(), k, value, absolute)
    original = weight.clone()

    masked = weight.clone(memory_format=torch.preserve_format)
    reference.topk_mask_(masked, scores, k, absolute, value, None, None)
    assert_same_bits(masked.cpu(), expected)

    assert ops.topk_mask_(weight, scores, k, value, absolute=absolute) is weight
    assert_same_bits(weight.cpu(), expected)

    weight.copy_(original)
    result = ops.topk_mask_(weight, scores, k, value, absolute=absolute, record=True)
    assert result[0] is weight
    assert_same_bits(weight.cpu(), expected)
    assert torch.equal(result[1].cpu(), indices)
    assert_same_bits(result[2].cpu(), values)
    flat = weight.flatten().clone()
    flat[result[1]] = result[2]
    weight.copy_(flat.view(weight.shape))
    assert_same_bits(weight.cpu(), original.cpu())


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_masks_by_every_kind_of_score(device, dtype, kind, absolute):
    scores = SCORES[kind]((7, 5, 3), dtype).to(device)
    for k in (0, 1, 40, 104, 105):
        check(torch.randn(7, 5, 3).to(device, dtype), scores, k, 0.25, absolute)


@pytest.mark.parametrize("scores_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("weight_dtype", DTYPES, ids=str)
def test_scores_of_another_dtype(device, weight_dtype, scores_dtype):
    check(torch.randn(90).to(device, weight_dtype), SCORES["random"]((90,), scores_dtype).to(device), 30, -1.0, True)


@pytest.mark.parametrize("scores_layout", LAYOUTS)
@pytest.mark.parametrize("weight_layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5, 2), (3, 2, 2, 3, 2)])
def test_scores_of_another_layout(device, shape, weight_layout, scores_layout):
    """Ties are decided by the row-major index, wherever the elements lie; memory between them is left alone."""
    for kind in ("few_values", "random"):
        weight = LAYOUTS[weight_layout](torch.randn(shape).to(device))
        scores = LAYOUTS[scores_layout](SCORES[kind](shape, torch.float32).to(device))
        around = weight._base if weight_layout in ("slice", "every_second") else None
        before = None if around is None else int((around == 7).sum())
        check(weight, scores, weight.numel() // 3, 0.0, False)
        if around is not None:
            assert int((around == 7).sum()) == before


@settings(max_examples=RUNS, deadline=None)
@given(
    shape=st.lists(st.integers(0, 7), max_size=4),
    share=st.floats(0, 1),
    kind=st.sampled_from(sorted(SCORES)),
    layouts=st.tuples(st.sampled_from(sorted(LAYOUTS)), st.sampled_from(sorted(LAYOUTS))),
    dtypes=st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    absolute=st.booleans(),
)
def test_any_shape_stride_and_k(shape, share, kind, layouts, dtypes, absolute):
    weight = LAYOUTS[layouts[0]](torch.randn(shape).to(dtypes[0]))
    scores = LAYOUTS[layouts[1]](SCORES[kind](shape, dtypes[1]))
    check(weight, scores, round(share * weight.numel()), 0.5, absolute)


@pytest.mark.parametrize("kind", ["random", "few_values", "one_value", "rectified", "non_finite"])
@pytest.mark.parametrize("shape", [(200_001,), (130, 70, 3, 3)])
def test_large(device, shape, kind):
    """Several work items, samples that bracket the threshold, ties that end within a work item."""
    scores = _channels_last(SCORES[kind](shape, torch.float32)).to(device)
    original = _channels_last(torch.randn(shape)).to(device)
    n = original.numel()
    for k in (1, n // 1000, n // 3, n - 1):
        indices, values = torch.empty(k, dtype=torch.int64, device=device), torch.empty(k, device=device)
        expected = original.clone()
        reference.topk_mask_(expected, scores, k, False, 2.0, indices, values)
        weight, got_indices, got_values = ops.topk_mask_(original.clone(), scores, k, 2.0, record=True)
        assert torch.equal(weight, expected)
        assert torch.equal(got_indices, indices) and torch.equal(got_values, values)
        assert torch.equal(ops.topk_mask_(original.clone(), scores, k, 2.0), expected)


def _channels_last(tensor):
    return LAYOUTS["channels_last"](tensor)


@pytest.mark.parametrize("descending", [False, True])
def test_sorted_scores(device, descending):
    """No regularity of the data may mislead the sample."""
    scores = torch.arange(200_000, dtype=torch.float32).sort(descending=descending).values.to(device)
    for k in (1, 2000, 199_000):
        weight = ops.topk_mask_(torch.ones(200_000, device=device), scores, k)
        assert torch.equal(weight == 0, scores >= 200_000 - k)


def test_a_sample_that_misleads(device):
    """Rare large scores that a sample of one in 32 hardly sees: the result does not depend on the luck of the draw."""
    scores = torch.zeros(100_000)
    picked = torch.randperm(100_000)[:50]
    scores[picked] = torch.arange(1, 51, dtype=torch.float32)
    for k in (10, 50, 60):
        weight = ops.topk_mask_(torch.ones(100_000, device=device), scores.to(device), k).cpu()
        expected = torch.ones(100_000)
        expected[torch.tensor(ranking(scores.tolist(), False)[:k])] = 0
        assert torch.equal(weight, expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_threshold_at_the_edge_of_many_ties(device, dtype):
    """Where a sample brackets the edge and the threshold falls just above, at or below it; in either half of signs."""
    n, zeros = 50_000, 20_000
    scores = torch.randn(n).abs().clamp(min=1e-3)
    scores[torch.randperm(n)[:zeros]] = 0.0
    scores[::7] *= -1
    above = int((scores > 0).sum())
    for k in (above - 2, above, above + 1, above + zeros - 1, above + zeros, above + zeros + 1):
        check(torch.randn(n).to(device, dtype), scores.to(device, dtype), k, 0.0, False)


def _crowd(crowded, spread, absolute):
    """Scores, as many as there are flags: those that are set from 1 to 1 + spread, the others far larger or smaller."""
    far = torch.tensor([math.nan, math.inf, -math.inf, 8.0, -8.0, 0.125, 0.0, -0.0], dtype=torch.float64)
    near = 1 + spread * torch.rand(len(crowded), dtype=torch.float64)
    if absolute:
        near[::2] *= -1
    return torch.where(crowded, near, far[torch.randint(len(far), (len(crowded),))])


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "every_second"])
@pytest.mark.parametrize("evenly", [True, False])
@pytest.mark.parametrize("spread", [0.25, 2.0**-12, 2.0**-30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_crowd_at_the_threshold(device, dtype, spread, evenly, layout, absolute):
    """A fifth of the scores begin with the same bits: as many as a block of CUDA collects, and one less or more."""
    half = 4096 // dtype.itemsize  # what one block reads, if contiguous
    for crowd in range(half // 5, half // 5 + 3):
        crowded = torch.cat([torch.randperm(half) < crowd, torch.randperm(half) < (crowd if evenly else crowd // 2)])
        scores = LAYOUTS[layout](_crowd(crowded, spread, absolute).to(device, dtype))
        first = int(((scores.abs() if absolute else scores) > 2).sum()) + 1
        for k in (1, first, first + crowd // 2, first - 1 + int(crowded.sum()), 2 * half):
            check(torch.randn(2 * half, device=device), scores, k, 0.5, absolute)


def test_magnitude_pruning_in_place(device):
    """The weight may be its own score."""
    weight = torch.randn(64, 33, device=device)
    expected = brute_force(weight.cpu(), weight.cpu(), 500, 0.0, True)[0]
    assert_same_bits(ops.topk_mask_(weight, weight, 500, absolute=True).cpu(), expected)


def test_expanded_scores(device):
    scores = torch.randn(5, 1, device=device).expand(5, 8)
    check(torch.randn(5, 8, device=device), scores, 11, 0.0, False)


def test_payloads_of_nan_survive_recording(device):
    weight = torch.tensor([0x7FC12345, 0x7F812345, -1, 0x3F800000], dtype=torch.int32).view(torch.float32).to(device)
    before = bits(weight).clone()
    _, indices, values = ops.topk_mask_(weight, torch.ones_like(weight), 4, record=True)
    assert torch.equal(weight, torch.zeros_like(weight))
    weight[indices] = values
    assert torch.equal(bits(weight), before)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 65504.0, -0.0, 1e-8, 0.1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_values_as_torch_casts_them(device, dtype, value):
    weight = ops.topk_mask_(torch.ones(3, dtype=dtype, device=device), torch.ones(3, device=device), 3, value)
    expected = torch.full((3,), value, dtype=dtype)
    assert torch.equal(weight.cpu().isnan(), expected.isnan())
    assert_same_bits(weight.cpu().nan_to_num(nan=0.0), expected.nan_to_num(nan=0.0))


def test_same_for_any_number_of_threads():
    scores = SCORES["few_values"]((300_000,), torch.float32)
    threads = torch.get_num_threads()
    try:
        results = []
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(ops.topk_mask_(torch.ones(300_000), scores, 123_456, record=True))
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_autograd_notices(device):
    x = torch.randn(3, 4, device=device)
    weight = torch.randn(5, 4, device=device, requires_grad=True)
    loss = (x.requires_grad_() @ weight.T).sum()
    version = weight._version
    with torch.no_grad():
        ops.topk_mask_(weight, torch.rand(5, 4, device=device), 3)
    assert weight._version > version
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_registered_as_torch_wants_it(device):
    def arguments():
        k = 5
        saved = torch.empty(k, dtype=torch.int64, device=device), torch.empty(k, device=device)
        return torch.randn(4, 6, device=device), torch.randn(4, 6, device=device), k, False, 0.5, *saved

    op = torch.ops.zsu_fast.topk_mask_.default
    torch.library.opcheck(op, arguments())
    torch.library.opcheck(op, (*arguments()[:5], None, None))

    def masked(weight, scores):
        ops.topk_mask_(weight, scores, 5)
        return weight * 2

    weight, scores = arguments()[:2]
    expected = masked(weight.clone(), scores)
    assert torch.equal(torch.compile(masked, fullgraph=True, backend="aot_eager")(weight, scores), expected)
    assert torch.equal(weight * 2, expected)


def test_inference_mode():
    with torch.inference_mode():
        weight = ops.topk_mask_(torch.ones(4), torch.arange(4.0), 2)
        assert weight.tolist() == [1, 1, 0, 0]
    with pytest.raises(ValueError, match="weight is an inference tensor"):
        ops.topk_mask_(weight, torch.arange(4.0), 2)


class _Named(torch.Tensor):
    """An ordinary tensor by another name."""


def _overlapping(kind=torch.Tensor):
    storage = torch.randn(30)
    return storage[:20].view(4, 5).as_subclass(kind), storage[5:25].view(4, 5).as_subclass(kind)


def _aliasing(case):
    """Operands of the op, where writing to the weight changes the scores that come later."""
    storage, indices, values = torch.randn(300), torch.empty(5, dtype=torch.int64), torch.empty(5)
    return {
        "expanded weight": (torch.zeros(1).expand(200), torch.randn(200), indices, values),
        "overlapping windows": (storage.as_strided((50, 3), (2, 1)), torch.randn(50, 3), indices, values),
        "shifted scores": (storage[100:], storage[:200], indices, values),
        "values in the scores": (torch.randn(300), storage, indices, storage[50:55]),
        "values in the weight": (storage, torch.randn(300), indices, storage[50:55]),
        "indices in the values": (torch.randn(300), torch.randn(300), indices, indices.view(torch.float32)[:5]),
    }[case]


@pytest.mark.skipif(not _load.cpu_loaded, reason="the reference selects once, and stays within memory")
@pytest.mark.parametrize(
    "case",
    [
        "expanded weight",
        "overlapping windows",
        "shifted scores",
        "values in the scores",
        "values in the weight",
        "indices in the values",
    ],
)
def test_the_op_itself_refuses_operands_that_alias(case):
    weight, scores, indices, values = _aliasing(case)
    before = weight.clone()
    with pytest.raises(RuntimeError, match=r"topk_mask_: .*share(s|) (no |)memory"):
        torch.ops.zsu_fast.topk_mask_(weight, scores, 5, False, 0.0, indices, values)
    assert torch.equal(weight, before)


def test_the_op_itself_takes_interleaved_operands():
    columns = torch.randn(40, 2)
    expected = brute_force(columns[:, 0].clone(), columns[:, 1].clone(), 7, 0.0, False)
    indices, values = torch.empty(7, dtype=torch.int64), torch.empty(7)
    torch.ops.zsu_fast.topk_mask_(columns[:, 0], columns[:, 1], 7, False, 0.0, indices, values)
    assert torch.equal(columns[:, 0], expected[0]) and torch.equal(indices, expected[1])
    assert torch.equal(values, expected[2])


def test_scores_that_change_meanwhile_leave_records_that_can_be_taken_back():
    """A result that means nothing, but stays within its memory: k valid records of all that was written."""
    n, k = 1 << 18, 64
    scores, weight = torch.randn(n), torch.randn(n)
    for _ in changing(scores):
        before = weight.clone()
        _, indices, values = ops.topk_mask_(weight, scores, k, 7.0, record=True)
        assert len(indices) == k and int(indices.min()) >= 0 and int(indices.max()) < n
        weight[indices] = values
        assert torch.equal(weight, before)


@pytest.mark.parametrize(
    ("weight", "scores", "k", "value", "error", "text"),
    [
        (torch.randn(4, 5), torch.randn(5, 4), 1, 0.0, ValueError, r"scores must have the shape of weight, \(4, 5\)"),
        (torch.randn(4), torch.randn(4), 5, 0.0, ValueError, r"k must be in 0\.\.4 \(the number of elements\), got 5"),
        (torch.randn(4), torch.randn(4), 2.0, 0.0, TypeError, "k must be an int, got float"),
        (torch.randn(4).half(), torch.randn(4), 2, 1e5, ValueError, "value 100000.0 cannot be held by torch.float16"),
        (torch.randn(4), torch.randn(4), 2, None, TypeError, "value must be a float, got NoneType"),
        (torch.arange(4), torch.randn(4), 2, 0.0, TypeError, "weight must be a dense float32.*got torch.int64"),
        (torch.randn(4), torch.arange(4), 2, 0.0, TypeError, "scores must be a dense float32.*got torch.int64"),
        (torch.randn(4).to_sparse(), torch.randn(4), 2, 0.0, TypeError, "weight must be a dense"),
        (torch.randn(4, 1).expand(4, 5), torch.randn(4, 5), 2, 0.0, ValueError, "weight must have every element at"),
        (torch.randn(9).as_strided((4, 3), (2, 1)), torch.randn(4, 3), 2, 0.0, ValueError, "address of its own"),
        (*_overlapping(), 2, 0.0, ValueError, "scores must be weight itself or share no memory with it"),
        (*_overlapping(_Named), 2, 0.0, ValueError, "scores must be weight itself or share no memory with it"),
        (torch.randn(4, requires_grad=True), torch.randn(4), 2, 0.0, ValueError, "weight requires grad.*no_grad"),
    ],
)
def test_refuses_and_leaves_everything_as_it_was(weight, scores, k, value, error, text):
    dense = weight.to_dense() if weight.is_sparse else weight
    before = dense.detach().clone()
    with pytest.raises(error, match=text):
        ops.topk_mask_(weight, scores, k, value)
    assert torch.equal(dense, before)


def test_windows_without_collision_are_written():
    """Strides that interleave are not refused for their looks."""
    storage = torch.zeros(8)
    weight = storage.as_strided((2, 3), (3, 2))  # offsets 0 2 4 3 5 7
    ops.topk_mask_(weight, torch.ones(2, 3), 6, 1.0)
    assert storage.tolist() == [1, 0, 1, 1, 1, 1, 0, 1]


@pytest.mark.cuda
@pytest.mark.parametrize("record", [False, True])
def test_in_a_captured_graph(record):
    """No synchronisation with the host, no memory but the allocator's; replayed on other scores."""
    weight, scores = torch.ones(40_000, device="cuda"), torch.randn(40_000, device="cuda")
    ops.topk_mask_(weight, scores, 5000, record=record)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.topk_mask_(weight, scores, 5000, record=record)
    for kind in ("random", "rectified", "few_values"):
        scores.copy_(SCORES[kind]((40_000,), torch.float32))
        weight.fill_(1)
        graph.replay()
        expected = ops.topk_mask_(torch.ones(40_000), scores.cpu(), 5000)
        assert torch.equal(weight.cpu(), expected)


@pytest.mark.cuda
@pytest.mark.slow
def test_more_elements_than_32_bits_count():
    """All scores equal but the last: ties are taken from the front, and the last element is reached."""
    n = 2**32 + 17
    scores = torch.zeros(n, dtype=torch.bfloat16, device="cuda")
    scores[-1] = 1
    weight = torch.ones(n, dtype=torch.bfloat16, device="cuda")
    ops.topk_mask_(weight, scores, 2**31 + 6)
    assert weight[-1] == 0 and bool((weight[: 2**31 + 5] == 0).all()) and bool((weight[2**31 + 5 : -1] == 1).all())
