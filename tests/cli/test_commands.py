"""The commands as a user runs them: what they write, print and return."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open

from zsu_fast.cli import session
from zsu_fast.cli.images import Stream
from zsu_fast.cli.models import load_model
from zsu_fast.cli.weights import read_weights
from zsu_fast.evaluate import batch_size, membership, relearn
from zsu_fast.unlearn import Patch, model_digest

MODEL = ("python:tinynet:build", "--weights", "weights.safetensors")


def forget(*extra: object) -> tuple[object, ...]:
    return ("forget", *MODEL, "--target", 2, "--probes", "probes.npz", *extra)


@pytest.fixture(scope="module")
def done(workplace):
    """One `forget` with everything, run as a program."""
    if not (workplace.folder / "edited").exists():
        arguments = forget("--eval", "test.npz", "--linear-probe", "--out", "edited", "--json")
        root = str(Path(__file__).parents[2])
        result = subprocess.run(
            [sys.executable, "-m", "zsu_fast", *map(str, arguments)],
            cwd=workplace.folder, env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        (workplace.folder / "stdout.json").write_text(result.stdout)
    return workplace.folder / "edited"


def test_forget_writes_what_it_says(done: Path, workplace, run) -> None:
    assert sorted(path.name for path in done.iterdir() if path.suffix != ".npz") == [
        "model.safetensors",
        "patch.safetensors",
        "report.html",
        "result.json",
    ]
    printed = json.loads((workplace.folder / "stdout.json").read_text())
    assert printed == json.loads((done / "result.json").read_text())
    assert printed["record"]["request"]["class_names"] == {"2": "sw"} and "class 2 (sw)" in printed["summary"]
    before, after = (printed["evaluation"][when] for when in ("before", "after"))
    assert before["forget_accuracy"] > 0.9 and after["forget_accuracy"] <= 0.1
    assert after["retain_accuracy"] >= before["retain_accuracy"] - 0.02
    assert printed["linear_probe"]["before"]["forget_accuracy"] > 0.9
    # The metrics are those of the file that was written, not of something in memory.
    written = load_model("python:tinynet:build", done / "model.safetensors")
    assert model_digest(written.model) == printed["record"]["model"]["after"]
    assert model_digest(workplace.model) == printed["record"]["model"]["before"]
    batch = torch.from_numpy(workplace.images).permute(0, 3, 1, 2) / 255.0
    with torch.no_grad():
        answers = written.model(batch).argmax(1).numpy()
    of_class = workplace.labels == 2
    assert (answers[of_class] == 2).mean() == pytest.approx(after["forget_accuracy"])
    with safe_open(done / "model.safetensors", "pt") as file:
        assert file.metadata()["arch"] == "tiny"
    assert Patch.load(done / "patch.safetensors").record == printed["record"]


def test_restore_is_bit_for_bit(done: Path, workplace, run, tmp_path: Path) -> None:
    result = run("restore", done, "--out", tmp_path / "r.safetensors", "--json")
    assert result.code == 0 and result.json["weights_verified"] and result.json["record_verified"]
    original, _ = read_weights(workplace.folder / "weights.safetensors")
    restored, _ = read_weights(tmp_path / "r.safetensors")
    assert restored.keys() == original.keys()
    assert all(torch.equal(restored[k], v) and restored[k].dtype == v.dtype for k, v in original.items())
    again = run("restore", done, "--out", tmp_path / "r.safetensors")
    assert again.code == 2 and "--force" in again.err
    assert run("restore", done, "--out", tmp_path / "r.safetensors", "--force", "-q").out == ""


def test_restore_refuses_other_weights(done: Path, workplace, run, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state, _ = read_weights(done / "model.safetensors")
    state["conv.bias"] = state["conv.bias"] + 1  # outside of the patch: only the hash can tell
    save_file(state, tmp_path / "model.safetensors")
    shutil.copy(done / "patch.safetensors", tmp_path)
    result = run("restore", tmp_path)
    assert result.code == 2 and "hash" in result.err
    assert not (tmp_path / "restored.safetensors").exists()
    unedited = run("restore", "weights.safetensors", "--patch", done / "patch.safetensors", "--out", tmp_path / "x")
    assert unedited.code == 2 and not (tmp_path / "x").exists()
    assert run("restore", "weights.safetensors", "--patch", "weights.safetensors").code == 2


def test_an_earlier_run_is_not_overwritten(done: Path, run) -> None:
    before = (done / "patch.safetensors").read_bytes()
    result = run(*forget("--out", "edited"))
    assert result.code == 2 and "--force" in result.err
    own = run(
        "forget", MODEL[0], "-w", "edited/model.safetensors", "-t", 2, "-p", "probes.npz", "-o", "edited", "--force"
    )
    assert own.code == 2 and "the weights to start from" in own.err
    assert (done / "patch.safetensors").read_bytes() == before


def test_not_reached_is_exit_code_3(run, tmp_path: Path) -> None:
    guard = ("--retain", "mislabelled.npz", "--utility-floor", 1)
    result = run(*forget(*guard, "--out", tmp_path / "o", "--no-report"))
    assert result.code == 3, result.err
    assert [path.name for path in (tmp_path / "o").iterdir()] == ["result.json"]
    content = json.loads((tmp_path / "o" / "result.json").read_text())
    assert content["reached"] is False and content["record"]["reason"] and "weights" not in content["files"]


def test_edited_weights_are_not_given_up_for_a_run_that_reaches_nothing(run, tmp_path: Path) -> None:
    out, guard = tmp_path / "o", ("--retain", "mislabelled.npz", "--utility-floor", 1)
    arguments = forget("--out", out, "--no-report", "--undo", tmp_path / "safe", "--force")
    again = run(*arguments, *guard)  # nothing there yet: why it failed is written
    assert again.code == 3 and [path.name for path in out.iterdir()] == ["result.json"]
    assert run(*arguments, "--budget", 5).code == 0
    before = {path.name: path.read_bytes() for path in [*out.iterdir(), tmp_path / "safe"]}
    failed = run(*arguments, *guard, "--json")
    assert failed.code == 3 and failed.json["files"] == {} and failed.json["verdict"]["level"] == "not reached"
    assert "keeps the weights and the result of the earlier run" in " ".join(failed.err.split())
    assert run(*arguments, "--method", "magic").code == 2
    assert before == {path.name: path.read_bytes() for path in [*out.iterdir(), tmp_path / "safe"]}
    assert run("verify", out, "--patch", tmp_path / "safe").code == 0


def test_several_targets_by_name_from_folders(run, tmp_path: Path) -> None:
    arguments = ("forget", *MODEL, "-t", "nw", "-t", "sw", "-p", "by_index", "--eval", "test.npz", "-o", tmp_path / "o")
    result = run(*arguments, "--method", "channels", "--no-report", "--json")
    assert result.code in (0, 3), result.err
    assert result.json["record"]["request"]["targets"] == [0, 2]
    assert result.json["record"]["metrics"]["probes"] == 16
    # One line of notes at most on stderr, and nothing but JSON on stdout.
    assert all(line.startswith("note:") for line in result.err.splitlines())


def test_a_baseline_and_its_options(run, tmp_path: Path) -> None:
    arguments = ("--method", "random-label", "--budget", 1, "--eval", "test.npz", "--out", tmp_path / "o")
    result = run(*forget(*arguments, "--set", "epochs=9", "--set", "learning_rate=0.1", "--json"))
    assert result.code == 0, result.err
    assert result.json["record"]["request"]["epochs"] == 9 and (tmp_path / "o" / "report.html").exists()
    before, after = (result.json["evaluation"][when]["forget_accuracy"] for when in ("before", "after"))
    assert after < 0.1 < 0.9 < before
    assert run(*forget(*arguments, "--force", "--set", "epochs=0")).code == 2


def test_without_a_single_image_of_the_class(run, tmp_path: Path) -> None:
    """Synthesised between what black and white are to the model; the last word have real images, or nobody."""
    arguments = ("forget", *MODEL, "-t", 2, "--synthetic", "3x8x8", "--mean", "0.5", "--std", "0.25")
    result = run(*arguments, "-o", tmp_path / "o", "--json")
    assert result.code == 4 and (tmp_path / "o" / "report.html").exists(), result.err
    made = result.json["record"]["request"]["synthetic"]
    assert made["shape"] == [3, 8, 8] and (made["low"], made["high"]) == ([-2.0] * 3, [2.0] * 3)
    assert "Nothing was verified on real images" in result.json["summary"]
    plain = arguments[:-4]
    judged = run(*plain, "--eval", "test.npz", "-o", tmp_path / "judged", "--no-report", "--json")
    assert judged.code == 0 and judged.json["verdict"]["judged_by"] == "evaluation images", judged.err
    assert run("restore", tmp_path / "judged").code == 0
    for wrong, said in (
        (("--synthetic", "8x8"), "--synthetic must be channels x height x width, as 3x32x32, got '8x8'"),
        (("--synthetic", "2x8x8"), "--synthetic: expected 1 or 3 channels"),
        (("--synthetic", "3x8x8", "-p", "probes.npz"), "one of --probes"),
        ((), "one of --probes"),
    ):
        refused = run("forget", *MODEL, "-t", 2, *wrong, "-o", tmp_path / "wrong")
        assert refused.code == 2 and said in " ".join(refused.err.split()), refused.err


def test_probes_among_the_evaluation_images_are_told(run, tmp_path: Path) -> None:
    result = run(*forget("--eval", "probes.npz", "--out", tmp_path / "o", "--no-report", "--json"))
    assert "24 of the 24 probes are among the --eval images" in result.err
    assert result.json["warnings"]


def test_a_class_that_the_model_does_not_know_is_told(run, tmp_path: Path) -> None:
    result = run("forget", *MODEL, "-t", 1, "-p", "class2.npz", "-o", tmp_path / "o", "--no-report", "--json")
    assert result.code == 3 and "recognises 0.0 % of the 24 probes and answers class 2" in result.json["summary"]


def test_quiet_says_nothing(run, tmp_path: Path) -> None:
    result = run(*forget("--out", tmp_path / "o", "--no-report", "--quiet"))
    assert (result.code, result.out, result.err) == (4, "", "")  # 24 probes are too few to judge by
    assert (tmp_path / "o" / "model.safetensors").exists()


def test_evaluate(run, workplace) -> None:
    result = run("evaluate", *MODEL, "--images", "test.npz", "--target", "sw", "--json", "--linear-probe")
    assert result.code == 0, result.err
    batch = torch.from_numpy(workplace.images).permute(0, 3, 1, 2) / 255.0
    with torch.no_grad():
        correct = workplace.model(batch).argmax(1).numpy() == workplace.labels
    assert result.json["evaluation"]["accuracy"] == pytest.approx(correct.mean())
    assert result.json["linear_probe"]["forget_accuracy"] > 0.9
    told = run("evaluate", *MODEL, "-i", "test.npz", "-t", 2, "--batch-size", 7)
    assert told.code == 0 and "sw" in told.out and "%" in told.out


def test_batch_sizes_are_left_to_what_there_is_room_for(run, workplace, monkeypatch, tmp_path: Path) -> None:
    command = ("evaluate", *MODEL, "-i", "test.npz", "-t", "2", "--json")
    plain = run(*command)
    monkeypatch.setattr(batch_size, "free_memory", lambda device: 2**16)
    assert run(*command, "--batch-size", "auto").json == plain.json
    image = ("relevance", *MODEL, "--images", "class2.npz", "--target", "2", "--json")
    few, many = run(*image, "--batch-size", "auto"), run(*image)
    assert few.code == many.code == 0 and few.json["targets"][0]["name"] == many.json["targets"][0]["name"]
    forgotten = run(*forget("--out", tmp_path / "edited", "--batch-size", "auto", "--no-report", "--json"))
    assert forgotten.code == 4, forgotten.err  # the probes alone are too few to judge the edit
    assert forgotten.json["record"]["request"]["batch_size"] < 16
    for wrong in ("0", "-3", "all", "1.5"):
        refused = run(*command, "--batch-size", wrong)
        assert refused.code == 2 and "auto" in refused.err


def test_evaluate_relearns_and_attacks(run, workplace, done: Path) -> None:
    pytest.importorskip("sklearn")
    arguments = ("evaluate", MODEL[0], "-i", "test.npz", "-t", "sw", "--seed", 3)
    tests = ("--relearn", "probes.npz", "--learning-rate", 0.05, "--reference", 0.9, "--members", "probes.npz")
    edited = run(*arguments, "-w", done / "model.safetensors", *tests, "--relearn-steps", 128, "--json")
    assert edited.code == 0, edited.err
    curve, attacked = edited.json["relearning"], edited.json["membership"]
    assert curve["steps"] == [0, 1, 2, 4, 8, 16, 32, 64, 128] and (curve["images"], curve["target_images"]) == (96, 24)
    assert curve["forget_accuracy"][0] == edited.json["evaluation"]["forget_accuracy"] <= 0.1
    assert curve["forget_accuracy"][-1] > 0.855 and 0 < curve["relearn_time"] <= 128
    # The same as in Python.
    loaded = load_model(MODEL[0], done / "model.safetensors").model
    batches = [torch.from_numpy(np.load("test.npz")["images"]), torch.from_numpy(np.load("probes.npz")["x"])]
    tested, learned = (batch.permute(0, 3, 1, 2) / 255.0 for batch in batches)
    labels, truth = torch.from_numpy(workplace.labels), torch.from_numpy(np.load("probes.npz")["y"])
    expected = relearn(loaded, learned, truth, 2, test=(tested, labels), steps=128, learning_rate=0.05, seed=3)
    assert curve["forget_accuracy"] == pytest.approx(expected.forget_accuracy)
    assert curve["retain_accuracy"] == pytest.approx(expected.retain_accuracy)
    own, other = labels == 2, labels != 2
    of_class = membership(
        loaded, (learned[truth == 2], truth[truth == 2]), (tested[own], labels[own]), seed=3, batch_size=50
    )
    assert attacked["class"]["loss_auc"] == pytest.approx(of_class.loss_auc, abs=1e-3)
    strangers = (learned[truth != 2], truth[truth != 2]), (tested[other], labels[other])
    forgotten = {"others": (learned[truth == 2], truth[truth == 2]), "others_unseen": (tested[own], labels[own])}
    others = {name: membership(loaded, *strangers, forgotten=images, seed=3) for name, images in forgotten.items()}
    for name, found in others.items():
        assert attacked[name]["forgotten_called"] == pytest.approx(found.forgotten_called, abs=0.03)
        assert attacked[name]["accuracy"] == pytest.approx(found.accuracy, abs=0.03)
        assert (attacked[name]["images"], attacked[name]["forgotten_images"]) == (72, 24 if name == "others" else 40)
    told = run(*arguments, "-w", "weights.safetensors", *tests, "--relearn-steps", 1, "--batch-size", 33)
    assert told.code == 0 and "after step 0" in told.out and "24 of the class" in told.out
    assert "ROC" in told.out and "the class, 24 + 24" in told.out and "all others, 72 + 72" in told.out


def test_evaluate_says_when_the_class_is_not_relearned(run, workplace, done: Path, tmp_path: Path) -> None:
    keep = workplace.labels != 2
    np.savez(tmp_path / "others.npz", x=workplace.images[keep], y=workplace.labels[keep])
    arguments = ("evaluate", MODEL[0], "-w", done / "model.safetensors", "-i", "test.npz", "-t", 2)
    result = run(*arguments, "--relearn", tmp_path / "others.npz", "--relearn-steps", 2, "--reference", 1)
    assert result.code == 0 and "none of the class" in result.out and "not by step 2" in result.out
    assert "120 of the 120 images of --relearn are among --images" in " ".join(result.err.split())
    told = run(*arguments, "--relearn", tmp_path / "others.npz", "--relearn-steps", 2, "--json")
    assert told.json["relearning"]["retain_only"] and told.json["relearning"]["relearn_time"] is None
    assert told.json["membership"] is None
    few = run(*arguments, "--members", tmp_path / "others.npz")
    assert few.code == 2 and "--members and --images" in few.err and "at least 10" in few.err
    blind = run("evaluate", *MODEL, "-i", tmp_path / "others.npz", "-t", 2, "--relearn", "probes.npz")
    assert blind.code == 2 and "--images holds no image of class 2" in blind.err


def test_info(done: Path, run) -> None:
    installed = run("info", "--json")
    assert installed.code == 0 and installed.json["version"]
    of_patch = run("info", done, "--json")
    assert of_patch.json["record"]["request"]["targets"] == [2] and of_patch.json["tensors"]
    of_model = run("info", *MODEL, "--json")
    assert of_model.json["parameters"] == sum(p.numel() for p in load_model(MODEL[0]).model.parameters())
    for arguments in (("info",), ("info", done / "patch.safetensors"), ("info", *MODEL)):
        assert run(*arguments).out.strip()
    assert run("info", "absent").code == 2


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("evaluate", "resnet", "-i", "test.npz", "-t", "1"), "must be timm:NAME"),
        (("evaluate", *MODEL, "-i", "test.npz", "-t", "9"), "classes 0..3"),
        (("evaluate", *MODEL, "-i", "test.npz", "-t", "cat"), "neither a class index nor a class name"),
        (("evaluate", *MODEL, "-i", "class2.npz", "-t", "1"), "must be labelled"),
        (("evaluate", *MODEL, "-i", "absent.npz", "-t", "1"), "no such file"),
        (("evaluate", *MODEL, "-i", "test.npz", "-t", "1", "--relearn", "class2.npz"), "--relearn must be labelled"),
        (("evaluate", *MODEL, "-i", "test.npz", "-t", "1", "--members", "class2.npz"), "--members must be labelled"),
        (("evaluate", *MODEL, "-i", "test.npz", "-t", "1", "--reference", "0.5"), "--reference needs --relearn"),
        (
            ("evaluate", *MODEL, "-i", "test.npz", "-t", "1", "--relearn", "probes.npz", "--reference", "0"),
            "--reference must be above 0",
        ),
        (
            ("evaluate", *MODEL, "-i", "test.npz", "-t", "1", "--relearn", "probes.npz", "--learning-rate", "0"),
            "learning_rate must be a positive number",
        ),
        (("evaluate", *MODEL, "-i", "test.npz", "-t", "1", "--mean", "0.5,0.5"), "mean and std"),
        (("evaluate", *MODEL, "-i", "test.npz", "-t", "1", "--device", "cuda:99"), "--device"),
        (("evaluate", "python:tinynet:build", "-w", "tinynet.py", "-i", "test.npz", "-t", "1"), "plain state dict"),
        (
            ("evaluate", "python:tinynet:build_with_callable", "-i", "test.npz", "-t", "1", "--size", "8"),
            "preprocessing",
        ),
        (forget("--budget", "many", "-o", "x"), "--budget must be a count or a fraction"),
        (forget("--linear-probe", "-o", "x"), "needs --eval"),
        (forget("--method", "magic", "-o", "x"), "magic"),
        (forget("--target", "2", "-o", "x"), "twice"),
        (forget("-o", "tinynet.py"), "--out: tinynet.py is not a folder"),
        (forget("-o", "tinynet.py/in/it"), "--out: tinynet.py/in/it is not a folder"),
        (forget("-o", "x/" + "y" * 300), "File name too long"),
        (forget("-o", "x", "--undo", "x/y/z"), "--undo: expected a file"),
        (("forget", *MODEL, "-t", "1", "-t", "2", "-p", "class2.npz", "-o", "x"), "labelled for several targets"),
        (("forget", *MODEL, "-t", "1", "-p", "test.npz", "--eval", "class2.npz", "-o", "x"), "--eval must be labelled"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, workplace, arguments: tuple[object, ...], text: str) -> None:
    result = run(*arguments)
    assert result.code == 2, (result.out, result.err)
    assert text in result.err and result.err.startswith("error: ") and result.err.count("\n") == 1
    assert result.out == "" and not (workplace.folder / "x").exists()


def test_usage_errors_and_help(run) -> None:
    assert run("evaluate").code == 2
    assert run("forgett").code == 2
    for command in ("forget", "evaluate", "depth", "restore", "relevance", "info", "demo"):
        told = run(command, "--help")
        assert told.code == 0 and "Example" in told.out and "--json" in told.out
    assert "Exit codes" in run("--help").out
    assert run("--version").out.startswith("zsu-fast ")


def test_debug_shows_the_traceback(workplace, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from zsu_fast.cli.app import app

    monkeypatch.chdir(workplace.folder)
    result = CliRunner().invoke(app, ["evaluate", "python:nothing:build", "-i", "test.npz", "-t", "1", "--debug"])
    assert isinstance(result.exception, ValueError)


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_a_missing_extra_is_told_without_a_traceback(missing: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    from zsu_fast.cli import main

    monkeypatch.setattr(sys, "argv", ["zsu-fast", "info"])
    for name in [name for name in sys.modules if name.startswith(("zsu_fast.cli.", f"{missing}."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2 and f'needs {missing}: pip install "zsu-fast[cli]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    "argv, given, found",
    [("/bin/zsu-fast", None, "0"), ("zsu-fast.exe", None, "0"), ("zsu-fast", "7", "7"), ("train.py", None, None)],
)
def test_waiting_threads_sleep_on_the_command_line_alone(argv: str, given: str | None, found: str | None) -> None:
    code = f"import sys; sys.argv = [{argv!r}]; import os, zsu_fast; print(os.environ.get('GOMP_SPINCOUNT'))"
    environment = {key: value for key, value in os.environ.items() if key != "GOMP_SPINCOUNT"}
    environment |= {} if given is None else {"GOMP_SPINCOUNT": given}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str(found)


def test_classes_by_name(workplace, run, tmp_path: Path) -> None:
    (tmp_path / "names.csv").write_text("index,name,id\n0,nw,n0\n1,ne,n1\n2,South West,n2\n3,se,n3\n")
    (tmp_path / "map.json").write_text('{"ne": "n1", "nw": 0, "se": 3, "sw": "south_west"}')
    (tmp_path / "long.txt").write_text("a\nb\nc\nd\ne\n")
    named = ("--class-names", tmp_path / "names.csv")

    def forget(*extra: object) -> tuple[object, ...]:
        return ("forget", *MODEL, "--no-report", "-o", tmp_path / "o", *extra)

    mapped = (*named, "--class-map", tmp_path / "map.json", "-p", "by_name")
    done = run(*forget("-t", "SOUTH-WEST", *mapped, "--eval", "test.npz"))
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "o" / "result.json").read_text())["record"]["request"]["class_names"] == {
        "2": "South West"
    }
    for arguments, text in (
        (("-t", "sout west", *named, "-p", "probes.npz"), "did you mean 'South West'?"),
        (("-t", "2", *named, "-p", "by_name"), "'sw' is neither a class index nor a class name"),
        (("-t", "2", "--class-names", tmp_path / "long.txt", "-p", "probes.npz"), "go up to 4, the model has"),
        (("-t", "2", "--class-names", tmp_path / "none.txt", "-p", "probes.npz"), "--class-names: cannot read"),
    ):
        refused = run(*forget(*arguments, "--force"))
        assert refused.code == 2 and text in refused.err


@pytest.mark.parametrize(
    "method", [("lra-npp",), ("channels", "--composite", "epsilon", "--budget", 4)], ids=lambda m: m[0]
)
@pytest.mark.parametrize("report", ["--report", "--no-report"])
def test_large_folders_are_streamed_to_the_same_result(
    method: tuple[object, ...], report: str, run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("--retain", "by_name", "--eval", "test.npz", "--method", *method, "--batch-size", 5, report, "--json")
    readings, found = [], []
    read = Stream.__iter__
    monkeypatch.setattr(Stream, "__iter__", lambda stream: (readings.append(len(stream.images)), read(stream))[1])
    for held in (session.HELD, 0):
        monkeypatch.setattr(session, "HELD", held)
        out = tmp_path / str(held)
        result = run(*forget(*options, "--out", out))
        assert result.code in (0, 3), result.err
        found.append((result.code, result.json["record"]["model"], result.json["verdict"], result.json["evaluation"]))
        assert bool(readings) == (held == 0)
    assert found[0] == found[1] and found[0][0] == 0
    assert set(readings) == {24, 40}  # of other classes in by_name, of the class in test.npz


def test_only_methods_that_stream_are_given_streams(run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "HELD", 0)
    kinds: list[type] = []
    given = session.Session.given
    note = lambda found: (kinds.append(type(found)), found)[1]  # noqa: E731
    monkeypatch.setattr(session.Session, "given", lambda self, *asked: note(given(self, *asked)))
    options = (
        "--retain",
        "by_name",
        "--eval",
        "test.npz",
        "--method",
        "poison",
        "--out",
        tmp_path / "o",
        "--no-report",
    )
    assert run(*forget(*options)).code in (0, 3)
    assert kinds == [tuple, Stream]  # the verdict is read batch by batch, whatever the method


def test_images_with_wrong_labels_judge_nothing(run, tmp_path):
    """Of the class none are among them: that none gets it as answer afterwards says nothing."""
    result = run(*forget("--eval", "mislabelled.npz", "-o", tmp_path / "o", "--no-report", "--json"))
    assert result.code == 4 and result.json["verdict"]["level"] == "not judged", result.err
    assert "the model knew it on 0 of 40 of them (are their labels right" in result.json["verdict"]["sentence"]
