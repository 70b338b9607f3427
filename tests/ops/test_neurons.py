"""neuron_relevance: against einsum in every layout; accurate where float32 sums drift; refusals."""

from typing import Any

import pytest
import torch

from zsu_fast.ops import neuron_relevance


@pytest.mark.parametrize(
    "shape, unit_dim, sums",
    [
        ((3, 5, 4, 6), 1, "nuhw,nuhw->nu"),
        ((3, 7, 5), -1, "ntu,ntu->nu"),
        ((3, 4, 5, 6), 2, "nhuw,nhuw->nu"),
        ((3, 5), 1, "nu,nu->nu"),
        ((2, 3, 4, 5, 6), 1, "nudhw,nudhw->nu"),
    ],
)
def test_equals_einsum(shape: tuple[int, ...], unit_dim: int, sums: str, device: torch.device) -> None:
    gradient, activation = torch.randn(2, *shape, dtype=torch.float64, device=device)
    expected = torch.einsum(sums, gradient, activation)
    torch.testing.assert_close(neuron_relevance(gradient, activation, unit_dim), expected)
    torch.testing.assert_close(neuron_relevance(gradient, activation, unit_dim, per_sample=False), expected.sum(0))
    if len(shape) == 4:
        last = gradient.contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(neuron_relevance(last, activation, unit_dim), expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_long_sums_of_half_precision_do_not_drift(channels_last: bool, device: torch.device) -> None:
    # 300 * 300 ones times 1.001 in half precision: float16 would stop at 2048, a naive float32 sum drifts visibly.
    ones = torch.ones(1, 2, 300, 300, dtype=torch.float16, device=device)
    value = torch.full_like(ones, 1.001)
    if channels_last:
        ones = ones.contiguous(memory_format=torch.channels_last)
    exact = 90000 * float(value[0, 0, 0, 0])
    result = neuron_relevance(ones, value)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result.cpu(), torch.full((1, 2), exact), rtol=1e-6, atol=0)


def test_sums_over_nothing_are_zero() -> None:
    for shape in ((2, 3, 0), (0, 3, 4)):
        empty = torch.zeros(shape)
        assert torch.equal(neuron_relevance(empty, empty), torch.zeros(shape[0], 3))
        assert torch.equal(neuron_relevance(empty, empty, per_sample=False), torch.zeros(3))


@pytest.mark.parametrize(
    "change, error, message",
    [
        ({"activation": torch.zeros(2, 4)}, ValueError, r"activation must have shape \(2, 3\), the gradient's"),
        ({"activation": torch.zeros(2, 3).double()}, TypeError, "activation must be torch.float32"),
        ({"unit_dim": 0}, ValueError, "unit_dim must be 1 to 1"),
        ({"unit_dim": "channels"}, TypeError, "unit_dim must be an int, got str"),
    ],
)
def test_bad_arguments(change: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        neuron_relevance(**{"gradient": torch.zeros(2, 3), "activation": torch.zeros(2, 3), **change})
