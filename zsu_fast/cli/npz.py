"""Arrays of .npz files from anywhere: what a file claims is checked before any of it is expanded."""

from __future__ import annotations

import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# What is larger than this must not be far smaller in the file: images compress to a tenth, a zip bomb to a thousandth.
UNSUSPICIOUS_BYTES = 256 << 20
MOST_EXPANSION = 50


def read_arrays(path: Path, wanted: Sequence[str]) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
    """Those of the wanted arrays that are in the file, and the names of all. Nothing in it is unpickled.

    Raises:
        ValueError: the file is damaged, or not what NumPy writes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            return {name: _read(archive, members[name]) for name in wanted if name in members}, list(members)
    except MemoryError:
        raise ValueError("it does not fit into memory") from None
    except Exception as error:  # zlib.error, BadZipFile, NotImplementedError, RuntimeError (encrypted), EOFError ...
        raise ValueError(str(error).strip() or type(error).__name__) from None


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    size = info.file_size
    if size > max(UNSUSPICIOUS_BYTES, MOST_EXPANSION * info.compress_size):
        raise ValueError(
            f"{info.filename} would expand from {info.compress_size} to {size} bytes; if that is meant, save it with "
            "numpy.savez, uncompressed"
        )
    if size > (memory := os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")):
        raise ValueError(f"{info.filename} takes {size} bytes, the machine has {memory}")
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in readers:
            raise ValueError(f"{info.filename} has a header of version {version}")
        shape, _, dtype = readers[version](member)
        header = member.tell()
    if dtype.hasobject:
        raise ValueError(f"{info.filename} holds Python objects, which are not read")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - header:
        raise ValueError(f"{info.filename} claims {dtype} {list(shape)} and has {size - header} bytes")
    with archive.open(info) as member:
        array = np.lib.format.read_array(member, allow_pickle=False)
        member.read(1)  # the end, where zipfile compares the checksum
    return array
