"""A mask of neurons, prepared once: the bits of the plain call at every call, and never a write to other memory."""

import gc

import pytest
import torch
from torch import nn

from tests.ops.scores import DTYPES, LAYOUTS, assert_same_bits
from zsu_fast import ops

MODES = (
    {"mode": "zero"},
    {"mode": "value", "value": -0.3},
    {"mode": "scale", "value": 0.3},
    {"mode": "gaussian", "scale": 0.7},
    {"mode": "laplace"},
)


def awkward(dtype, device):
    """(tensors, indices, dims): every layout, sizes of zero, a scalar, interleaved views, no index, all, a mask."""
    tensors = [place(torch.randn(5, 4, 3, 2, device=device).to(dtype)) for place in LAYOUTS.values()]
    indices = [[3, 0], torch.tensor([2], dtype=torch.int32), [], range(4), torch.tensor([True, False, True, False])]
    dims = [0, -2, 2, 1, 1]
    matrix = torch.randn(6, 4, device=device).to(dtype)
    tensors += [torch.empty(4, 0, device=device, dtype=dtype), torch.tensor(3.0, device=device, dtype=dtype)]
    tensors += [matrix[:, 1], matrix[:, 2:]]
    return tensors, [*indices, [1], [0], [5, 0], [1]], [*dims, 0, 0, 0, 1]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("options", MODES, ids=str)
@pytest.mark.parametrize("record", [False, True])
def test_same_bits_as_the_plain_call_at_every_call(device, dtype, options, record):
    torch.manual_seed(0)
    ours, indices, dims = awkward(dtype, device)
    torch.manual_seed(0)
    plain = awkward(dtype, device)[0]
    seeded = [torch.Generator(device).manual_seed(5) for _ in range(2)]
    streams = seeded if options["mode"] == "gaussian" else [None, None]  # torch's own otherwise
    mask = ops.PreparedMask(ours, indices, dims)
    for call in range(3):
        torch.manual_seed(call)
        result = mask(**options, generator=streams[0], record=record)
        torch.manual_seed(call)
        expected = ops.mask_neurons_(plain, indices, dims, **options, generator=streams[1], record=record)
        for ours_now, plain_now in zip(ours, plain, strict=True):
            assert_same_bits(ours_now, plain_now)
            values = torch.randn(ours_now.shape, device=device).to(dtype)
            ours_now.copy_(values), plain_now.copy_(values)
        if record:
            for old, expected_old in zip(result[1], expected[1], strict=True):
                assert_same_bits(old, expected_old)
        assert (result[0] if record else result) is ours


def test_one_tensor_and_none(device):
    weight = torch.ones(3, 2, device=device)
    mask = ops.PreparedMask(weight, [1])
    assert mask() is weight and weight[1].tolist() == [0, 0]
    _, old = mask(mode="value", value=2.0, record=True)
    assert old.tolist() == [[0, 0]] and weight.tolist() == [[1, 1], [2, 2], [1, 1]]
    assert ops.PreparedMask([], [])() == []
    assert ops.PreparedMask([], [])(record=True) == ([], [])


def test_holds_a_layer_at_zero_while_it_is_trained(device):
    torch.manual_seed(0)
    layer = nn.Linear(4, 6).to(device)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    mask = ops.PreparedMask(list(layer.parameters()), [1, 4])
    for _ in range(3):
        layer(torch.randn(8, 4, device=device)).square().sum().backward()
        optimizer.step()
        assert layer.weight[[1, 4]].abs().max() > 0
        with torch.no_grad():
            mask()
        assert not layer.weight[[1, 4]].any() and not layer.bias[[1, 4]].any() and layer.weight[[0, 2, 3, 5]].all()
    with pytest.raises(ValueError, match=r"tensors\[0\] requires grad.*torch.no_grad"):
        mask()


def test_keeps_what_it_was_given(device):
    index, tensors = torch.tensor([1], device=device), [torch.ones(3, device=device)]
    mask, weight = ops.PreparedMask(tensors, index), tensors[0]
    index.fill_(7)
    tensors.append(torch.ones(1, device=device))
    mask()
    assert weight.tolist() == [1, 0, 1] and tensors[1].tolist() == [1]
    tensors.clear()
    del weight
    gc.collect()
    assert mask(record=True)[1][0].tolist() == [0]


