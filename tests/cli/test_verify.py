"""`zsu-fast verify` and `--sign`: what was changed since is found, and nothing that is not hashed is believed."""

import json
import os
import shutil
import subprocess
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from zsu_fast.folder import READY, WRITING
from zsu_fast.lock import Lock
from zsu_fast.unlearn import Patch

MODEL = ("python:tinynet:build", "--weights", "weights.safetensors")


@pytest.fixture
def written(workplace, run) -> Path:
    folder = workplace.folder / "verified"
    if folder.exists():
        return folder
    result = run("forget", *MODEL, "-t", 2, "-p", "probes.npz", "-o", folder, "--no-report", "--eval", "test.npz")
    assert result.code == 0, result.err
    return folder


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "folder"))


def test_all_holds(run, folder: Path) -> None:
    weights = MODEL[MODEL.index("--weights") + 1]
    result = run("verify", folder, "--original", weights, "--json")
    assert result.code == 0, result.err
    assert result.json["verified"] and set(result.json["checks"]) == {
        "files", "verdict", "weights", "record", "undo", "original",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["model.safetensors", "patch.safetensors"])
def test_a_changed_file_is_found(run, folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    result = run("verify", folder, "--original", "weights.safetensors", "--json")
    assert result.code == 3 and not result.json["verified"]
    assert any(name in problem for problem in result.json["problems"])


@pytest.mark.parametrize("name", ["model.safetensors", "patch.safetensors"])
def test_a_file_cut_short_is_found(run, folder: Path, name: str) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:100])
    result = run("verify", folder, "--json")
    assert result.code == 3 and not result.json["checks"]["weights" if name[0] == "m" else "undo"]
    assert any("not a whole" in problem for problem in result.json["problems"])
    assert "WRONG: " in run("verify", folder).out


def test_a_forged_record_is_found(run, folder: Path) -> None:
    patch = Patch.load(folder / "patch.safetensors")
    forged = patch.record | {"request": patch.record["request"] | {"targets": [1]}}
    replace(patch, record=forged).save(folder / "patch.safetensors")
    assert run("verify", folder).code == 3
    assert run("restore", folder).code == 2  # the manifest names another file
    (folder / "result.json").unlink()
    restored = run("restore", folder, "--json")  # the weights are right; of the record nothing can be said
    assert restored.code == 0 and restored.json["weights_verified"] and not restored.json["record_verified"]
    assert '"verified": true' not in restored.out


@pytest.mark.parametrize("kind", [{"model": "abc"}, {"verdict": []}])
def test_a_record_of_another_form_is_no_result(run, folder: Path, kind: dict) -> None:
    content = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(content | {"record": content["record"] | kind}))
    result = run("verify", folder)
    assert result.code == 2 and "is no result" in result.err


@pytest.mark.parametrize("forge", [{"verdict": {"level": "answers"}}, {"manifest": {}}])
def test_a_forged_verdict_or_an_empty_manifest_is_found(run, folder: Path, forge: dict) -> None:
    content = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(content | forge))
    assert run("verify", folder).code == 3


def test_nothing_of_a_result_and_no_weights_are_overwritten(run, folder: Path) -> None:
    whole = (folder / "patch.safetensors").read_bytes()
    assert run("restore", folder, "-o", folder / "patch.safetensors", "--force").code == 2
    assert (folder / "patch.safetensors").read_bytes() == whole
    arguments = ("forget", *MODEL, "-t", 2, "-p", "probes.npz", "--budget", 5, "--force", "--no-report", "-o", folder)
    for undo in ("weights.safetensors", folder / "model.safetensors", folder / "result.json", folder / "no" / "where"):
        assert run(*arguments, "--undo", undo).code == 2
    assert (folder / "patch.safetensors").read_bytes() == whole


def test_another_original_is_found(run, folder: Path, workplace) -> None:
    assert run("verify", folder, "--original", folder / "model.safetensors").code == 3


