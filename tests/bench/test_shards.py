"""What a benchmark of collectives counts."""

import pytest
import torch
import torch.distributed as dist

from bench.shards import Sent
from tests.distributed.launch import needs_gloo
from zsu_fast.unlearn.group import Processes

pytestmark = needs_gloo


@pytest.fixture
def group():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield dist.group.WORLD
    dist.destroy_process_group()


def test_calls_and_bytes_of_collectives(group):
    with Sent() as sent:
        found = Processes(group).sum(torch.arange(5))
    assert found.tolist() == [0, 1, 2, 3, 4]
    assert sent.calls == {"allreduce": 2} and sent.bytes == 24 + 40  # how all stand, and the sums
    with Sent() as sent:
        dist.all_gather([torch.empty(2, dtype=torch.float64)], torch.ones(2, dtype=torch.float64))
        torch.ones(7) + 1
    assert sent.calls == {"allgather": 1} and sent.bytes == 16
