"""The emulator itself: kernels that are right give what they should in any order, wrong ones are found out."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.emulated_cuda.build import COMPILER, FLAGS, HERE, translate

ORDERS = ["forward", "reverse", "1", "2"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which(COMPILER[0]) is None:
        pytest.skip(f"no {COMPILER[0]}")
    folder = tmp_path_factory.mktemp("emulator")
    source = folder / "kernels.cpp"
    source.write_text(translate((HERE / "kernels.cu").read_text()))
    command = [*COMPILER, *FLAGS, f"-I{HERE}", str(source), str(HERE / "emulator.cpp"), "-o", str(folder / "kernels")]
    subprocess.run(command, check=True)
    return folder / "kernels"


def run(program: Path, name: str, order: str) -> tuple[int, str]:
    done = subprocess.run([program, name], env={"ZSU_EMULATION_ORDER": order}, capture_output=True, text=True)
    return done.returncode, done.stdout


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "expected"), [("block_sum", 2016), ("warp_sum", 2016 + 2 * 1000)])
def test_right_in_any_order(program: Path, name: str, expected: int, order: str) -> None:
    assert run(program, name, order) == (0, f"{expected} " * 3)


def test_a_missing_barrier_shows(program: Path) -> None:
    right = (0, "2016 " * 3)
    assert all(run(program, "missing_barrier", order) != right for order in ORDERS)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["different_barriers", "missing_lane"])
def test_waiting_in_vain_is_an_error(program: Path, name: str, order: str) -> None:
    code, text = run(program, name, order)
    assert code == 1
    assert "in vain" in text
    assert "kernels.cpp:" in text  # where they wait


def test_a_trap_ends_the_kernel(program: Path) -> None:
    assert run(program, "trap", "forward") == (1, "a kernel has trapped\n")


def test_translation_of_a_launch() -> None:
    launch = "kernel<A<B>, 1>\n    <<<grid(x, 1), {a, b}, 0, stream>>>(f(y), z);"
    expected = "::zsu::emulation::launch(grid(x, 1), {a, b}, [&] { kernel<A<B>, 1>(f(y), z); });"
    assert translate(launch) == expected
