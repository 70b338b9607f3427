"""Loggers are told every cell that is measured, and their failures cost none."""

import sys
import types

import pytest

from zsu_fast.benchmark.loggers import LOGGERS, SafeLogger, figures


class Recorder:
    def __init__(self):
        self.rows, self.closed = [], False

    def log(self, row):
        self.rows.append(row)

    def close(self):
        self.closed = True


def test_every_cell_that_is_measured_is_told_once(run):
    logger = Recorder()
    results = run(loggers=[logger])
    assert logger.rows == results.rows() and len(logger.rows) == 4
    again = Recorder()
    run(loggers=[again])
    assert not again.rows


def test_a_failing_logger_is_left_out_and_told_of_once(run):
    class Broken(Recorder):
        def log(self, row):
            raise OSError("no server")

    broken, told = Broken(), []
    assert len(run(loggers=[SafeLogger(broken, told.append)]).rows()) == 4
    assert told == ["Broken failed and is left out from here: no server"] and broken.closed


def test_figures_are_the_measurements(measured):
    row = next(row for row in measured.rows() if row["method"] == "lra-npp")
    found = figures(row)
    assert found["answers"] == row["answers"] and found["reached"] == 1.0
    assert not {"class", "seed", "model", "method", "verdict"} & set(found)


def test_tensorboard(measured, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = LOGGERS["tensorboard"](tmp_path, "trial")
    rows = measured.rows()
    for row in rows:
        logger.log(row)
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard" / "seed-1"))
    events.Reload()
    found = {event.step: event.value for event in events.Scalars("net & co/lra-npp/others")}
    expected = {row["class"]: row["others"] for row in rows if (row["method"], row["seed"]) == ("lra-npp", 1)}
    assert len(expected) == 2 and found == pytest.approx(expected)
    assert (tmp_path / "tensorboard" / "reference").is_dir()


class Run:
    def __init__(self, calls, **about):
        self.calls, self.summary = calls, {}
        calls.append(("run", about))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.calls.append(("end", None))

    def log(self, metrics):
        self.calls.append(("metrics", metrics))

    def finish(self):
        self.calls.append(("end", self.summary))


def test_mlflow(measured, monkeypatch, tmp_path):
    calls = []
    fake = types.ModuleType("mlflow")
    for name in ("set_experiment", "log_params", "log_metrics", "set_tags"):
        setattr(fake, name, lambda value, name=name: calls.append((name, value)))
    fake.start_run = lambda **about: Run(calls, **about)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", fake)
    row = next(row for row in measured.rows() if row["outcome"] == "failed")
    logger = LOGGERS["mlflow"](tmp_path, "trial")
    logger.log(row)
    logger.close()
    assert [name for name, _ in calls] == ["set_experiment", "run", "log_params", "set_tags", "log_metrics", "end"]
    assert calls[0][1] == "trial" and calls[2][1] == {name: row[name] for name in ("model", "class", "method", "seed")}
    assert calls[3][1]["outcome"] == "failed" and "learning_rate" in calls[3][1]["error"]


def test_wandb(measured, monkeypatch, tmp_path):
    calls = []
    fake = types.ModuleType("wandb")
    fake.init = lambda **about: Run(calls, **about)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", fake)
    row = next(row for row in measured.rows() if row["method"] == "lra-npp")
    LOGGERS["wandb"](tmp_path, "trial").log(row)
    (_, about), (_, metrics), (_, summary) = calls
    assert about["project"] == "trial" and about["config"]["class"] == 1 and about["group"] == "net & co"
    assert metrics["answers"] == row["answers"] and summary["outcome"] == "done"


@pytest.mark.parametrize("name", ["mlflow", "wandb", "tensorboard"])
def test_a_missing_package_names_its_extra(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=rf'pip install "zsu-fast\[{name}\]"'):
        LOGGERS[name](tmp_path, "trial")