@pytest.mark.parametrize("change", ["names of DataParallel", "no counters", "double precision"])
def test_the_original_in_another_form_is_the_original(run, folder: Path, tmp_path: Path, change: str) -> None:
    state = torch.load("weights.pt")["state_dict"]  # as DataParallel names it
    if change == "no counters":
        state = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    elif change == "double precision":
        state = {name: value.double() if value.is_floating_point() else value for name, value in state.items()}
    torch.save(state, tmp_path / "original.pt")
    result = run("verify", folder, "--original", tmp_path / "original.pt", "--json")
    assert result.code == 0 and result.json["checks"]["original"], result.out
    del state["module.conv.bias"]
    torch.save(state, tmp_path / "less.pt")
    assert run("verify", folder, "--original", tmp_path / "less.pt").code == 3


def test_what_vouches_for_the_result_is_said(run, folder: Path) -> None:
    content = json.loads((folder / "result.json").read_text())
    (folder / "result.json").write_text(json.dumps(content | {"summary": "all is well", "evaluation": None}))
    assert run("verify", folder, "--json").json["vouched_for_by"] is None
    told = run("verify", folder).out
    assert "nothing vouches for what result.json says" in told and "forget --sign would" in told


def test_signatures(run, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make keys with")
    keys = []
    for name in ("own", "other"):
        key, public = tmp_path / f"{name}.key", tmp_path / f"{name}.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
        subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
        keys.append((key, public))
    folder = tmp_path / "signed"
    arguments = ("forget", *MODEL, "-t", 2, "-p", "probes.npz", "-o", folder, "--no-report", "--budget", 5)
    assert run(*arguments, "--sign", keys[0][0]).code == 0
    good = run("verify", folder, "--public-key", keys[0][1])
    assert good.code == 0 and "not who that was" in good.out
    assert run("verify", folder, "--public-key", keys[0][1], "--json").json["vouched_for_by"] == "own.pem"
    other = run("verify", folder, "--public-key", keys[1][1], "--json")
    assert other.code == 3 and other.json["vouched_for_by"] is None
    assert "it is signed: --public-key checks by whom" in run("verify", folder).out
    content = json.loads((folder / "result.json").read_text())
    content["verdict"]["right"] = 7
    (folder / "result.json").write_text(json.dumps(content))
    assert run("verify", folder, "--public-key", keys[0][1]).code == 3
    assert run(*arguments, "--force", "--sign", keys[0][1]).code == 2  # no private key: told before the work


def test_the_undo_elsewhere_or_nowhere(run, tmp_path: Path) -> None:
    arguments = ("forget", *MODEL, "-t", 2, "-p", "probes.npz", "--no-report", "--budget", 5, "-o")
    safe = tmp_path / "safe.patch"
    assert run(*arguments, tmp_path / "a", "--undo", safe).code == 0
    assert not (tmp_path / "a" / "patch.safetensors").exists() and safe.stat().st_mode & 0o077 == 0
    assert run("verify", tmp_path / "a", "--patch", safe).code == 0
    assert run("restore", tmp_path / "a", "--patch", safe, "--json").json["record_verified"]
    assert {path.name for path in tmp_path.iterdir()} == {"a", safe.name}
    moved = safe.rename(tmp_path / "moved")
    missing = run("verify", tmp_path / "a", "--json")
    assert missing.code == 3 and missing.json["problems"] == ["safe.patch is missing (give it with --patch)"]
    assert "--patch: no such file" in run("restore", tmp_path / "a").err
    assert run("verify", tmp_path / "a", "--patch", safe).code == 2
    assert run("verify", tmp_path / "a", "--patch", moved, "--original", "weights.safetensors").code == 0
    assert run("restore", tmp_path / "a", "--patch", moved, "--json", "--force").json["record_verified"]
    assert run(*arguments, tmp_path / "b", "--no-undo").code == 0
    assert not (tmp_path / "b" / "patch.safetensors").exists()
    assert run(*arguments, tmp_path / "c", "--no-undo", "--undo", safe).code == 2


def test_no_paths_and_no_photographs_in_what_is_kept(run, tmp_path: Path, workplace) -> None:
    folder = tmp_path / "kept"
    assert run("forget", *MODEL, "-t", 2, "-p", Path("probes.npz").resolve(), "-o", folder, "--budget", 5).code == 0
    assert str(workplace.folder) not in (folder / "result.json").read_text()
    page = (folder / "report.html").read_text()
    assert 'alt="probe"' not in page and 'alt="relevance before"' in page
    shown = tmp_path / "shown"
    assert run("forget", *MODEL, "-t", 2, "-p", "probes.npz", "-o", shown, "--budget", 5, "--photos").code == 0
    assert 'alt="probe"' in (shown / "report.html").read_text()
    assert np.load("probes.npz") is not None


def test_no_room_for_the_undo_file_leaves_nothing_behind(run, tmp_path: Path, monkeypatch) -> None:
    def save(self: Patch, path: Path) -> None:
        path.write_text("begun")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Patch, "save", save)
    arguments = ("forget", *MODEL, "-t", 2, "-p", "probes.npz", "--no-report", "--budget", 5)
    result = run(*arguments, "-o", tmp_path / "a" / "b", "--undo", tmp_path / "safe")
    assert result.code == 2 and "No space left" in result.err and not any(tmp_path.iterdir())


