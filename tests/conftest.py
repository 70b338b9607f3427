"""What every test shares: the data folder, deterministic seeds, memory that is poisoned before it is written."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests import without_hypothesis
from tests.peers import repair_torchvision

ROOT = Path(__file__).resolve().parent.parent

repair_torchvision()
without_hypothesis.install()


def find_data() -> Path | None:
    """The folder of real models and images: ZSU_FAST_TEST_DATA, or shared/data beside the checkout."""
    folder = Path(os.environ.get("ZSU_FAST_TEST_DATA", ROOT.parent / "shared" / "data"))
    return folder if folder.is_dir() else None


@pytest.fixture(scope="session")
def data_dir() -> Path:
    folder = find_data()
    if folder is None:
        pytest.skip("no folder of real models and images: set ZSU_FAST_TEST_DATA")
    return folder


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Each device in turn; the test on CUDA is skipped where there is none."""
    return torch.device(request.param)


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    torch.manual_seed(0)
    yield
    assert torch.is_grad_enabled(), "the tests after this one would run without gradients"


@pytest.fixture
def poisoned_memory() -> Iterator[None]:
    """Fresh memory is filled with NaN (with the largest integer for integers), so that an unwritten element shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    on_cuda = [item for item in items if item.get_closest_marker("cuda")]
    if on_cuda:
        config.hook.pytest_deselected(items=on_cuda)
        items[:] = [item for item in items if not item.get_closest_marker("cuda")]
        config.stash[_LEFT_OUT] = len(on_cuda)


_LEFT_OUT = pytest.StashKey[int]()


def pytest_collection_finish() -> None:
    """What is imported by now stays to the end: each gc.collect(), of a test or ours, would look through all of it."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if count := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.write_line(f"left out: {count} tests that need a CUDA device")
