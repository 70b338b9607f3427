"""Patches in parts, in one process; tests/distributed/test_killed.py has several."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from zsu_fast.unlearn import Patch
from zsu_fast.unlearn.entry import Entry


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    old, new = torch.arange(6.0).view(2, 3), torch.zeros(2, 3)
    entries = (
        Entry("0.weight", None, 0, torch.tensor([1, 3]), old, new),
        Entry("1.num_batches_tracked", None, None, None, torch.tensor(3), torch.tensor(0)),
        Entry("0.bias", None, 0, torch.zeros(0, dtype=torch.int64), torch.zeros(0), torch.zeros(0)),
    )
    Patch(entries, {"why": "a test"}, {"0.weight": ("a", "b")}, "key").save_sharded(tmp_path / "parts")
    return tmp_path / "parts"


def test_one_process_writes_one_part_that_is_the_file(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == ["index.json", "part-1-of-1.safetensors"]
    assert folder.stat().st_mode & 0o077 == 0
    found = Patch.load(folder)
    assert found.record == {"why": "a test"} and found.digests == {"0.weight": ("a", "b")} and found.key == "key"
    assert found.entries[1].old.shape == () and int(found.entries[1].old) == 3
    found.save(folder.parent / "one.safetensors")
    again = Patch.load(folder.parent / "one.safetensors")
    again.save(folder.parent / "two.safetensors")
    again.save_sharded(folder.parent / "again")
    assert (folder.parent / "one.safetensors").read_bytes() == (folder.parent / "two.safetensors").read_bytes()
    assert all((folder.parent / "again" / path.name).read_bytes() == path.read_bytes() for path in folder.iterdir())


def index(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        held = json.loads((folder / "index.json").read_text())
        (folder / "index.json").write_text(json.dumps(held | changed))

    return change


def metadata(**changed: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        held = json.loads((folder / "index.json").read_text())
        index(metadata=held["metadata"] | changed)(folder)

    return change


def value(folder: Path) -> None:
    part = load_file(folder / "part-1-of-1.safetensors")
    part["0.old"][0] += 1
    save_file(part, folder / "part-1-of-1.safetensors")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (value, "is damaged: its checksum"),
        (metadata(record='{"why":"another"}'), "is damaged: its checksum"),
        (metadata(record=3), "not a whole zsu_fast patch"),
        (metadata(format="other"), r"is not a zsu_fast patch \(format 'other'\)"),
        (metadata(version="3"), "has patch version 3"),
        (index(metadata=[]), "is not a zsu_fast patch"),
        (index(metadata=3), "not a whole zsu_fast patch"),
        (index(parts=2), "not a whole zsu_fast patch"),
        (index(parts=0), "not a whole zsu_fast patch"),
        (index(parts="../1"), "not a whole zsu_fast patch"),
        (index(shapes={}), "is damaged: its checksum"),
        (index(shapes={"0.old": [7]}), "not a whole zsu_fast patch"),
        (lambda folder: (folder / "part-1-of-1.safetensors").unlink(), "not a whole zsu_fast patch"),
        (lambda folder: (folder / "part-1-of-1.safetensors").write_bytes(b"no"), "not a whole zsu_fast patch"),
        (lambda folder: (folder / "index.json").write_bytes(b"\xff{"), "not a whole zsu_fast patch"),
        (lambda folder: (folder / "index.json").write_text("[]"), "not a whole zsu_fast patch"),
    ],
)
def test_what_is_damaged_is_refused(folder: Path, damage: Callable[[Path], None], said: str) -> None:
    damage(folder)
    with pytest.raises(ValueError, match=f"^path: .*{said}"):
        Patch.load(folder)


def test_a_folder_without_an_index_and_one_that_is_there(folder: Path) -> None:
    with pytest.raises(FileExistsError, match="^folder: there is something at"):
        Patch.load(folder).save_sharded(folder)
    assert Patch.load(folder).key == "key" and len(list(folder.parent.iterdir())) == 1
    (folder / "index.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"^path: no patch in the folder .*index\.json"):
        Patch.load(folder)


def test_it_is_read_as_data_and_fits_the_model(folder: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with torch.no_grad():
        net[0].weight[[1, 3]] = torch.arange(6.0).view(2, 3)
        net[1].num_batches_tracked.fill_(3)
    found = Patch.load(folder)
    Patch(found.entries).apply_(net)
    assert not net[0].weight[[1, 3]].any() and int(net[1].num_batches_tracked) == 0
