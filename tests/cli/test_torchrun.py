"""`torchrun -m zsu_fast forget`: each process reads its part, one writes; the files are those of one process."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.distributed as dist
from safetensors.torch import load_file

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="no gloo")


def torchrun(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).parents[2])
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "zsu_fast",
         "forget", "python:tinynet:build", "--weights", "weights.safetensors", "--target", "2", *map(str, arguments)],
        cwd=folder, env={"PYTHONPATH": root, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip


def test_two_processes_write_what_one_does(workplace, run) -> None:
    given = ("--probes", "probes.npz", "--eval", "test.npz", "--no-report")
    together = torchrun(workplace.folder, *given, "--out", "together", "--json")
    assert together.returncode == 0, together.stderr
    model = ("python:tinynet:build", "--weights", "weights.safetensors", "--target", 2)
    alone = run("forget", *model, *given, "--out", "alone")
    assert alone.code == 0, alone.err
    one, two = (json.loads((workplace.folder / out / "result.json").read_text()) for out in ("alone", "together"))
    assert json.loads(together.stdout) == two
    assert two["record"]["processes"] == 2
    for key in ("verdict", "summary", "picks", "evaluation", "warnings"):
        assert one[key] == two[key]
    assert one["record"]["model"] == two["record"]["model"]
    weights = [load_file(workplace.folder / out / "model.safetensors") for out in ("alone", "together")]
    assert all((weights[0][name] == value).all() for name, value in weights[1].items())


def test_an_error_is_told_once_and_ends_all(workplace) -> None:
    (workplace.folder / "full").mkdir()
    (workplace.folder / "full" / "result.json").write_text("{}")
    found = torchrun(workplace.folder, "--probes", "probes.npz", "--no-report", "--out", "full")
    assert found.returncode != 0 and found.stdout == ""
    assert found.stderr.count("error: --out: full holds result.json of an earlier run") == 1
    assert "exitcode  : 2" in found.stderr, found.stderr  # torchrun's table; it ends what has not ended by itself
