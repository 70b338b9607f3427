"""Cells are measured once, each on its own; a kill costs the one that was being measured, and an error itself alone."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
import torch

from tests.benchmark.conftest import MEASURES, METHODS, images
from zsu_fast.benchmark import Case, Few, Measures
from zsu_fast.benchmark import measure as measuring
from zsu_fast.evaluate import depth
from zsu_fast.lock import Lock
from zsu_fast.model.tensors import model_digest, same_bits
from zsu_fast.unlearn import forget

ROOT = Path(__file__).resolve().parents[2]
TIMES = ("seconds", "cpu_seconds", "time")

KILLED = """
import sys
from pathlib import Path
from tests.benchmark.conftest import MEASURES, METHODS, images, trained
from zsu_fast.benchmark import Case, benchmark

case = Case(trained(), images(160, 2), images(120, 3), oracle={2: trained(2)})
print("ready", flush=True)
benchmark({"net": case}, METHODS, sys.argv[1], classes=[1, 2], measures=MEASURES)
print("finished", flush=True)
"""


def cells(folder):
    """key -> what was measured, but for times."""
    found = {}
    for path in (folder / "cells").glob("*.json"):
        content = json.loads(path.read_text())
        found[path.stem] = {name: value for name, value in content.items() if name not in TIMES}
    return found


def test_what_is_measured_is_what_forget_and_depth_say(run, case):
    """A cell beside the two as a user would call them."""
    rows = {row["method"]: row for row in run().rows()}
    assert list(rows) == ["original", "retrained", *METHODS]
    edited = copy.deepcopy(case.model)
    probes, retain = case.given(2, "probes", Few(), 0)
    assert retain is None and len(probes) == 36
    found = forget(edited, 2, probes)
    expected = depth(
        edited,
        case.model,
        case.lessons,
        case.test,
        2,
        oracle=case.oracle[2],
        relearn_steps=MEASURES.relearn_steps,
        relearn_by=[("adam", MEASURES.learning_rate)],
    )
    row = rows["lra-npp"]
    compared = {
        "linear probe": "linear_probe",
        "prototype row, 5 images": "prototype",
        "relearning, 2 steps": "relearning",
    }
    for name, key in compared.items():
        attack = expected.attacks[name]
        measured = {
            who: rows[method][key]
            for who, method in (("original", "original"), ("edited", "lra-npp"), ("oracle", "retrained"))
        }
        assert measured == pytest.approx(attack.forget), name
        if f"share_{key}" in row:
            assert row[f"share_{key}"] == attack.share
    assert row["answers"] == expected.attacks["answers"].forget["edited"] == 0
    assert row["others"] == expected.attacks["answers"].retain["edited"] > 0.9
    assert row["holds"] is all(expected.attacks[name].holds for name in compared)
    assert (row["verdict"], row["reached"], row["edited"]) == (found.verdict.level, True, True)
    assert row["values"] == sum(entry.new.numel() for entry in found.patch.entries) > 0


def test_the_images_that_judge_have_no_other_part_and_models_stay_as_they_were(run, case, monkeypatch):
    before = model_digest(case.model)
    seen = []

    def spy(model, target, probes, **given):
        seen.append(torch.cat([probes, *([given["retain_probes"][0]] if given["retain_probes"] else [])]))
        assert "evaluate_on" not in given and model is not case.model
        return forget(model, target, probes, **given)

    monkeypatch.setattr(measuring, "forget", spy)
    run(seeds=[0, 1])
    assert len(seen) == 4 and model_digest(case.model) == before
    test = {image.numpy().tobytes() for image in case.test[0]}
    lessons = {image.numpy().tobytes() for image in case.lessons[0]}
    for given in seen:
        shown = {image.numpy().tobytes() for image in given}
        assert not shown & test and shown <= lessons
    assert len(seen[1]) == 36 + 3 * 20
    assert not same_bits(seen[0], seen[2]), "another seed draws other images"


def test_training_data_is_given_whole_where_it_is_asked_for(run, case, monkeypatch):
    seen = []
    monkeypatch.setattr(
        measuring, "forget", lambda *a, **k: seen.append((len(a[2]), len(k["retain_probes"][0]))) or forget(*a, **k)
    )
    row = run(methods={"ssd": {"data": "train"}}).rows()[-1]
    assert seen == [(100, 300)] and row["given_images"] == 400
    without = Case(case.model, case.lessons, case.test)
    for changes in ({"methods": {"ssd": {"data": "train"}}}, {"measures": Measures(membership=True)}):
        with pytest.raises(ValueError, match=r"methods\.ssd\.data|measure\.membership"):
            run(cases={"net": without}, **changes)


def test_membership_is_measured_where_it_is_asked_for(run):
    row = run(measures=Measures(("linear probe",), relearn_steps=0, membership=True)).rows()[-1]
    assert 0 < row["membership_loss_auc"] < 1 and row["holds"] is None and row["relearn_steps"] is None


def test_finished_cells_are_not_measured_again_and_more_may_be_asked_for(run, tmp_path, monkeypatch):
    first = run()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    told = []
    again = run(told=told.append)
    assert not told and again.rows() == first.rows()
    more = run(methods=METHODS | {"kodge": {}}, seeds=[0, 1], classes=[2, 3], told=told.append)
    assert len(told) == len(more.cells) - len(first.cells) == 11
    assert all(path.stat().st_mtime_ns == before for path, before in times.items())
    renamed = run(methods={"mine": {"method": "lra-npp", "data": "probes"}}, told=told.append)
    assert len(told) == 11 and renamed.rows()[-1]["method"] == "mine", "a name decides nothing"


def test_the_same_method_under_two_names_is_measured_once(run):
    told = []
    results = run(methods={"a": {"method": "kodge"}, "b": {"method": "kodge"}}, told=told.append)
    assert len(told) == 3 and [row["method"] for row in results.rows()[2:]] == ["a", "b"]


def test_an_interrupted_run_goes_on_with_the_same_cells(run, tmp_path):
    def stop(line, seen=[]):  # noqa: B006
        seen.append(line)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(told=stop)
    assert len(cells(tmp_path / "out")) == 3
    partial = run(measure=False)
    assert len(partial.missing) == 1 and len(partial.rows()) == 3
    told = []
    run(told=told.append)
    assert len(told) == 1
    run(out=tmp_path / "whole")
    assert cells(tmp_path / "out") == cells(tmp_path / "whole")


@pytest.mark.slow
def test_a_killed_run_goes_on_with_the_same_cells(run, case, tmp_path):
    """SIGKILL while cells are measured, then on to the end: what is there equals a run in one go."""
    killed = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(killed)]
    variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while len(cells(killed)) < 2 and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.communicate()[0] == "ready\n"
    (killed / "cells" / ".torn.0a.zsu-part").write_text('{"kind"')  # as if killed while it wrote
    before = cells(killed)
    assert 2 <= len(before) < 7
    given = {"cases": {"net": Case(case.model, case.lessons, case.test, oracle={2: case.oracle[2]})}}
    given |= {"classes": [1, 2]}
    told = []
    run(out=killed, told=told.append, **given)
    run(out=tmp_path / "whole", **given)
    after = cells(killed)
    assert len(after) == 7 and after == cells(tmp_path / "whole") and len(told) == 7 - len(before)
    assert before.items() <= after.items() and not list((killed / "cells").glob(".*"))


def test_an_error_of_a_cell_is_its_outcome_and_stays_until_it_is_retried(run):
    methods = {"fails": {"method": "neggrad", "learning_rate": 1e30, "epochs": 3}} | METHODS
    told = []
    results = run(methods=methods, told=told.append)
    assert [cell.method for cell in results.failed] == ["fails"]
    row = next(row for row in results.rows() if row["method"] == "fails")
    assert row["outcome"] == "failed" and "learning_rate" in row["error"] and row["answers"] is None
    assert sum("failed" in line for line in told) == 1 and len(results.rows()) == 5
    told.clear()
    run(methods=methods, told=told.append)
    assert not told
    run(methods=methods, retry=True, told=told.append)
    assert len(told) == 1


def test_results_of_another_config_are_refused(run, case, tmp_path):
    run()
    other = Case(case.model, case.lessons, images(120, 9))
    with pytest.raises(ValueError, match=r"out: .* another config: models\.net\.test was [0-9a-f]{12}…, now it is"):
        run(cases={"net": other})
    with pytest.raises(ValueError, match=r"measure\.relearn_steps was 2, now it is 3"):
        run(measures=Measures(MEASURES.attacks, MEASURES.prototypes, relearn_steps=3))
    cell = next((tmp_path / "out" / "cells").glob("*.json"))
    content = json.loads(cell.read_text())
    content["config"]["class"] = 3
    cell.write_text(json.dumps(content))
    with pytest.raises(ValueError, match="damaged, or of another config"):
        run()
    cell.write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        run()
    cell.unlink()
    assert len(run().rows()) == 4
    (tmp_path / "out" / "benchmark.json").unlink()
    with pytest.raises(ValueError, match="holds cells, and no benchmark.json"):
        run()


def test_a_second_run_is_kept_out(run, tmp_path):
    with closing(Lock(tmp_path / "out", "out")), pytest.raises(BlockingIOError, match="another run"):
        run()


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"cases": {}}, ValueError, "cases: expected at least one"),
        ({"cases": {"net": lambda: 3}}, TypeError, r"cases\.net: expected a Case"),
        ({"methods": {}}, ValueError, "methods: expected at least one"),
        ({"methods": ["deep"]}, TypeError, "methods: expected options by name"),
        ({"methods": {"deeep": {}}}, ValueError, r"methods\.deeep: method: expected one of"),
        ({"methods": {"deep": {"step": 3}}}, TypeError, r"methods\.deep: step: method 'deep' has no such option"),
        ({"methods": {"margin": {}}}, ValueError, r"methods\.margin: method: 'margin' does not forget classes"),
        (
            {"methods": {"deep": {"data": "all"}}},
            ValueError,
            r"methods\.deep\.data: expected one of probes, few, train",
        ),
        ({"methods": {"deep": {"seed": 1}}}, TypeError, r"methods\.deep: seed: the benchmark itself gives it"),
        ({"methods": {"original": {"method": "deep"}}}, ValueError, "the name is taken"),
        ({"classes": [2, 9]}, ValueError, "net has no lessons or no test images of class 9"),
        ({"classes": [2, 2]}, ValueError, "target: a class is named twice"),
        ({"classes": ["cat"]}, TypeError, "target: expected a class index"),
        ({"seeds": []}, TypeError, "seeds: expected a list of at least one"),
        ({"seeds": [0, 0]}, ValueError, "seeds: one is named twice"),
        ({"seeds": [-1]}, ValueError, "seed: expected at least 0"),
    ],
)
def test_bad_arguments_are_refused_by_name_before_anything_is_measured(run, tmp_path, changes, error, text):
    with pytest.raises(error, match=text):
        run(told=lambda line: pytest.fail("measured"), **changes)
    assert not list(tmp_path.glob("out/cells/*"))


def test_classes_by_name_and_all_of_them(run):
    assert {cell.target for cell in run(classes=["sw", 1], measure=False).cells} == {1, 2}
    assert {cell.target for cell in run(classes=None, measure=False).cells} == {0, 1, 2, 3}
    assert {cell.target for cell in run(classes={"net": [3]}, measure=False).cells} == {3}
