"""The correctness half of every benchmark case."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from bench.check import check
from bench.registry import Case, all_cases

# On a CPU in float32 alone: tests/ops has every op in every dtype, and bench times nothing that this gate refuses.
LARGE = re.compile("8x256x56x56|8x197x3072|4 Mi|8192x768")


def runs() -> Iterator[Any]:
    for case in all_cases():
        for device in case.devices:
            marks = [pytest.mark.cuda] if device == "cuda" else []
            for dtype in case.dtypes[:1] if device == "cpu" and LARGE.search(case.name) else case.dtypes:
                yield pytest.param(case, dtype, torch.device(device), marks=marks, id=f"{device}-{case.name} {dtype}")


@pytest.mark.parametrize(("case", "dtype", "device"), list(runs()))
def test_is_right(case: Case, dtype: torch.dtype, device: torch.device) -> None:
    check(case, device, dtype)
