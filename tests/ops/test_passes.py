"""What every LRP op owes, whatever it computes: accuracy, layouts, registration, determinism, constancy to autograd."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor

import zsu_fast.ops
from tests.ops.samples import DTYPES, OPS, assert_accurate, exact, samples, tensors_of
from zsu_fast.ops import _load
from zsu_fast.reference.layout import empty_dense


def overload(op: str):
    return getattr(torch.ops.zsu_fast, op).default


def test_the_compiled_library_is_what_these_tests_run() -> None:
    if os.environ.get("ZSU_FAST_NATIVE") != "0":
        assert _load.cpu_loaded, _load.errors


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("op", OPS)
def test_agrees_with_the_reference_in_float64(op: str, dtype: torch.dtype, device: torch.device) -> None:
    for label, arguments in samples(op, dtype, device):
        results = tensors_of(overload(op)(*arguments))
        cancelling = op == "layer_norm_gate" and arguments[0].numel() > 0
        terms = arguments[0].abs().max() if cancelling else 0.0
        for result, expected in zip(results, exact(op, arguments), strict=True):
            assert_accurate(result, expected, label, terms)


@pytest.mark.parametrize("op", OPS)
def test_results_have_the_dtype_and_memory_format_of_the_first_operand(op: str, device: torch.device) -> None:
    for label, arguments in samples(op, torch.bfloat16, device):
        first = arguments[0].contiguous() if op in ("layer_norm_gate", "rms_norm_gate") else arguments[0]
        results = tensors_of(overload(op)(*arguments))
        sums = results[-1:] if op.endswith("_pass") or op == "neuron_relevance" else ()
        for result in results[: len(results) - len(sums)]:
            assert result.dtype == first.dtype, label
            assert result.stride() == empty_dense(first).stride(), label
        for result in sums:
            assert result.dtype == torch.float32 and result.is_contiguous(), label


@pytest.mark.parametrize("op", OPS)
def test_every_element_is_written(op: str, poisoned_memory: None) -> None:
    for label, arguments in samples(op, torch.float32):
        for result in tensors_of(overload(op)(*arguments)):
            assert not result.isnan().any(), label


@pytest.mark.parametrize("op", OPS)
def test_operands_stay_as_they_were(op: str, device: torch.device) -> None:
    for label, arguments in samples(op, torch.float16, device):
        before = [a.clone() if isinstance(a, Tensor) else a for a in arguments]
        versions = [a._version for a in arguments if isinstance(a, Tensor)]
        overload(op)(*arguments)
        assert versions == [a._version for a in arguments if isinstance(a, Tensor)], label
        for left, right in zip(before, arguments, strict=True):
            assert torch.equal(left, right) if isinstance(left, Tensor) else left == right, label


@pytest.mark.parametrize("op", OPS)
def test_operands_in_different_memory_formats_are_understood(op: str, device: torch.device) -> None:
    for _, arguments in samples(op, torch.float32, device):
        first = arguments[0]
        if first.dim() != 4 or not first.is_contiguous() or first.numel() == 0:
            continue
        mixed = tuple(
            a.contiguous(memory_format=torch.channels_last)
            if i > 0 and isinstance(a, Tensor) and a.shape == first.shape
            else a
            for i, a in enumerate(arguments)
        )
        for left, right in zip(tensors_of(overload(op)(*arguments)), tensors_of(overload(op)(*mixed)), strict=True):
            if _load.cpu_loaded:
                assert torch.equal(left, right)
            else:  # the reference sums in the order of memory
                torch.testing.assert_close(left, right)


@pytest.mark.parametrize("op", OPS)
def test_infinite_and_nan_operands_give_what_the_reference_gives(op: str, device: torch.device) -> None:
    special = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1e30, -1e-30, 1.0], device=device)
    for label, arguments in samples(op, torch.float32, device):
        if not label.startswith(("channels-first,", "tokens,", "linear")) or arguments[0].numel() == 0:
            continue
        for position, argument in enumerate(arguments):
            if not isinstance(argument, Tensor) or argument.dim() == 0:
                continue
            spoilt = argument.clone()
            flat = spoilt.view(-1)
            flat[: special.numel()] = special[: flat.numel()]
            changed = (*arguments[:position], spoilt, *arguments[position + 1 :])
            expected = exact(op, changed)
            for result, wanted in zip(tensors_of(overload(op)(*changed)), expected, strict=True):
                result = result.cpu()
                nan = wanted.isnan()
                # Values beyond float32 may overflow there and not in float64; what is not NaN must not become finite
                # garbage, and what is NaN must show.
                assert result[nan].isnan().all(), f"{label}, argument {position}"
                tame = wanted.abs() < 1e20
                assert result[tame].isfinite().all(), f"{label}, argument {position}"


@pytest.mark.parametrize("op", OPS)
def test_the_same_bits_for_any_number_of_threads_and_in_every_run(op: str) -> None:
    if not _load.cpu_loaded:
        pytest.skip("torch, which the reference is made of, splits its sums by the number of threads")
    before = torch.get_num_threads()
    try:
        for label, arguments in samples(op, torch.float32):
            if not label.startswith(("long runs", "many rows", "many units", "channels_last,")):
                continue
            torch.set_num_threads(1)
            alone = tensors_of(overload(op)(*arguments))
            for threads in (2, 3, 7):
                torch.set_num_threads(threads)
                for left, right in zip(alone, tensors_of(overload(op)(*arguments)), strict=True):
                    assert torch.equal(left, right), f"{label}, {threads} threads"
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str, device: torch.device) -> None:
    seen = set()
    for label, arguments in samples(op, torch.float32, device):
        kind = label.partition(",")[0]
        if kind not in seen and kind in ("channels-first", "channels_last", "slice"):
            seen.add(kind)
            torch.library.opcheck(overload(op), arguments)
    leaves = tuple(a.clone().requires_grad_() if isinstance(a, Tensor) else a for a in arguments)
    torch.library.opcheck(overload(op), leaves)


@pytest.mark.parametrize("op", OPS)
def test_results_are_constants_to_autograd(op: str) -> None:
    _, arguments = next(samples(op, torch.float32))
    leaves = tuple(a.clone().requires_grad_() if isinstance(a, Tensor) else a for a in arguments)
    for result in tensors_of(overload(op)(*leaves)):
        assert not result.requires_grad
        with pytest.raises(RuntimeError, match="does not require grad"):
            result.sum().backward()


@pytest.mark.parametrize("op", OPS)
def test_compiles_into_one_graph(op: str) -> None:
    _, arguments = next(samples(op, torch.float32))
    torch._dynamo.reset()
    compiled = torch.compile(lambda *operands: overload(op)(*operands), fullgraph=True, backend="aot_eager")
    for left, right in zip(tensors_of(compiled(*arguments)), tensors_of(overload(op)(*arguments)), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("op", OPS)
def test_works_on_meta_tensors(op: str) -> None:
    for label, arguments in samples(op, torch.float32):
        meta = tuple(a.to("meta") if isinstance(a, Tensor) else a for a in arguments)
        for left, right in zip(tensors_of(overload(op)(*meta)), tensors_of(overload(op)(*arguments)), strict=True):
            assert left.is_meta and left.shape == right.shape and left.dtype == right.dtype, label


@pytest.mark.slow
def test_without_compiled_libraries_every_op_gives_the_same() -> None:
    script = (
        "import torch, zsu_fast.ops\n"
        "from zsu_fast.ops import _load\n"
        "from tests.ops.samples import OPS, assert_accurate, exact, samples, tensors_of\n"
        "assert not _load.cpu_loaded and not _load.cuda_loaded\n"
        "for op in OPS:\n"
        "    for label, arguments in samples(op, torch.bfloat16):\n"
        "        results = tensors_of(getattr(torch.ops.zsu_fast, op)(*arguments))\n"
        "        for result, expected in zip(results, exact(op, arguments), strict=True):\n"
        "            assert_accurate(result, expected, label, terms=1.0)\n"
    )
    environment = {**os.environ, "ZSU_FAST_NATIVE": "0", "PYTHONPATH": os.pathsep.join(["."] + sys.path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True, timeout=300)


@pytest.mark.parametrize(
    "op, arguments",
    [
        ("activation_gate", (torch.zeros(2, 3), torch.zeros(3, 2), 1)),
        ("activation_gate", (torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64), 1)),
        ("activation_gate", (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.int64), 1)),
        ("activation_gate", (torch.zeros(2, 3), torch.zeros(2, 3), 8)),
        ("lrp_epsilon_pass", (torch.zeros(2, 3), torch.zeros(2, 3), None, torch.zeros(2), 0.1, 1, 1, True)),
        ("lrp_epsilon_pass", (torch.zeros(2, 3), torch.zeros(2, 3), None, None, 0.1, 1, 2, True)),
        ("lrp_epsilon_pass", (torch.zeros(2, 3), torch.zeros(2, 3), None, None, 0.1, -2, 1, True)),
        ("batch_norm_gate", (torch.zeros(2, 3), torch.zeros(2), 1)),
        ("layer_norm_gate", (torch.zeros(2, 3), torch.zeros(2), torch.zeros(2), 1)),
        ("layer_norm_gate", (torch.zeros(2, 3), None, torch.zeros(3), 1)),
    ],
)
def test_compiled_ops_refuse_what_would_read_foreign_memory(op: str, arguments: tuple) -> None:
    if not _load.cpu_loaded:
        pytest.skip("the compiled CPU library is not in use")
    with pytest.raises(RuntimeError, match=op):
        overload(op)(*arguments)


def test_ops_are_exported() -> None:
    for name in ("activation_gate", "layer_norm_gate", "rms_norm_gate", "batch_norm_gate", "neuron_relevance"):
        assert callable(getattr(zsu_fast.ops, name))
