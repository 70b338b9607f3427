"""``zsu-fast depth`` as a user runs it: beside the original, and beside nets that count as retrained without the class.

The features of the net at hand are random: a retrained one's would be the same, and no worse with the class's row cut.
"""

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from zsu_fast.cli.models import load_model
from zsu_fast.evaluate import depth

pytest.importorskip("sklearn")

MODEL = "python:tinynet:build"
ARGUMENTS = ("depth", MODEL, "--original", "weights.safetensors", "--lessons", "probes.npz", "--images", "test.npz")


@pytest.fixture(scope="module")
def checkpoints(workplace, tmp_path_factory):
    """The row of class 2 cut; and the same of a net that sees how red each pixel is, not how bright."""
    folder = tmp_path_factory.mktemp("checkpoints")
    state = {name: value.clone() for name, value in workplace.model.state_dict().items()}
    state["head.weight"][2], state["head.bias"][2] = 0.0, -1e3
    save_file(state, folder / "cut.safetensors")
    red = torch.zeros_like(state["conv.weight"])
    red[:, 0, 1, 1], red[:, 1, 1, 1] = 1.0, -1.0
    save_file(state | {"conv.weight": red}, folder / "blind.safetensors")
    return folder


def test_without_an_oracle_nothing_is_said_of_how_deep(run, workplace, checkpoints):
    arguments = (*ARGUMENTS, "-w", checkpoints / "cut.safetensors", "-t", "sw", "--relearn-steps", 2, "--seed", 3)
    result = run(*arguments, "--json")
    assert result.code == 0, result.err
    assert (result.json["target"], result.json["lessons"], result.json["images"]) == (2, 96, 160)
    found = result.json["depth"]
    assert found["holds"] is None and result.json["verdict"]["level"] == "answers"
    assert found["attacks"]["answers"]["forget"] == {"original": pytest.approx(1, abs=0.1), "edited": 0.0}
    assert found["attacks"]["linear probe"]["forget"]["edited"] > 0.9
    # The same as in Python.
    edited = load_model(MODEL, checkpoints / "cut.safetensors").model
    data = {name: np.load(f"{name}.npz") for name in ("probes", "test")}
    lessons, test = (
        (torch.from_numpy(data[name][x]).permute(0, 3, 1, 2) / 255.0, torch.from_numpy(data[name][y]))
        for name, x, y in (("probes", "x", "y"), ("test", "images", "labels"))
    )
    assert found == depth(edited, workplace.model, lessons, test, 2, relearn_steps=2, seed=3).to_dict()
    told = run(*arguments)
    assert told.code == 0 and "prototype row, 5 images" in told.out and "original" in told.out
    assert "oracle" not in told.out and "have forgotten class 2 (sw): 0 of 40" in told.out


def test_beside_an_oracle_it_says_whether_the_features_forgot(run, checkpoints):
    arguments = (*ARGUMENTS, "-w", checkpoints / "cut.safetensors", "-t", 2, "--relearn-steps", 1)
    same = run(*arguments, "--oracle", checkpoints / "cut.safetensors", "--json")
    assert same.code == 0 and same.json["verdict"]["level"] == "features" and same.json["depth"]["holds"]
    blind = run(*arguments, "--oracle", checkpoints / "blind.safetensors")
    assert blind.code == 3 and "oracle" in blind.out and "no" in blind.out
    assert "The features have not forgotten as a retrained model's: prototype row" in blind.out
    # An attack that must hold is missing: nothing is said, and nothing failed.
    partly = run(*arguments, "--oracle", checkpoints / "blind.safetensors", "--relearn-steps", 0, "--json")
    assert partly.code == 0 and partly.json["verdict"]["level"] == "answers"


def test_a_class_that_is_still_the_answer_is_not_forgotten_however_the_features_do(run, workplace):
    arguments = (*ARGUMENTS, "-w", "weights.safetensors", "-t", 2, "--relearn-steps", 1)
    result = run(*arguments, "--oracle", "weights.safetensors", "--json")
    assert result.code == 3 and result.json["depth"]["holds"] and result.json["verdict"]["level"] == "not judged"


def test_lessons_that_judge_are_told_and_quiet_says_nothing(run, checkpoints):
    arguments = ("depth", MODEL, "-w", checkpoints / "cut.safetensors", "--original", "weights.safetensors", "-t", 2)
    arguments = (*arguments, "-i", "test.npz", "--relearn-steps", 0)
    told = run(*arguments, "-l", "test.npz")
    assert told.code == 0 and "160 of the 160 images of --lessons are among --images" in " ".join(told.err.split())
    quiet = run(*arguments, "-l", "probes.npz", "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("-w", "absent"), "absent"),
        (("-w", "weights.pt", "--oracle", "absent"), "absent"),
        (("-w", "weights.pt", "-l", "class2.npz"), "--lessons must be labelled"),
        (("-w", "weights.pt", "-i", "class2.npz"), "--images must be labelled"),
        (("-w", "weights.pt", "-t", "9"), "classes 0..3"),
        (("-w", "weights.pt", "--seed", "-1"), "seed"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, workplace, arguments, text):
    result = run(*ARGUMENTS, "-t", "1", *arguments)
    assert result.code == 2, (result.out, result.err)
    assert text in result.err and result.err.startswith("error: ") and result.err.count("\n") == 1


def test_method_deep_from_the_command_line_is_proved_and_verified(run, tmp_path):
    given = ("--probes", "probes.npz", "--retain", "probes_of_others.npz", "--eval", "test.npz")
    probes = np.load("probes.npz")
    others = probes["y"] != 2
    np.savez("probes_of_others.npz", x=probes["x"][others], y=probes["y"][others])
    edit = ("forget", MODEL, "-w", "weights.safetensors", "-t", 2, *given, "--method", "deep", "--out", tmp_path / "o")
    settings = ("--set", "steps=30", "--set", "views=2", "--set", "folds=1", "--layer", "conv", "--json")
    done = run(*edit, *settings)
    assert done.code == 0, done.err
    assert done.json["verdict"]["level"] == "answers"
    assert done.json["record"]["certificate"]["answers"][0]["claim"] == "class 2 is never the answer"
    assert "class 2 is never the answer" in (tmp_path / "o" / "report.html").read_text()
    assert run("verify", tmp_path / "o", "--original", "weights.safetensors").code == 0
