"""The demo: what it promises is what it does."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")
pytest.importorskip("typer")

from typer.testing import CliRunner

from zsu_fast.cli import demo_command
from zsu_fast.cli.app import app
from zsu_fast.demo import PROBES, load_parts, train_network
from zsu_fast.unlearn import Patch


def test_parts_share_no_image() -> None:
    parts = load_parts(7, 0)
    assert len(parts.probes) == PROBES
    images = torch.cat([parts.train[0], parts.probes, parts.judge[0]])
    assert len(images) == 1797
    assert len(images.flatten(1).unique(dim=0)) == 1797
    assert 40 < int((parts.judge[1] == 7).sum()) < 70


def test_training_leaves_the_random_numbers_alone() -> None:
    state = torch.get_rng_state()
    images, labels = load_parts(3, 0).train
    first, second = (train_network(images[::8], labels[::8], 0) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_demo_forgets_and_restores(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["demo", "--digit", "7", "--out", str(tmp_path / "out"), "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["verdict"]["level"] == "answers" and found["verdict"]["sentence"] in found["summary"]
    before, after = found["evaluation"]["before"], found["evaluation"]["after"]
    assert before["accuracy"] > 0.95
    assert after["forget_accuracy"] <= 0.1
    assert after["retain_accuracy"] >= before["retain_accuracy"] - 0.01
    assert found["restored"] and found["digests"]["reverted"] == found["digests"]["original"]
    assert found["digests"]["edited"] not in (found["digests"]["original"], "")
    assert Patch.load(tmp_path / "out" / "patch.safetensors").record["request"]["targets"] == [7]
    assert (tmp_path / "out" / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(("level", "code"), [("features", 0), ("not judged", 4), ("not reached", 3), ("invalid", 3)])
def test_exit_codes_are_those_of_forget(monkeypatch: pytest.MonkeyPatch, level: str, code: int) -> None:
    verdict = SimpleNamespace(level=level)
    outcome = SimpleNamespace(result=SimpleNamespace(verdict=verdict), to_dict=dict, restored=True)
    monkeypatch.setattr("zsu_fast.demo.run_demo", lambda *_: outcome)
    monkeypatch.setattr(demo_command, "_told", lambda _: [])
    assert CliRunner().invoke(app, ["demo"]).exit_code == code


def test_bad_digit() -> None:
    assert CliRunner().invoke(app, ["demo", "--digit", "10"]).exit_code == 2
