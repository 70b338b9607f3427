"""Safetensors files that are there whole or not at all. Nothing in them is executed when they are read."""

import os
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from zsu_fast.atomic import replacing


def save_atomically(
    tensors: dict[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, str], mode: int = 0o666
) -> None:
    """`safetensors.torch.save_file` through a temporary file in the same folder, flushed to the disk, and a rename.

    mode: permissions of the file, from which the process's umask takes.
    """
    with replacing(Path(path), mode) as temporary:
        save_file(tensors, temporary, metadata)
