"""Slices of many tensors overwritten, scaled or disturbed in place."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.ops.scores import DTYPES, LAYOUTS, RUNS, assert_same_bits, bits
from zsu_fast import ops
from zsu_fast.ops.neuron_indices import index_per_tensor
from zsu_fast.reference.layout import accumulate_dtype

MODES = ("zero", "value", "scale", "gaussian", "laplace")


def value_of(mode):
    return -0.3 if mode in ("value", "scale") else None


def expected_of(tensor, index, dim, mode):
    """Element by element, from lists. Noise is not predicted here."""
    result = tensor.clone()
    moved = result.movedim(dim, 0)
    for i in index:
        if mode == "scale":
            wide = accumulate_dtype(tensor.dtype)
            moved[i] = (moved[i].to(wide) * torch.tensor(-0.3, dtype=wide)).to(tensor.dtype)
        else:
            moved[i] = 0.0 if mode == "zero" else -0.3
    return result


def check(tensor, index, dim, mode, device):
    original = tensor.clone(memory_format=torch.preserve_format)
    old = original.index_select(dim, torch.tensor(index, dtype=torch.int64))
    on_device = _like_layout(tensor, device)
    for record in (False, True):
        on_device.copy_(original)
        result = ops.mask_neurons_(on_device, index, dim, mode=mode, value=value_of(mode), record=record)
        got = result[0] if record else result
        assert got is on_device
        if mode in ("gaussian", "laplace"):
            rest = [i for i in range(tensor.shape[dim]) if i not in index]
            rest_index = torch.tensor(rest, dtype=torch.int64, device=device)
            assert_same_bits(got.index_select(dim, rest_index).cpu(), original.index_select(dim, rest_index.cpu()))
            changed = got.index_select(dim, torch.tensor(index, dtype=torch.int64, device=device)).cpu() != old
            assert old.numel() == 0 or changed.float().mean() > 0.5
        else:
            assert_same_bits(got.cpu(), expected_of(original, index, dim, mode))
        if record:
            assert_same_bits(result[1].cpu(), old)
            on_device.index_copy_(dim, torch.tensor(index, dtype=torch.int64, device=device), result[1])
            assert_same_bits(on_device.cpu(), original)


def _like_layout(tensor, device):
    if device.type == "cpu":
        return tensor
    whole = torch.zeros(tensor.untyped_storage().nbytes() // tensor.element_size(), dtype=tensor.dtype, device=device)
    return whole.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_mode_dtype_and_layout(device, dtype, mode, layout):
    for shape in ((9,), (7, 6), (6, 5, 3, 2), (3, 4, 2, 3, 2)):
        for dim in range(len(shape)):
            tensor = LAYOUTS[layout](torch.randn(shape).to(dtype))
            index = torch.randperm(shape[dim])[: shape[dim] // 2 + 1].tolist()
            check(tensor, index, dim, mode, device)


@settings(max_examples=RUNS, deadline=None)
@given(data=st.data())
def test_any_shape_stride_and_index(data):
    shape = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5))
    dim = data.draw(st.integers(0, len(shape) - 1))
    index = data.draw(st.lists(st.integers(0, max(shape[dim] - 1, 0)), unique=True, max_size=shape[dim]))
    layout = data.draw(st.sampled_from(sorted(LAYOUTS)))
    tensor = LAYOUTS[layout](torch.randn(shape).to(data.draw(st.sampled_from(DTYPES))))
    check(tensor, index, dim, data.draw(st.sampled_from(MODES)), torch.device("cpu"))


def test_a_layer_with_its_batch_norm_in_one_call(device):
    """The point of it all: a neuron masked in every tensor that makes it up has activation exactly zero."""
    block = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 4, 1)).to(device).eval()
    with torch.no_grad():
        for parameter in block[1].parameters():
            parameter.normal_()
        block[1].running_mean.normal_()
        conv, norm, _, following = block
        neurons = [3, 11]
        tensors = [conv.weight, conv.bias, norm.weight, norm.bias, following.weight]
        before = [tensor.clone() for tensor in tensors]
        out, old = ops.mask_neurons_(tensors, neurons, [0, 0, 0, 0, 1], record=True)
        assert all(a is b for a, b in zip(out, tensors, strict=True))
        activation = block[:3](torch.randn(2, 3, 8, 8, device=device))
        assert activation[:, neurons].abs().max() == 0 and activation[:, :3].abs().max() > 0
        assert following.weight[:, neurons].abs().max() == 0
        for tensor, dim, values in zip(tensors, (0, 0, 0, 0, 1), old, strict=True):
            tensor.index_copy_(dim, torch.tensor(neurons, device=device), values)
        for tensor, values in zip(tensors, before, strict=True):
            assert_same_bits(tensor.detach().cpu(), values.cpu())


def test_indices_in_every_form(device):
    mask = torch.tensor([False, True, False, True, False])
    forms = [[1, 3], (3, 1), range(1, 5, 2), torch.tensor([1, 3]), torch.tensor([3, 1], dtype=torch.int32), mask]
    forms += [form.to(device) for form in forms if isinstance(form, torch.Tensor)]
    for form in forms:
        for indices in (form, [form, form]):
            tensors = [torch.ones(5, 2, device=device), torch.ones(5, device=device)]
            ops.mask_neurons_(tensors, indices)
            assert tensors[0].tolist() == [[1, 1], [0, 0], [1, 1], [0, 0], [1, 1]]
            assert tensors[1].tolist() == [1, 0, 1, 0, 1]


def test_one_index_per_tensor_and_dim(device):
    tensors = [torch.ones(2, 3, device=device), torch.ones(3, 2, device=device), torch.ones(4, device=device)]
    ops.mask_neurons_(tensors, [[0], torch.tensor([1]), []], [1, -1, 0])
    assert [tensor.tolist() for tensor in tensors] == [[[0, 1, 1]] * 2, [[1, 0]] * 3, [1, 1, 1, 1]]


def test_scalars_are_vectors_of_one(device):
    scalar = torch.tensor(3.0, device=device)
    out, old = ops.mask_neurons_([scalar], [0], record=True)
    assert out[0] is scalar and scalar.item() == 0 and old[0].tolist() == [3.0]
    assert ops.mask_neurons_(scalar, [0], mode="value", value=2.0).item() == 2
    assert ops.mask_neurons_(scalar, []).item() == 2


def test_nothing_to_do(device):
    assert ops.mask_neurons_([], []) == []
    assert ops.mask_neurons_([], [], record=True) == ([], [])
    tensors = [torch.randn(4, 0, device=device), torch.randn(4, 3, device=device)]
    before = tensors[1].clone()
    _, old = ops.mask_neurons_(tensors, [[1, 2], []], record=True)
    assert torch.equal(tensors[1], before)
    assert [tuple(values.shape) for values in old] == [(2, 0), (0, 3)]


def test_mixed_dtypes_in_one_call(device):
    tensors = [torch.ones(6, 3, dtype=dtype, device=device) for dtype in DTYPES]
    ops.mask_neurons_(tensors, [2, 4], mode="value", value=0.1)
    for tensor in tensors:
        assert torch.equal(tensor[2], torch.full((3,), 0.1, dtype=tensor.dtype, device=device))
        assert torch.equal(tensor[3], torch.ones(3, dtype=tensor.dtype, device=device))


def test_many_tensors(device):
    """More than one launch takes, each with its own index."""
    tensors = [torch.randn(5 + i % 7, 1 + i % 3, device=device) for i in range(300)]
    indices = [[i % 5] for i in range(300)]
    before = [tensor.clone() for tensor in tensors]
    _, old = ops.mask_neurons_(tensors, indices, record=True)
    for tensor, index, original, values in zip(tensors, indices, before, old, strict=True):
        assert torch.equal(values, original[index])
        original[index] = 0
        assert torch.equal(tensor, original)


@pytest.mark.parametrize("shape", [(600, 4099), (64, 257, 3, 3)])
def test_large(device, shape):
    tensor = torch.randn(shape, device=device)
    for dim in (0, 1):
        index = torch.randperm(shape[dim])[: shape[dim] // 2]
        expected, old = tensor.clone(), tensor.index_select(dim, index.to(device))
        expected.index_fill_(dim, index.to(device), 0)
        masked, recorded = ops.mask_neurons_(tensor.clone(), index, dim, record=True)
        assert torch.equal(masked, expected) and torch.equal(recorded, old)


def test_payloads_of_nan_survive_recording(device):
    tensor = torch.tensor([0x7FC12345, 0x7F812345, -1, 0x3F800000], dtype=torch.int32).view(torch.float32).to(device)
    before = bits(tensor).clone()
    _, old = ops.mask_neurons_(tensor, range(4), record=True)
    tensor.index_copy_(0, torch.arange(4, device=device), old)
    assert torch.equal(bits(tensor), before)


@pytest.mark.parametrize(("mode", "deviation"), [("gaussian", 0.7), ("laplace", 0.7 * math.sqrt(2))])
def test_noise_has_the_moments_it_should(device, mode, deviation):
    tensor = torch.full((500, 400), 2.0, device=device)
    ops.mask_neurons_(tensor, range(500), mode=mode, scale=0.7)
    assert tensor.isfinite().all()
    assert abs(tensor.mean().item() - 2.0) < 0.02
    assert abs(tensor.std().item() - deviation) < 0.02
    kurtosis = ((tensor - 2.0) / deviation).pow(4).mean().item()
    assert abs(kurtosis - (3 if mode == "gaussian" else 6)) < 0.6


@pytest.mark.parametrize("mode", ["gaussian", "laplace"])
def test_noise_follows_the_generator(device, mode):
    def disturbed(seed):
        tensors = [torch.zeros(8, 3, device=device), torch.zeros(8, device=device)]
        generator = torch.Generator(device).manual_seed(seed)
        return ops.mask_neurons_(tensors, [1, 5], mode=mode, generator=generator)

    for once, again, other in zip(disturbed(1), disturbed(1), disturbed(2), strict=True):
        assert torch.equal(once, again)
        assert not torch.equal(once, other)
    default = torch.random.get_rng_state()
    disturbed(3)
    assert torch.equal(default, torch.random.get_rng_state())


def test_same_for_any_number_of_threads():
    threads = torch.get_num_threads()
    original = torch.randn(400, 300, 3)
    try:
        results = []
        for n in (1, 2):
            torch.set_num_threads(n)
            results.append(ops.mask_neurons_(original.clone(), range(0, 400, 2), mode="scale", value=0.3, record=True))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


def test_autograd_notices(device):
    layer = nn.Linear(4, 5).to(device)
    x = torch.randn(3, 4, device=device, requires_grad=True)
    loss = layer(x).sum()
    versions = [parameter._version for parameter in layer.parameters()]
    with torch.no_grad():
        ops.mask_neurons_(list(layer.parameters()), [1])
    assert all(p._version > v for p, v in zip(layer.parameters(), versions, strict=True))
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_registered_as_torch_wants_it(device):
    op = torch.ops.zsu_fast.mask_neurons_.default
    index = torch.tensor([0, 2], device=device)

    def tensors():
        return [torch.randn(4, 3, device=device), torch.randn(4, device=device)]

    def slices():
        return [torch.randn(2, 3, device=device), torch.randn(2, device=device)]

    torch.library.opcheck(op, (tensors(), [index, index], [0, 0], slices(), [], 0, 0.5))
    torch.library.opcheck(op, (tensors(), [index, index], [0, 0], [], slices(), 2, 0.0))

    def masked(weight, bias):
        ops.mask_neurons_([weight, bias], [0, 2], mode="scale", value=0.5)
        return weight.sum(1) + bias

    weight, bias = tensors()
    expected = masked(weight.clone(), bias.clone())
    assert torch.equal(torch.compile(masked, fullgraph=True, backend="aot_eager")(weight, bias), expected)
    assert torch.equal(weight.sum(1) + bias, expected)


def test_the_op_itself_refuses_before_it_writes():
    """Without the wrapper, the kernel (and the reference) at least stays within memory."""
    tensors = [torch.ones(3), torch.ones(3)]
    op = torch.ops.zsu_fast.mask_neurons_
    with pytest.raises((RuntimeError, IndexError)):
        op(tensors, [torch.tensor([7]), torch.tensor([0])], [0, 0], [], [], 0, 0.0)
    assert all(tensor.tolist() == [1, 1, 1] for tensor in tensors)


W = torch.arange(12.0).view(3, 4)


@pytest.mark.parametrize(
    ("tensors", "indices", "dim", "options", "error", "text"),
    [
        ([W, W.clone()], [[0], [3]], 0, {}, ValueError, r"indices\[1\] must be in 0\.\.2 .*3 slices\), got 3"),
        (W, [-1], 0, {}, ValueError, r"indices must be in 0\.\.2 .*got -1"),
        (W, [1, 2, 1], 0, {}, ValueError, "indices must be unique, got 1 more than once"),
        (W, torch.tensor([0, 5]), 1, {}, ValueError, r"indices must be in 0\.\.3 .*got 5"),
        (W, torch.tensor([0.0]), 0, {}, TypeError, "indices must be int64, int32 or bool, got torch.float32"),
        (W, torch.tensor([[0]]), 0, {}, ValueError, r"indices must be one-dimensional, got shape \(1, 1\)"),
        (W, torch.tensor([True]), 0, {}, ValueError, "is a mask and must have one entry for each of 3 slices, got 1"),
        (W, [[True, False, False]], 0, {}, TypeError, "not a list of bools"),
        (W, 0, 0, {}, TypeError, "indices must be ints, a tensor or a sequence of those, got int"),
        ([W], [[0], [1]], 0, {}, ValueError, "indices must be one for each of the 1 tensors, got 2"),
        (W, [0], 2, {}, ValueError, r"dim for tensors of shape \(3, 4\) is out of range, got 2"),
        ([W], [0], [0, 1], {}, ValueError, r"dim must be an int or one per tensor \(1\), got 2"),
        (W, [0], 0.0, {}, TypeError, "dim must be an int or a sequence of ints, got float"),
        (W, [0], 0, {"mode": "drop"}, ValueError, 'mode must be "zero", "value", .*got \'drop\''),
        (W, [0], 0, {"mode": "value"}, ValueError, 'mode "value" needs a value'),
        (W, [0], 0, {"value": 1.0}, ValueError, 'mode "zero" takes no value, got 1.0'),
        (W, [0], 0, {"mode": "scale", "value": "2"}, TypeError, "value must be a float, got str"),
        (W.half(), [0], 0, {"mode": "value", "value": 7e4}, ValueError, "cannot be held by torch.float16"),
        (W, [0], 0, {"mode": "laplace", "scale": -1.0}, ValueError, "scale must be finite and not negative, got -1.0"),
        (W, [0], 0, {"mode": "gaussian", "generator": 3}, TypeError, "generator must be a torch.Generator, got int"),
        (W.long(), [0], 0, {}, TypeError, "tensors must be a dense float32.*got torch.int64"),
        ([W, None], [0], 0, {}, TypeError, r"tensors\[1\] must be a Tensor, got NoneType"),
        (iter([W]), [0], 0, {}, TypeError, "tensors must be a Tensor or a sequence of Tensors"),
        ([W, W], [0], 0, {}, ValueError, r"tensors\[0\] and tensors\[1\] do"),
        ([W, W[1]], [0], 0, {}, ValueError, r"tensors must not share memory with each other"),
        ([torch.ones(3), W[:, 1], W[:, 1:3]], [0], 0, {}, ValueError, r"tensors\[1\] and tensors\[2\] do"),
        ([W, W.view(torch.float16)[:, 3:5]], [0], 0, {}, ValueError, r"tensors\[0\] and tensors\[1\] do"),
        (W[:1].expand(3, 4), [0], 0, {}, ValueError, "every element at an address of its own, got shape"),
        (W.clone().requires_grad_(), [0], 0, {}, ValueError, "requires grad.*torch.no_grad"),
        ([W, torch.empty(3, device="meta")], [0], 0, {}, ValueError, "on one device, got cpu and, for .*, meta"),
    ],
)
def test_refuses_and_leaves_everything_as_it_was(tensors, indices, dim, options, error, text):
    given = tensors if isinstance(tensors, list) else [tensors] if isinstance(tensors, torch.Tensor) else []
    held = [t for t in given if isinstance(t, torch.Tensor) and t.device.type == "cpu"]
    before = [t.detach().clone() for t in held]
    with pytest.raises(error, match=text):
        ops.mask_neurons_(tensors, indices, dim, **options)
    assert all(torch.equal(t, b) for t, b in zip(held, before, strict=True))


def test_views_of_one_storage_that_share_nothing(device):
    """Rows for several classes, interleaved columns, halves next to each other, other dtypes: no element twice."""
    matrix = torch.ones(6, 4, device=device)
    ops.mask_neurons_([matrix[0], matrix[1:3, :2], matrix[1:3, 2:], matrix[3:, 0], matrix[3:, 3]], [0])
    expected = [[0, 1, 1, 1], [0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]]
    assert matrix.tolist() == expected
    both = torch.ones(8, device=device)
    ops.mask_neurons_([both.view(2, 4)[:, :2], both.view(torch.float16).view(2, 8)[:, 4:]], [1])
    assert both.tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_noise_is_drawn_before_anything_is_written():
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.ones(3), torch.ones(4)]
    with pytest.raises(ValueError, match=r"indices\[1\]"):
        ops.mask_neurons_(tensors, [[0], [9]], mode="gaussian", generator=generator)
    assert all(bool((tensor == 1).all()) for tensor in tensors)
    assert torch.equal(generator.get_state(), torch.Generator().manual_seed(0).get_state())


def test_inference_mode():
    with torch.inference_mode():
        tensor = ops.mask_neurons_(torch.ones(4), [1])
        assert tensor.tolist() == [1, 0, 1, 1]
    with pytest.raises(ValueError, match="inference tensor"):
        ops.mask_neurons_(tensor, [1])


def test_one_index_for_many_tensors_is_moved_once():
    index = index_per_tensor([1, 2], [5, 5, 4, 5], torch.device("cpu"), single=False)
    assert index[0] is index[1] is index[3] and torch.equal(index[2], index[0])


@pytest.mark.cuda
def test_in_a_captured_graph():
    weight, bias = torch.ones(64, 32, device="cuda"), torch.ones(64, device="cuda")
    index = torch.tensor([3, 5], device="cuda")
    ops.mask_neurons_([weight, bias], index)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ops.mask_neurons_([weight, bias], index)
    weight.fill_(1), bias.fill_(1)
    index.copy_(torch.tensor([7, 9]))
    graph.replay()
    assert (weight == 0).all(1).nonzero().flatten().tolist() == [7, 9] and bias.sum() == 62
