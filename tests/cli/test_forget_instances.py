"""`zsu-fast forget instances`: another kind of request through the same folder, and the plain form stays the class."""

import json

import numpy as np
import pytest
import torch

from zsu_fast.cli.models import load_model
from zsu_fast.safetensors_file import save_atomically
from zsu_fast.unlearn import checkpoint, model_digest

pytest.importorskip("typer")
pytest.importorskip("matplotlib")

MODEL = ("python:tinynet:build", "-w", "weights.safetensors")
QUICK = ("--set", "learning_rate=0.003", "--utility-floor", 0.5)


@pytest.fixture
def few(workplace):
    """Five labelled images."""
    np.savez(workplace.folder / "few.npz", x=workplace.images[:5], y=workplace.labels[:5])
    return workplace


def forget(*extra):
    return ("forget", "instances", *MODEL, "--images", "few.npz", *extra)


def test_instances_are_forgotten_and_come_back(few, run, tmp_path):
    out = tmp_path / "o"
    result = run(*forget("--eval", "test.npz", "--out", out, "--json", *QUICK))
    assert result.code == 0, result.err
    found = result.json
    assert found["verdict"]["level"] == "answers" and found["verdict"]["judged_by"] == "the instances"
    assert found["record"]["request"]["kind"] == "instances" and found["evaluation"]["after"]["accuracy"] > 0.5
    assert sorted(path.name for path in out.iterdir()) == [
        "model.safetensors", "patch.safetensors", "report.html", "result.json",
    ]  # fmt: skip
    page = (out / "report.html").read_text()
    assert "Margins" in page and "Each instance" in page and 'alt="instance' not in page
    written = load_model("python:tinynet:build", out / "model.safetensors").model
    batch = torch.from_numpy(few.images[:5]).permute(0, 3, 1, 2) / 255.0
    with torch.no_grad():
        assert not (written(batch).argmax(1).numpy() == few.labels[:5]).any()
    assert run("verify", out, "--original", "weights.safetensors").code == 0
    assert run("restore", out).code == 0
    restored = load_model("python:tinynet:build", out / "restored.safetensors").model
    assert model_digest(restored) == model_digest(few.model)


def test_other_goals(few, run, tmp_path):
    relabel = run(*forget("--goal", "relabel", "--to", "se", "-o", tmp_path / "r", "--eval", "test.npz", *QUICK))
    assert relabel.code == 2 and "to: expected other labels than y" in relabel.err  # one of them is "se" already
    unseen = run(
        *forget("--goal", "unseen", "--unseen", "test.npz", "-o", tmp_path / "u", "--json", "--set", "steps=1",
             "--photos")
    )  # fmt: skip
    page = (tmp_path / "u" / "report.html").read_text()
    assert page.count('alt="instance') == 5 and "margin before" in page and "margin after" not in page
    assert unseen.code == 3 and unseen.json["verdict"]["level"] == "not reached"
    assert not (tmp_path / "u" / "model.safetensors").exists()


def test_what_is_missing_is_named(few, run, tmp_path):
    for arguments, text in (
        (("--goal", "unseen"), "unseen: goal 'unseen' needs it"),
        (("--method", "lra-npp"), "method: 'lra-npp' takes requests to forget class"),
        (("--images", "class2.npz"), "--images must be labelled"),
        (("--to", "nowhere"), "--to: 'nowhere' is neither a class index nor a class name"),
    ):
        result = run(*forget(*arguments, "-o", tmp_path / "o"))
        assert result.code == 2 and text in result.err


def test_the_plain_form_is_the_class(few, run, tmp_path):
    for kind in ((), ("class",)):
        assert (
            run(
                "forget", *kind, *MODEL, "-t", 2, "-p", "probes.npz", "-o", tmp_path / f"{len(kind)}", "--no-report"
            ).code
            == 4
        )
    assert "Single training images" in run("forget", "--help").out
    assert "--images" in run("forget", "instances", "--help").out


def test_a_killed_run_goes_on(few, run, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    few_steps = ("--set", "budget=1", "--set", "steps=5")  # whatever they reach
    run(*forget("-o", tmp_path / "whole", *few_steps))
    writes = []

    def save(*arguments, **named):
        if len(writes) == 3:
            raise KeyboardInterrupt
        writes.append(save_atomically(*arguments, **named))

    again = ("-o", tmp_path / "o", "--checkpoint", kept, "--checkpoint-every", 0, *few_steps)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_atomically", save)
        assert run(*forget(*again)).code not in (0, 3) and len(list(kept.iterdir())) == 1
    refused = run(*forget(*again))
    assert refused.code == 2 and "kept holds one of an earlier run" in refused.err
    changed = run(*forget("--resume", "--set", "growth=0.1", *again))
    assert changed.code == 2 and "option growth was 0.002 and is 0.1" in changed.err
    run(*forget("--resume", *again))
    assert not list(kept.iterdir())
    first, second = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("whole", "o"))
    assert first["record"]["model"]["after"] == second["record"]["model"]["after"]
    assert first["record"]["cost"] == second["record"]["cost"]


def test_checkpoints_that_cannot_be(few, run, tmp_path):
    out = tmp_path / "o"
    for arguments, text in (
        (("--resume",), "resume: needs checkpoint"),
        (("--checkpoint", out), "--checkpoint: expected another folder than --out"),
    ):
        result = run(*forget("-o", out, *arguments))
        assert result.code == 2 and text in result.err
    classes = ("forget", *MODEL, "-t", 2, "-p", "probes.npz", "-o", out, "--no-report", "--checkpoint", tmp_path / "k")
    assert "method 'lra-npp' cannot go on from one" in run(*classes).err
    for kind in ("class", "instances", "text", "generator"):
        assert "--checkpoint" in run("forget", kind, "--help").out
    assert "--checkpoint" not in run("forget", "concept", "--help").out
