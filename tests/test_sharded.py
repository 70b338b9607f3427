"""Weights in several files: every name of the state dict, in files that are not larger than asked for."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from zsu_fast.cli.weights import read_weights
from zsu_fast.sharded import largest_shard, write_model, written_in


class Tied(nn.Module):
    """Two names for one tensor, and one tensor that is larger than a file shall be."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.body, self.head = nn.Embedding(8, 4), nn.Linear(4, 100), nn.Linear(4, 8)
        self.head.weight = self.embedding.weight
        self.register_buffer("steps", torch.tensor(3))


def test_what_is_written_in_several_files_is_read_again(tmp_path: Path) -> None:
    state = Tied().state_dict()
    names = write_model(state, tmp_path, {"kept": "yes"}, 600)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names) and len(names) > 3
    assert written_in(tmp_path) == tmp_path / names[-1] == tmp_path / "model.safetensors.index.json"
    index = json.loads((tmp_path / names[-1]).read_text())
    assert index["metadata"]["total_size"] == sum(value.nbytes for value in state.values())
    for name in names[:-1]:
        held = [state[tensor].nbytes for tensor, place in index["weight_map"].items() if place == name]
        assert sum(held) <= 600 or len(held) == 1
    assert index["weight_map"]["embedding.weight"] != index["weight_map"]["head.weight"]  # each name in full
    found, metadata = read_weights(tmp_path)
    assert metadata["kept"] == "yes" and found.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.items())
    most = largest_shard(tmp_path)
    sizes = [sum(state[n].nbytes for n, place in index["weight_map"].items() if place == name) for name in names[:-1]]
    assert most is not None and most <= 600 < max(sizes)  # not by the tensor that is too large
    (tmp_path / "again").mkdir()
    assert write_model(state, tmp_path / "again", {}, most) == names  # in the same files
    assert json.loads((tmp_path / "again" / names[-1]).read_text()) == index


def test_of_tensors_that_each_lie_alone_each_does_so_again(tmp_path: Path) -> None:
    names = write_model(Tied().state_dict(), tmp_path, {}, 1)
    assert largest_shard(tmp_path) == 1 and len(names) == 7


@pytest.mark.parametrize("most", [None, 10**6])
def test_what_fits_is_one_file(tmp_path: Path, most: int | None) -> None:
    assert write_model(Tied().state_dict(), tmp_path, {}, most) == ["model.safetensors"]
    assert written_in(tmp_path) == tmp_path / "model.safetensors" and largest_shard(tmp_path) is None
    assert largest_shard(tmp_path / "model.safetensors") is None
