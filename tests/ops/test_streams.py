"""Kernels run where their operands are: on the current stream, on the device of the tensors."""

from contextlib import nullcontext

import pytest
import torch

from tests.ops.test_reproducible import ARGUMENTS, assert_same, call, flat


@pytest.mark.parametrize("op", ARGUMENTS)
def test_work_is_done_on_the_current_stream(op: str, device: torch.device) -> None:
    """What the operands are is still being written on that stream when the op is called."""
    for number, arguments in enumerate(ARGUMENTS[op](device)):
        if number % 7:  # each sample once would take minutes
            continue
        expected = call(op, arguments)
        operands = [tensor for tensor in flat(arguments) if tensor.numel() and 0 not in tensor.stride()]
        kept = [tensor.clone() for tensor in operands]
        for tensor in operands:
            tensor.zero_()
        if device.type == "cuda":
            torch.cuda.synchronize()
        side = torch.cuda.Stream(device) if device.type == "cuda" else None
        with torch.cuda.stream(side) if side is not None else nullcontext():
            if side is not None:
                torch.cuda._sleep(20_000_000)  # some ten milliseconds
            for tensor, values in zip(operands, kept, strict=True):
                tensor.copy_(values)
            found = call(op, arguments)
        if side is not None:
            side.synchronize()
        assert_same(found, expected)


@pytest.mark.cuda
@pytest.mark.parametrize("op", ARGUMENTS)
def test_another_device_than_the_current_one(op: str) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one CUDA device here")
    for number, arguments in enumerate(ARGUMENTS[op](torch.device("cuda:1"))):
        if number % 7:
            continue
        with torch.cuda.device(0):
            found = call(op, arguments)
        assert all(tensor.device.index == 1 for tensor in found)
        with torch.cuda.device(1):
            assert_same(found, call(op, arguments))
