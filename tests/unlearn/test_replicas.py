"""Two processes with one DDP model: the same edit in both, or none and an error that says why."""

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import zsu_fast
from zsu_fast.unlearn import model_digest


def work(rank: int, folder: str, same: bool, method: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    net, probes = torch.load(f"{folder}/net.pt", weights_only=False)
    model = DistributedDataParallel(copy.deepcopy(net))
    digest = model_digest(model)
    try:
        if method == "neggrad":  # the same tensors, with values that each process learned from its own images
            given = {"budget": 1, "probes": probes if same else probes[rank::2]}
        else:
            given = {"budget": 1 if same else 1 + rank, "probes": probes}
        result = zsu_fast.forget(model, 1, method=method, **given)
        said = f"{len(result.patch.entries)} {model_digest(model)}"
    except ValueError as error:
        said = f"{str(error)[:90]} {model_digest(model) == digest}"
    Path(folder, f"said{rank}").write_text(said)
    dist.barrier()
    # Not by way of the interpreter's end: a thread of gloo that still lets go of Python objects then aborts the process
    # (pytorch/pytorch#179291), now and then.
    os._exit(0)


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="no gloo")
@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("method", ["lra-npp", "neggrad"])
def test_replicas_do_not_drift_apart(tmp_path: Path, same: bool, method: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))
    images = torch.rand(3000, 1, 4, 4)
    with torch.no_grad():
        net[1].bias += 4  # all units are active, so that all rows learn
        net[3].bias[1] += net(images).amax(1).mean() - net(images)[:, 1].mean()
    probes = images[net(images).argmax(1) == 1][:24]
    assert len(probes) == 24
    torch.save((net, probes), tmp_path / "net.pt")
    mp.spawn(work, (str(tmp_path), same, method), nprocs=2)
    said = [(tmp_path / f"said{rank}").read_text() for rank in (0, 1)]
    if same:
        assert said[0] == said[1] and said[0].startswith("1 " if method == "lra-npp" else "4 ")
    else:
        assert all("not the same in all processes of this model" in t and t.endswith("True") for t in said), said
