"""What runs where there is a GPU, tried without one: rows in processes of their own, files that can be gone on with."""

import faulthandler
import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from bench import gpu, measure, plans
from bench.isolated import isolated
from bench.registry import all_cases
from bench.results_file import ResultsFile

MACHINE = {"gpu": "a GPU", "cpu": "a CPU", "torch": "2", "commit": "abc"}


@pytest.mark.parametrize(
    ("work", "fault"),
    [
        (lambda: [faulthandler.disable(), os.kill(os.getpid(), signal.SIGSEGV)], "died: exit code -11"),
        (lambda: os._exit(7), "died: exit code 7"),
        (lambda: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda: time.sleep(60), "hung: killed after 1 s"),
    ],
)
def test_what_goes_wrong_in_a_process_of_its_own_is_told(work, fault: str) -> None:
    assert isolated(work, 1) == (None, fault)


def test_what_comes_back() -> None:
    assert isolated(lambda: {"seconds": [1.0]}, 10) == ({"seconds": [1.0]}, None)


def test_a_file_of_results_is_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    ResultsFile(path, MACHINE).add("ops", "a", {"x": 1})
    again = ResultsFile(path, MACHINE)
    again.add("models", "a", {"x": 2})
    assert again.keys("ops") == {"a"} and again.rows("models") == {"a": {"x": 2}} and not again.keys("tests")
    assert json.loads(path.read_text())["rows"] == {"ops": {"a": {"x": 1}}, "models": {"a": {"x": 2}}}
    with pytest.raises(ValueError, match="is of gpu a GPU, this is another"):
        ResultsFile(path, MACHINE | {"gpu": "another"})


def test_rows_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = ResultsFile(tmp_path / "rows.json", MACHINE)
    ran: list[str] = []

    def row(name: str) -> dict[str, dict]:
        (tmp_path / name).touch()
        return {"seconds": {plans.PLAIN: {"median": 1.0}}, "ratios": {plans.PLAN: [0.9, 1.0, 1.1]}, "rules": "epsilon"}

    works = [
        gpu.Work("one", partial(row, "one")),
        gpu.Work("two", lambda: os._exit(1)),
        gpu.Work("three", partial(row, "3")),
    ]
    assert not gpu.work_through(iter(works), file, "plans", 20, time.monotonic() + 60)
    assert (tmp_path / "one").exists() and (tmp_path / "3").exists()
    assert file.rows("plans")["two"] == {"failed": "died: exit code 1"}
    text = capsys.readouterr().out
    assert "two: died: exit code 1" in text and "one: plain gradient 1 s; plan 1.00" in text
    works = [gpu.Work("one", lambda: ran.append("one")), gpu.Work("four", lambda: ran.append("four"))]
    assert not gpu.work_through(iter(works), file, "plans", 20, time.monotonic() + 1)  # one is there, four has no time
    assert not ran and file.keys("plans") == {"one", "two", "three"}


def test_every_kernel_is_checked() -> None:
    names = {case.name for case in all_cases()}
    assert set(gpu.CHECKED) <= names
    checked = {name.partition("/")[0] for name in gpu.CHECKED}
    ops = {name.partition("/")[0] for name in names if not name.startswith("relevance/")}
    # By the kernel behind it: the norms share one, the public functions of a layer are passes and ATen.
    assert ops - checked <= {"rms_norm_gate", "lrp_linear", "lrp_conv2d", "lrp_combine", "topk_indices"}


def test_rows_of_ops_and_models() -> None:
    ops = list(gpu.cases(gpu.MEASURED_OPS, "cuda", 0.1, lambda peer: True))
    assert len({work.key for work in ops}) == len(ops) > 40
    assert {work.key.partition("/")[0] for work in gpu.models("cuda", 0.1)} >= {"ViT-B", "ViT-L"}


def test_a_case_measured_apart(tmp_path: Path) -> None:
    file = ResultsFile(tmp_path / "rows.json", MACHINE)
    rows = gpu.cases(["batch_norm_gate/conv 8x512x7x7"], "cpu", 0.01, lambda peer: False)
    assert gpu.work_through(rows, file, "ops", 150, time.monotonic() + 300)
    found = file.rows("ops")
    assert found and all(row["seconds"]["zsu_fast"]["median"] > 0 for row in found.values())


def test_test_files_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "suite"
    folder.mkdir()
    for name, body in (("good", "assert True"), ("bad", "assert False, 'told'"), ("fault", "import os; os.abort()")):
        (folder / f"test_{name}.py").write_text(f"def test_it():\n    {body}\n")
    (folder / "test_none.py").write_text("")
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    monkeypatch.setattr(gpu, "TESTS", ("suite",))
    file = ResultsFile(tmp_path / "rows.json", MACHINE)
    assert not gpu.tests(file, time.monotonic() + 60, [])
    rows = file.rows("tests")
    assert "1 passed" in rows["suite/test_good.py"]["passed"] and rows["suite/test_none.py"] == {"passed": "none"}
    assert "told" in rows["suite/test_bad.py"]["failed"] and "exit code -6" in rows["suite/test_fault.py"]["failed"]


class Clock:
    """A GPU that works at one speed beside its caller, as far as events and sleeping show it."""

    def __init__(self) -> None:
        self.until = 0.0  # when what was enqueued so far will be done
        self.now = 0.0
        self.slept: list[float] = []

    def enqueue(self, seconds: float) -> None:
        self.until = max(self.until, self.now) + seconds

    def sleep(self, cycles: int) -> None:
        self.slept.append(cycles / 1e9)
        self.enqueue(cycles / 1e9)


def test_the_time_on_cuda_is_the_gpus_not_its_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A caller that takes 10 ms to enqueue 1 ms of work, ten kernels with pauses between them."""
    clock = Clock()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = max(clock.until, clock.now)

        def synchronize(self) -> None:
            clock.now = max(clock.until, clock.now)

        def elapsed_time(self, other: "Event") -> float:
            return (other.at - self.at) * 1000

    class Flush:
        def zero_(self) -> None:
            clock.enqueue(1e-4)

    def contender() -> None:
        for _ in range(10):
            clock.now += 1e-3
            clock.enqueue(1e-4)

    def synchronize(device: torch.device) -> None:
        clock.now = max(clock.until, clock.now)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "_sleep", clock.sleep)
    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    monkeypatch.setattr(measure.torch, "empty", lambda *a, **k: Flush())
    monkeypatch.setattr(measure.time, "perf_counter", lambda: clock.now)
    sample = measure._cuda_sampler(torch.device("cuda"))
    wall, caller = sample(contender, 1)
    assert wall == pytest.approx(1e-3) and caller == pytest.approx(1e-2)
    assert clock.slept[-1] == pytest.approx(2e-2)
    text = measure.Samples((wall,), caller=(caller,)).to_dict()
    assert text["median"] == wall and text["caller"] == caller and "process" not in text