def test_weights_in_a_result_are_checked_as_the_result(run, folder: Path) -> None:
    restored = run("restore", folder / "model.safetensors", "--json")
    assert restored.code == 0 and restored.json["record_verified"]
    patch = Patch.load(folder / "patch.safetensors")
    replace(patch, record=patch.record | {"picks": {}}).save(folder / "patch.safetensors")
    refused = run("restore", folder / "model.safetensors", "--force")
    assert refused.code == 2 and "changed since" in refused.err


def test_what_an_interrupted_run_left_is_settled_by_who_reads(run, folder: Path) -> None:
    for name in (READY, WRITING):
        (folder / name).mkdir()
    shutil.move(folder / "result.json", folder / READY)  # all but the last move was made
    shutil.copy(folder / "model.safetensors", folder / WRITING)
    assert run("verify", folder).code == 0
    assert not (folder / READY).exists() and not (folder / WRITING).exists()
    (folder / WRITING).mkdir()
    with closing(Lock(folder, "--out")):
        busy = run("restore", folder)
    assert busy.code == 2 and "another run is writing" in busy.err
    assert run("restore", folder).code == 0 and not (folder / WRITING).exists()


def test_what_cannot_be_settled_is_refused_only_if_it_matters(run, folder: Path, monkeypatch) -> None:
    """root may write anywhere, so that the permission is taken away here."""
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    (folder / WRITING).mkdir()
    assert run("verify", folder).code == 0
    (folder / WRITING).rename(folder / READY)
    refused = run("verify", folder)
    assert refused.code == 2 and "interrupted run has left a result" in refused.err


def test_folders_that_are_no_results(run, tmp_path: Path) -> None:
    for name in ("nowhere", "nowhere.d", "nowhere.safetensors"):
        missing = run("restore", tmp_path / name)
        assert missing.code == 2 and missing.err == f"error: {tmp_path / name}: no such folder or file\n"
    assert f"{tmp_path} holds no model.safetensors" in run("restore", tmp_path).err
    assert run("verify", tmp_path / "nowhere").code == 2
    assert "weights.pt: a file, and not the folder that it lies in" in run("verify", "weights.pt").err
    assert "holds no result.json" in run("verify", tmp_path).err
    (tmp_path / "result.json").write_text("[" * 100_000)
    assert "damaged" in run("verify", tmp_path).err
