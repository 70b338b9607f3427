"""Patches in parts, and processes that are killed: the others say so, soon, and leave no half of anything."""

import copy
import os
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch.distributed as dist

import zsu_fast
from tests.distributed.launch import RankError, Ranks, needs_gloo
from tests.distributed.test_fsdp import classifier
from zsu_fast.unlearn import Patch, model_digest, patch_folder
from zsu_fast.unlearn.transaction import Transaction

pytestmark = [needs_gloo, pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9")]
PARTS = {"one": [0], "two": [3, 4], "four": [0, 1, 2, 3]}


def written_and_read(folder: Path, groups: dict[str, Any]) -> None:
    """Written by 1, 2 and 4 processes, read by each of 5, and applied to a model in 5 parts."""
    from torch.distributed.fsdp import fully_shard

    model, probes = classifier()
    original, rank = copy.deepcopy(model), dist.get_rank()
    made = zsu_fast.forget(model, 1, probes, budget=3, path="neuron").patch
    for name, ranks in PARTS.items():
        if rank == ranks[0]:
            made.save(folder / f"{name}.safetensors")  # each its own time in the record
        if rank in ranks:
            made.save_sharded(folder / name, groups[name])
    dist.barrier()
    net = copy.deepcopy(original)
    fully_shard(net)
    for name, ranks in PARTS.items():
        assert len(list((folder / name).iterdir())) == len(ranks) + 1
        found = Patch.load(folder / name)
        found.apply_(net)
        assert model_digest(net) == model_digest(model)
        found.revert(net)
        assert model_digest(net) == model_digest(original)
        found.save(folder / f"{name}{rank}.safetensors")
        assert (folder / f"{name}{rank}.safetensors").read_bytes() == (folder / f"{name}.safetensors").read_bytes()
    if rank in PARTS["four"]:
        with pytest.raises(OSError, match="folder: there is something at"):
            made.save_sharded(folder / "two", groups["four"])
        entries = made.entries[:-1] if rank == 2 else made.entries
        with pytest.raises(ValueError, match="patch: not the same in all processes"):
            replace(made, entries=entries).save_sharded(folder / "other", groups["four"])
        assert not (folder / "other").exists()


def killed(folder: Path) -> dict[str, Any]:
    groups = {name: dist.new_group(ranks) for name, ranks in PARTS.items()}
    written_and_read(folder, groups)
    model, probes = classifier()
    rank, before = dist.get_rank(), model_digest(model)
    found: dict[str, Any] = {}

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def edit_and_die(*given: Any) -> None:
        edit(*given)
        die()

    def attempt(name: str, work: Any) -> None:
        started = time.monotonic()
        try:
            work()
        except RuntimeError as error:
            found[name] = str(error), time.monotonic() - started, model_digest(model) == before

    if rank in PARTS["two"]:
        made = zsu_fast.forget(copy.deepcopy(model), 1, probes, budget=3).patch
        with patch.object(patch_folder, "flush", die if rank == 4 else patch_folder.flush):
            attempt("saving", lambda: made.save_sharded(folder / "killed", groups["two"]))
        assert not (folder / "killed").exists() and not list(folder.glob("*.zsu-part"))
        (folder / "saving").write_text(repr(found))
    edit = Transaction.edit
    with patch.object(Transaction, "edit", edit_and_die if rank == 3 else edit):
        attempt("forgetting", lambda: zsu_fast.forget(model, 1, probes, method="channels", group=groups["four"]))
    return found


def test_patches_in_parts_and_processes_that_are_killed(tmp_path: Path) -> None:
    """One test, since it is the start of processes that takes long; the last of two is killed, then that of four."""
    with Ranks(5) as ranks, pytest.raises(RankError, match="^\nrank 3 .* has ended\nrank 4 .* has ended$") as caught:
        ranks.run(killed, tmp_path, timeout=400)
    assert "one of its processes has ended" in (tmp_path / "saving").read_text()
    assert sorted(caught.value.answers) == [0, 1, 2]
    for rank, found in caught.value.answers.items():
        text, seconds, as_it_was = found["forgetting"]
        assert text.startswith("group: one of its processes has ended"), (rank, text)
        assert seconds < 30 and as_it_was, (rank, seconds, as_it_was)
