"""Damaged patch files: refused, or (where the damage touches nothing that counts) as good as whole."""

import random
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

import zsu_fast
from tests.fuzz import models
from tests.fuzz.models import CLASSES, Snapshot
from zsu_fast import Patch, Picks


def damage(rng: random.Random, data: bytes) -> bytes:
    """Other bytes than `data`, or at times the same."""
    kind = rng.choice(("bits", "bits", "header bits", "cut", "insert", "zeros", "swap", "tail", "version", "other"))
    changed = bytearray(data)
    if kind in ("bits", "header bits"):
        reach = len(data) if kind == "bits" else min(len(data), 8 + int.from_bytes(data[:8], "little"))
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(reach)] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del changed[rng.choice((0, 4, 8, rng.randrange(len(data)), len(data) - 1)) :]
    elif kind == "insert":
        at = rng.randrange(len(data))
        changed[at:at] = rng.randbytes(rng.randint(1, 9))
    elif kind == "zeros":
        at = rng.randrange(len(data))
        changed[at : at + 16] = bytes(len(changed[at : at + 16]))
    elif kind == "swap":
        a, b = sorted(rng.sample(range(len(data)), 2))
        changed[a], changed[b] = changed[b], changed[a]
    elif kind == "tail":
        changed += rng.randbytes(rng.randint(1, 64))
    elif kind == "version":  # format 1 has no checksum, but the digests of the tensors stand
        changed = bytearray(data.replace(b'"version":"2"', b'"version":"1"'))
        changed[rng.randrange(len(data) - 64, len(data))] ^= 1 << rng.randrange(8)
    else:
        changed = bytearray(rng.choice((b"{}", rng.randbytes(200), b"\xff" * 64, data[::-1])))
    return bytes(changed)


def run(rng: random.Random) -> None:
    """Load a damaged patch, and undo with it what still loads."""
    kind, model = models.draw(rng)
    before = Snapshot(model)
    picks = Picks(edges={rng.randrange(CLASSES): rng.sample(range(kind.features), 3)})
    sample = models.images(1, 0)[0]
    path = rng.choice(("target", "all", "rows"))
    patch = zsu_fast.perturb_(model, picks, sample=sample, mode=rng.choice(("zero", "invert")), path=path)
    edited = Snapshot(model)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "patch.safetensors"
        patch.save(file)
        if rng.random() < 0.03:
            file = rng.choice((Path(folder), Path(folder) / "missing"))
        else:
            file.write_bytes(damage(rng, file.read_bytes()))
        try:
            loaded = Patch.load(file)
        except (ValueError, FileNotFoundError) as error:
            refusal: Exception | None = error
        else:
            refusal = None
    edited.check()
    if refusal is not None:
        message = str(refusal)
        assert message, f"{type(refusal).__name__} without a message"
        assert message.startswith("path: "), f"names no argument: {type(refusal).__name__}: {message}"
        return
    try:
        with torch.no_grad():
            loaded.revert(model)
    except ValueError:
        edited.check()
    else:
        before.check()
