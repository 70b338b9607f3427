"""Files of tensors: the same contents are the same bytes, whatever letters the metadata has."""

from pathlib import Path

import torch
from safetensors import safe_open

from zsu_fast.safetensors_file import save_atomically


def test_the_same_contents_are_the_same_bytes(tmp_path: Path) -> None:
    odd = 'é \u2028 \U0001f600 " \\ / \n \t \x01 \x7f'
    metadata = {name: f"{name} {odd}" for name in ("format", "version", "entries", "record", "digests", "key", odd)}
    tensors = {"b": torch.rand(3, 2), "a": torch.arange(4), "é": torch.tensor(1.5)}
    for i in range(8):
        save_atomically(tensors, tmp_path / f"{i}.safetensors", metadata)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1
    with safe_open(tmp_path / "0.safetensors", framework="pt") as file:
        assert file.metadata() == metadata and all(torch.equal(file.get_tensor(n), t) for n, t in tensors.items())
