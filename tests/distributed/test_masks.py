"""Masks on the parts of DTensors, by indices that count in the whole."""

import pytest
import torch
import torch.distributed as dist

from tests.distributed.launch import Ranks, needs_gloo
from zsu_fast import ops

pytestmark = needs_gloo
INDICES = ([], [0], [6, 1, 3], list(range(7)))


def masks() -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

    mesh = init_device_mesh("cpu", (4,))
    torch.manual_seed(0)
    value = torch.randn(7, 7)
    for placement in (Shard(0), Shard(1), Replicate()):
        for dim in (0, 1):
            for indices in INDICES:
                for mode, more in (("zero", {}), ("scale", {"value": -1.0})):
                    expected = ops.mask_neurons_(value.clone(), indices, dim, mode=mode, **more)
                    tensor = distribute_tensor(value.clone(), mesh, [placement])
                    parameter = torch.nn.Parameter(distribute_tensor(torch.arange(7.0), mesh, [Shard(0)]))
                    before = tensor.to_local().clone()
                    with torch.no_grad():
                        _, old = ops.mask_neurons_(
                            [tensor, parameter], indices, [dim, 0], mode=mode, record=True, **more
                        )
                    assert torch.equal(tensor.full_tensor(), expected)
                    assert torch.equal(
                        parameter.full_tensor(), ops.mask_neurons_(torch.arange(7.0), indices, mode=mode, **more)
                    )
                    first, size = (2 * dist.get_rank(), before.shape[dim]) if placement == Shard(dim) else (0, 7)
                    here = torch.tensor([i - first for i in indices if first <= i < first + size], dtype=torch.int64)
                    tensor.to_local().index_copy_(dim, here, old[0])
                    assert torch.equal(tensor.to_local(), before)
    whole = distribute_tensor(value.clone(), mesh, [Shard(0)])
    with pytest.raises(ValueError, match=r"indices must be in 0\.\.6 .*got 7"):
        ops.mask_neurons_(whole, [7])
    with pytest.raises(ValueError, match="adds noise, which would not be the same"):
        ops.mask_neurons_(whole, [1], mode="gaussian")
    with pytest.raises(ValueError, match="tensors: a DTensor placed as .* cannot be written to"):
        ops.mask_neurons_(DTensor.from_local(value, mesh, [Partial()]), [1])
    with pytest.raises(ValueError, match="requires grad"):
        ops.mask_neurons_(parameter, [1])
    assert torch.equal(whole.full_tensor(), value)


def test_masks_on_parts_are_those_of_the_whole(four: Ranks) -> None:
    four.run(masks)
