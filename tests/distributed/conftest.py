"""Groups of processes for all tests of this folder: it is their start that takes long."""

from collections.abc import Iterator

import pytest

from tests.distributed.launch import Ranks


@pytest.fixture(scope="session")
def ranks() -> Iterator[Ranks]:
    with Ranks(2) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def four() -> Iterator[Ranks]:
    with Ranks(4) as ranks:
        yield ranks
