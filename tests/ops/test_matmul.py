"""matmul_multiply: against float64 for every shape that a kernel may treat apart, in layouts it must not; refusals."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.ops.samples import DTYPES, Draw
from zsu_fast.ops import matmul_multiply

OP = torch.ops.zsu_fast.matmul_multiply.default


def operands(dtype: torch.dtype, device: torch.device | str = "cpu") -> Iterator[tuple[str, tuple[Tensor, ...]]]:
    draw = Draw(dtype, device)

    def dense(*sizes: int) -> tuple[Tensor, ...]:
        *rows, k, n = sizes
        return draw.normal(*rows, k), draw.normal(k, n), draw.normal(*rows, n)

    yield "one element", dense(1, 1, 1)
    yield "odd sizes", dense(5, 7, 3)
    yield "a vector", dense(24, 16)
    yield "one row", dense(1, 64, 32)
    yield "multiples of 8", dense(8, 8, 8)
    yield "one tile", dense(128, 64, 128)
    yield "a bit more than one tile", dense(136, 72, 264)
    yield "more columns than rows", dense(40, 96, 1000)
    yield "more rows than columns", dense(1000, 96, 40)
    yield "a long sum", dense(64, 2048, 64)
    yield "tiles for every multiprocessor", dense(2050, 64, 2312)
    yield "tokens", dense(2, 3, 5, 40, 24)
    yield "no rows", dense(0, 8, 16)
    yield "no columns", dense(4, 8, 0)
    yield "an empty sum", dense(4, 0, 8)
    input, weight, factor = dense(48, 64, 80)
    yield "a transposed weight", (input, draw.normal(80, 64).T, factor)
    yield "a transposed input", (draw.normal(64, 48).T, weight, factor)
    yield "slices", (draw.normal(96, 72)[::2, 8:], draw.normal(64, 88)[:, 8:], draw.normal(48, 88)[:, :80])
    yield "an expanded factor", (input, weight, draw.normal(80).expand(48, 80))
    yield "unaligned", tuple(draw.normal(t.numel() + 1)[1:].view_as(t) for t in (input, weight, factor))


def exact(input: Tensor, weight: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
    """(the result, the size of what is added up for it) in float64, on the CPU."""
    x, w, f = (t.detach().cpu().double() for t in (input, weight, factor))
    return x @ w * f, x.abs() @ w.abs() * f.abs()


@pytest.fixture(autouse=True)
def full_sums() -> Iterator[None]:
    """cuBLAS may round partial sums to half precision, unless it is told not to."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction
    matmul.allow_bf16_reduced_precision_reduction = matmul.allow_fp16_reduced_precision_reduction = False
    yield
    matmul.allow_bf16_reduced_precision_reduction, matmul.allow_fp16_reduced_precision_reduction = before


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_equals_the_product_in_float64(dtype: torch.dtype, device: torch.device) -> None:
    for label, arguments in operands(dtype, device):
        result = OP(*arguments)
        expected, terms = exact(*arguments)
        assert result.dtype == dtype and result.shape == expected.shape and result.is_contiguous(), label
        # Two roundings to the dtype (the product, the result), and the rounding of every sum on the way.
        info = torch.finfo(dtype)
        arithmetic = (arguments[1].shape[0] + 2) * torch.finfo(
            torch.float64 if dtype == torch.float64 else torch.float32
        ).eps
        smallest = info.smallest_normal * info.eps * (1 + arguments[2].cpu().double().abs())
        error = (result.cpu().double() - expected).abs()
        assert (error <= info.eps * expected.abs() + arithmetic * terms + smallest).all(), f"{label}: {error.max()}"


def test_what_is_infinite_or_nan_shows(device: torch.device) -> None:
    _, (input, weight, factor) = list(operands(torch.bfloat16, device))[5]
    input[3, 4] = float("nan")
    factor[7, 5] = float("inf")
    result = matmul_multiply(input, weight, factor)
    assert result[3].isnan().all()
    assert result[7, 5].isinf()
    assert result.isfinite().sum() == result.numel() - result.shape[1] - 1


def test_operands_stay_as_they_were(device: torch.device) -> None:
    for label, arguments in operands(torch.float16, device):
        before = [t.clone() for t in arguments]
        OP(*arguments)
        assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True)), label


def test_every_element_is_written(poisoned_memory: None) -> None:
    for label, arguments in operands(torch.float32):
        assert not OP(*arguments).isnan().any(), label


def test_registered_as_torch_wants_it() -> None:
    for label, arguments in operands(torch.float32):
        if label in ("odd sizes", "tokens", "a vector", "slices", "no rows"):
            torch.library.opcheck(OP, arguments)
    torch.library.opcheck(OP, tuple(t.clone().requires_grad_() for t in arguments))


def test_result_is_a_constant_to_autograd() -> None:
    _, arguments = next(operands(torch.float32))
    assert not OP(*(t.clone().requires_grad_() for t in arguments)).requires_grad


def test_compiles_into_one_graph() -> None:
    arguments = dict(operands(torch.float32))["tokens"]
    compiled = torch.compile(lambda *given: OP(*given) + 1, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), OP(*arguments) + 1)


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"weight": torch.zeros(3)}, ValueError, r"weight must have shape \[K, N\], got \(3,\)"),
        ({"input": torch.zeros(2, 4)}, ValueError, r"input must have shape \[\*, 3\], got \(2, 4\)"),
        ({"input": torch.zeros(())}, ValueError, r"input must have shape \[\*, 3\], got \(\)"),
        ({"factor": torch.zeros(2, 3)}, ValueError, r"factor must have shape \(2, 5\), the product's, got \(2, 3\)"),
        ({"factor": torch.zeros(2, 5).half()}, TypeError, "factor must be torch.float32"),
        ({"weight": 1.0}, TypeError, "weight must be a Tensor, got float"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"input": torch.zeros(2, 3), "weight": torch.zeros(3, 5), "factor": torch.zeros(2, 5)}
    with pytest.raises(error, match=message):
        matmul_multiply(**{**given, **change})
