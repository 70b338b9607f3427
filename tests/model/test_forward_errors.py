"""What failed: memory, another process, or the inputs; of these, what came and what the model is."""

import pytest
import torch
import torch.distributed as dist
from torch import nn

from zsu_fast.model.forward_errors import is_out_of_memory, may_be_the_inputs, not_taken


def test_out_of_memory():
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(refused.value) and is_out_of_memory(MemoryError())
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes")) and not is_out_of_memory(ValueError("can't allocate memory"))


@pytest.mark.parametrize(
    "error, may",
    [(RuntimeError("shapes"), True), (MemoryError(), False), (torch.AcceleratorError("device-side assert"), False)],
)
def test_what_is_not_of_the_inputs(error, may):
    assert may_be_the_inputs(error) is may


@pytest.mark.skipif(not dist.is_available(), reason="no torch.distributed")
def test_what_other_processes_do_is_not_of_the_inputs():
    with pytest.raises(RuntimeError) as refused:
        dist.init_process_group("gloo", init_method="nowhere://")
    assert not may_be_the_inputs(refused.value)


def test_what_came_and_what_the_model_is():
    model = nn.Linear(4, 3)
    error = RuntimeError("words of torch\nmore")
    images = torch.rand(2, 8, 8, 3)
    told = "x: the model does not take a batch of shape (2, 8, 8, 3), torch.float32: words of torch"
    assert str(not_taken("x", model, images, error)) == f"{told} (channels come first: permute(0, 3, 1, 2))"
    assert str(not_taken("x", model, images.double(), error)) == "x: torch.float64, the model is torch.float32"
    assert str(not_taken("x", model, images.to("meta"), error)) == "x: on meta, the model is on cpu"
    assert "AssertionError" in str(not_taken("x", lambda x: x, images[:, :5], AssertionError()))
