"""``zsu-fast benchmark`` as a user runs it, on files of his own."""

import json

import numpy as np
import pytest
from safetensors.torch import save_file

pytest.importorskip("yaml")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

CONFIG = """
models:
  tiny:
    model: python:tinynet:build
    weights: weights.safetensors
    lessons: probes.npz
    test: test.npz
    oracles: without_{class}.safetensors
classes: [sw]
methods:
  lra-npp: {data: probes}
  kodge:
few: {probes: 20, retain: 10}
measure: {attacks: [linear probe], relearn_steps: 1}
"""


@pytest.fixture
def config(workplace, run):
    """In the workplace, where `run` runs."""
    state = {name: value.clone() for name, value in workplace.model.state_dict().items()}
    state["head.weight"][2], state["head.bias"][2] = 0.0, -1e3
    save_file(state, workplace.folder / "without_2.safetensors")

    def write(*changes, name="trial.yaml"):
        text = CONFIG
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (workplace.folder / name).write_text(text)
        return name

    return write


def test_a_config_from_files_to_results(run, workplace, config, tmp_path):
    out = tmp_path / "out"
    done = run("benchmark", config(), "--out", out, "--json")
    assert done.code == 0, done.err
    assert done.json["cells"] == {"planned": 4, "failed": 0, "missing": 0}
    assert done.json["files"] == ["results.json", "results.csv", "leaderboard.html"]
    by_method = {line["method"]: line for line in done.json["summary"]}
    assert list(by_method) == ["original", "retrained", "lra-npp", "kodge"]
    assert by_method["original"]["answers"] > 0.9 > 0.1 > by_method["lra-npp"]["answers"]
    assert by_method["lra-npp"]["classes"] == [2] and by_method["lra-npp"]["judged"] == 0, "no prototype row was asked"
    content = json.loads((out / "results.json").read_text())
    assert content["models"]["tiny"]["images"] == {"lessons": 96, "test": 160}
    assert content["models"]["tiny"]["names"] == {"2": "sw"}
    assert "kodge" in done.err and "tiny, class 2, kodge, seed 0: answers" in done.err
    again = run("benchmark", config(), "--out", out)
    assert again.code == 0 and "answers" in again.out and "seed 0" not in again.err
    quiet = run("benchmark", config(), "--out", out, "--quiet")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


def test_what_is_there_can_be_summed_up_before_the_end(run, config, tmp_path):
    out = tmp_path / "out"
    nothing = run("benchmark", config(), "--out", out, "--summary", "--json")
    assert nothing.code == 0 and nothing.json["cells"]["missing"] == 4
    assert "4 of 4 cells are to be measured yet" in nothing.err and (out / "leaderboard.html").exists()


def test_cells_that_fail_end_it_with_1_and_another_config_with_2(run, config, tmp_path):
    out = tmp_path / "out"
    fails = config(("kodge:", "kodge:\n  neggrad: {learning_rate: 1.0e+30, epochs: 3}"))
    failed = run("benchmark", fails, "--out", out)
    assert failed.code == 1 and "1 of 5 cells failed; --retry measures them again" in failed.err
    assert "tiny, class 2, neggrad, seed 0: failed" in failed.err
    other = run("benchmark", config(("relearn_steps: 1", "relearn_steps: 2")), "--out", out)
    assert other.code == 2 and "measure.relearn_steps was 1, now it is 2" in other.err
    assert other.err.count("\n") == 1


def test_one_set_of_images_is_halved_and_cut(run, config, tmp_path):
    halves = config(
        ("    lessons: probes.npz\n    test: test.npz\n", "    images: test.npz\n    most: 60\n"),
        ("  kodge:\n", ""),
    )
    done = run("benchmark", halves, "--out", tmp_path / "out", "--json")
    assert done.code == 0, done.err
    content = json.loads((tmp_path / "out" / "results.json").read_text())
    assert content["models"]["tiny"]["images"] == {"lessons": 60, "test": 60}


def test_images_and_oracles_from_functions(run, workplace, config, tmp_path):
    (workplace.folder / "source.py").write_text(
        "import numpy as np, tinynet\nfrom safetensors.torch import load_file\n"
        "def lessons():\n    d = np.load('probes.npz')\n    return d['x'], d['y']\n"
        "def oracle(target):\n    net = tinynet.build()\n    net.load_state_dict(load_file('without_2.safetensors'), "
        "strict=False)\n    return net if target == 2 else None\n"
        "def floats():\n    return np.zeros((3, 8, 8, 3)), np.zeros(3, int)\n"
    )
    functions = config(
        ("lessons: probes.npz", "lessons: python:source:lessons"),
        ("oracles: without_{class}.safetensors", "oracles: python:source:oracle"),
    )
    files = run("benchmark", config(name="files.yaml"), "--out", tmp_path / "files", "--json")
    done = run("benchmark", functions, "--out", tmp_path / "functions", "--json")
    assert done.code == 0, done.err
    cells = [{path.name for path in (tmp_path / out / "cells").iterdir()} for out in ("files", "functions")]
    assert files.code == 0 and cells[0] == cells[1], "the same images are the same cells, wherever they come from"
    wrong = run("benchmark", config(("probes.npz", "python:source:floats")), "--out", tmp_path / "wrong")
    assert wrong.code == 2 and "models.tiny.lessons: python:source:floats must give uint8 images" in wrong.err


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("weights.safetensors", "absent.safetensors", "weights: no such file"),
        ("test.npz", "absent.npz", "models.tiny.test: no such file"),
        ("test.npz", "class2.npz", "models.tiny.test must be labelled"),
        ("test.npz", "probes.npz", "96 of the lessons are among the test images"),
        ("[sw]", "[9]", "no lessons or no test images of class 9"),
        ("kodge:", "kodge: {rank: 3}", "methods.kodge: rank: method 'kodge' has no such option"),
        ("kodge:", "ssd: {data: train}", "methods.ssd.data: needs training images, and tiny has none"),
        ("oracles: without_{class}.safetensors", "oracles: {2: absent.pt}", "models.tiny.oracles: no such file"),
        ("models:", "model:", "model: no such setting"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, config, tmp_path, old, new, text):
    done = run("benchmark", config((old, new)), "--out", tmp_path / "out")
    assert done.code == 2, (done.out, done.err)
    assert text in done.err and done.err.startswith("error: ") and done.err.count("\n") == 1
    assert not list(tmp_path.glob("out/cells/*"))


def test_loggers_by_name(run, config, tmp_path):
    wrong = run("benchmark", config(), "--out", tmp_path / "out", "--log", "visdom")
    assert wrong.code == 2 and "--log: expected one of tensorboard, mlflow, wandb" in wrong.err
    pytest.importorskip("tensorboard")
    done = run("benchmark", config(), "--out", tmp_path / "out", "--log", "tensorboard")
    assert done.code == 0 and list((tmp_path / "out" / "tensorboard").glob("*/events*"))


def test_the_example_is_printed_as_it_comes(run):
    import yaml

    from zsu_fast.benchmark.config import parse_config

    printed = run("benchmark", "--example")
    assert printed.code == 0
    config = parse_config(yaml.safe_load(printed.out), None)
    assert config.models[0].name == "digitnet" and len(config.methods) > 5


def test_the_digits_are_three_parts_that_share_no_image():
    from zsu_fast.benchmark import digits

    parts = [digits.train(), digits.lessons(), digits.test()]
    assert sum(len(labels) for _, labels in parts) == 1797
    assert all(len(np.unique(labels)) == 10 for _, labels in parts)
