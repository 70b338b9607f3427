"""The helper that runs functions on several ranks."""

import time

import pytest
import torch
import torch.distributed as dist

from tests.distributed.launch import RankError, Ranks, needs_gloo

pytestmark = needs_gloo


def gathered(value: float) -> list[float]:
    own = torch.tensor([value + dist.get_rank()])
    found = [torch.empty(1) for _ in range(dist.get_world_size())]
    dist.all_gather(found, own)
    return [float(each) for each in found]


def one_raises() -> None:
    if dist.get_rank() == 1:
        raise KeyError("of this rank")
    dist.barrier()


def one_sleeps() -> None:
    time.sleep(30 * dist.get_rank())


def test_results_errors_and_timeouts_come_back_and_a_group_is_there_again() -> None:
    with Ranks(2) as ranks:
        assert ranks.run(gathered, 3.0) == ranks.run(gathered, 3.0) == [[3.0, 4.0]] * 2
        started = time.monotonic()
        with pytest.raises(RankError, match="(?s)rank 0 of 2.*rank 1 of 2.*of this rank"):
            ranks.run(one_raises)
        assert time.monotonic() - started < 30  # the rank that waits is not left to the timeout
        assert ranks.run(gathered, 0.0) == [[0.0, 1.0]] * 2
        with pytest.raises(RankError, match="^\nrank 1 of 2: no answer in time$"):
            ranks.run(one_sleeps, timeout=1)
