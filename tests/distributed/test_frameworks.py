"""What Accelerate and Lightning Fabric make of a model: its edit is that of the model itself, in all processes."""

import copy
import os
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

import zsu_fast
from tests.distributed.launch import Ranks, needs_gloo
from tests.distributed.test_fsdp import classifier
from zsu_fast.unlearn import model_digest

pytestmark = needs_gloo


def as_torchrun_says() -> None:
    rank, world = str(dist.get_rank()), str(dist.get_world_size())
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "1"}


def same_edit(prepare: Callable[[nn.Module], nn.Module]) -> str:
    """Both ways to forget, and relevance, of what `prepare` makes of a model; returns the class of it."""
    as_torchrun_says()
    plain, probes = classifier()
    model = prepare(copy.deepcopy(plain)).eval()
    before = model_digest(plain)
    assert model_digest(model) == before
    ours, theirs = (zsu_fast.relevance(each, probes, 1) for each in (model, plain))
    assert list(ours.neurons) == list(theirs.neurons) and torch.equal(ours.input, theirs.input)
    for method in ("lra-npp", "channels"):
        ours, theirs = (zsu_fast.forget(each, 1, probes, method=method, budget=3) for each in (model, plain))
        assert ours.patch.entries and ours.patch.digests == theirs.patch.digests
        assert model_digest(model) == model_digest(plain) != before
        ours.patch.revert(plain)
        theirs.patch.revert(model)
        assert model_digest(model) == model_digest(plain) == before
    with pytest.raises(ValueError, match="probes: not the same in all processes"):
        zsu_fast.forget(model, 1, probes[dist.get_rank() :])
    return type(model).__name__


def accelerated(model: nn.Module) -> nn.Module:
    from accelerate import Accelerator

    return Accelerator(cpu=True).prepare(model)


def accelerated_in_parts(model: nn.Module) -> nn.Module:
    """By Accelerate's own function: its Accelerator takes the plugin on accelerators alone."""
    from accelerate import FullyShardedDataParallelPlugin
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    plugin = FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="no_wrap")
    accelerator = SimpleNamespace(
        state=SimpleNamespace(fsdp_plugin=plugin), torch_device_mesh=None, parallelism_config=None,
        mixed_precision="no", is_main_process=True, device=torch.device("cpu"),
    )  # fmt: skip
    return fsdp2_prepare_model(accelerator, model)


def in_fabric(model: nn.Module, strategy: Any) -> nn.Module:
    from lightning_fabric import Fabric

    fabric = Fabric(accelerator="cpu", devices=2, strategy=strategy)
    fabric.launch()
    return fabric.setup(model)


def fabric_ddp(model: nn.Module) -> nn.Module:
    return in_fabric(model, "ddp")


def fabric_in_parts(model: nn.Module) -> nn.Module:
    from lightning_fabric.strategies import ModelParallelStrategy
    from torch.distributed.fsdp import fully_shard

    def parallelize(model: nn.Module, mesh: Any) -> nn.Module:
        fully_shard(model[1], mesh=mesh["data_parallel"])
        return fully_shard(model, mesh=mesh["data_parallel"])

    return in_fabric(model, ModelParallelStrategy(parallelize, 2, 1))


PREPARED = {
    "accelerate": (accelerated, "DistributedDataParallel"),
    "accelerate FSDP2": (accelerated_in_parts, "FSDPSequential"),
    "lightning_fabric": (fabric_ddp, "_FabricModule"),
    "lightning_fabric FSDP2": (fabric_in_parts, "_FabricModule"),
}


@pytest.mark.parametrize("name", PREPARED)
def test_the_edit_is_that_of_the_model_itself(ranks: Ranks, name: str) -> None:
    pytest.importorskip(name.partition(" ")[0])
    prepare, kind = PREPARED[name]
    assert ranks.run(same_edit, prepare) == [kind] * 2
