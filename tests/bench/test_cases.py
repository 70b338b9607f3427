"""The correctness half of every benchmark case."""

import pytest
import torch

from bench.check import check
from bench.registry import Case, all_cases


def pairs() -> list[tuple[Case, torch.dtype]]:
    return [(case, dtype) for case in all_cases() for dtype in case.dtypes]


@pytest.mark.parametrize(("case", "dtype"), pairs(), ids=[f"{case.name} {dtype}" for case, dtype in pairs()])
def test_is_right(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    if device.type not in case.devices:
        pytest.skip(f"not a case for {device.type}")
    check(case, device, dtype)
