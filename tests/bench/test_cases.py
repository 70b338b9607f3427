"""The correctness half of every benchmark case."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench.check import check
from bench.registry import Case, all_cases


def runs() -> Iterator[Any]:
    for case in all_cases():
        for device in case.devices:
            marks = [pytest.mark.cuda] if device == "cuda" else []
            for dtype in case.dtypes:
                yield pytest.param(case, dtype, torch.device(device), marks=marks, id=f"{device}-{case.name} {dtype}")


@pytest.mark.parametrize(("case", "dtype", "device"), list(runs()))
def test_is_right(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    check(case, device, dtype)