def _other_memory(weight):
    weight.data = weight.data.clone()


def _other_dtype(weight):
    weight.data = weight.data.view(torch.int32)


def _smaller(weight):
    weight.data = weight.data[:2]


def _freed(weight):
    weight.untyped_storage().resize_(0)


CHANGES = {
    "other memory": _other_memory,
    "other dtype": _other_dtype,
    "smaller": _smaller,
    "freed": _freed,
    "transposed": lambda weight: weight.t_(),
    "larger": lambda weight: weight.resize_(5, 3),
    "moved": lambda weight: nn.ParameterList([weight]).double(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_refuses_a_tensor_that_was_given_other_memory(change):
    first, weight = torch.ones(3), nn.Parameter(torch.ones(3, 3), requires_grad=False)
    mask = ops.PreparedMask([first, weight], [2])
    mask(), first.fill_(1)
    kept = weight.data  # holds the memory
    if change is not _freed:
        kept.fill_(1)
    change(weight)
    with pytest.raises(ValueError, match=r"tensors\[1\] must be as .* prepared, torch.float32 \(3, 3\).*prepare the"):
        mask()
    assert first.tolist() == [1, 1, 1] and bool((kept == 1).all() if kept.untyped_storage().size() else True)


@pytest.mark.parametrize(
    ("tensors", "indices", "text"),
    [
        (torch.ones(3), [3], "indices must be in 0"),
        (torch.ones(3), [1, 1], "indices must be unique"),
        ([torch.ones(3, device="meta")], [0], r"tensors\[0\] must have memory of its own"),
        ([torch.ones(1).expand(3)], [0], r"tensors\[0\] must have every element at an address of its own"),
    ],
)
def test_refuses_to_prepare(tensors, indices, text):
    with pytest.raises(ValueError, match=text):
        ops.PreparedMask(tensors, indices)
    weight = torch.ones(4)
    with pytest.raises(ValueError, match=r"tensors\[0\] and tensors\[1\] do"):
        ops.PreparedMask([weight[:2], weight[1:]], [0])


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"mode": "value", "value": 7e4},
            ValueError,
            r"value for tensors\[1\] 70000.0 cannot be held by torch.float16",
        ),
        ({"mode": "drop"}, ValueError, "mode must be"),
        ({"mode": "scale"}, ValueError, "needs a value"),
        ({"mode": "gaussian", "generator": 3}, TypeError, "generator must be a torch.Generator"),
    ],
)
def test_refuses_a_call_and_leaves_everything_as_it_was(options, error, text):
    tensors = [torch.ones(3), torch.ones(3).half()]
    with pytest.raises(error, match=text):
        ops.PreparedMask(tensors, [0])(**options)
    assert all(bool((tensor == 1).all()) for tensor in tensors)


def test_inference_tensors():
    with torch.inference_mode():
        weight = torch.ones(3)
        mask = ops.PreparedMask(weight, [1])
        assert mask().tolist() == [1, 0, 1]
    with pytest.raises(ValueError, match="inference tensor"):
        mask()


def test_in_a_compiled_function(device):
    weight = torch.ones(3, 2, device=device)
    mask = ops.PreparedMask([weight], [1])

    def masked(x):
        mask(mode="scale", value=0.5)
        return x @ weight

    x = torch.randn(4, 3, device=device)
    found = torch.compile(masked, fullgraph=True, backend="aot_eager")(x)
    assert weight.tolist() == [[1, 1], [0.5, 0.5], [1, 1]] and torch.equal(found, x @ weight)


@pytest.mark.cuda
def test_in_a_captured_graph():
    weight, bias = torch.ones(64, 32, device="cuda"), torch.ones(64, device="cuda")
    mask = ops.PreparedMask([weight, bias], torch.tensor([3, 5], device="cuda"))
    mask()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        mask()
    weight.fill_(1), bias.fill_(1)
    graph.replay()
    assert (weight == 0).all(1).nonzero().flatten().tolist() == [3, 5] and bias.sum() == 62
