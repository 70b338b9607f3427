"""Tensor-parallel models: relevance is that of the whole model, up to the order of sums."""

import copy
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zsu_fast
from tests.distributed.launch import Ranks, needs_gloo
from zsu_fast.lrp import AlphaBeta, Composite, Gamma
from zsu_fast.lrp.tensor_parallel import Rowwise

pytestmark = needs_gloo


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.q, self.k, self.v = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)
        self.proj, self.fc1, self.fc2 = nn.Linear(8, 8), nn.Linear(8, 14), nn.Linear(14, 8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        q, k, v = (part.unflatten(-1, (-1, 2)).transpose(1, 2) for part in (self.q(y), self.k(y), self.v(y)))
        x = x + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Conv2d(3, 8, 3, stride=3), Block(), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(self.stem(x).flatten(2).mT)[:, 1:].mean(1))


def in_parts(net: nn.Module, sequence: bool) -> nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor import parallel as tp

    mesh = init_device_mesh("cpu", (2,))
    if sequence:
        columns = {"input_layouts": Shard(1)}
        rows = {"output_layouts": Shard(1), "use_local_output": False}
        plan = {
            "block": tp.PrepareModuleInputOutput(
                input_layouts=(Replicate(),), desired_input_layouts=(Shard(1),),
                output_layouts=(Shard(1),), desired_output_layouts=(Replicate(),),
            ),
            "block.norm1": tp.SequenceParallel(), "block.norm2": tp.SequenceParallel(),
        }  # fmt: skip
    else:
        columns, rows, plan = {}, {}, {"head": tp.ColwiseParallel(output_layouts=Replicate())}
    plan |= {f"block.{name}": tp.ColwiseParallel(**columns) for name in ("q", "k", "v", "fc1")}
    plan |= {f"block.{name}": tp.RowwiseParallel(**rows) for name in ("proj", "fc2")}
    return tp.parallelize_module(copy.deepcopy(net), mesh, plan)


GAMMA = Composite(Gamma())
PICKS = zsu_fast.Picks({1: [7, 0]}, {"stem": [2], "block.fc1": [6, 7, 12], "block.heads": [3], "block.proj": [5]})
"""Rows and columns in both halves of every way to split."""


def same_relevance(sequence: bool) -> None:
    torch.manual_seed(0)
    plain = ViT().eval().double()
    net = in_parts(plain, sequence)
    x = torch.rand(3, 3, 9, 9, dtype=torch.float64)
    with patch.object(Rowwise, "forward", autospec=True, side_effect=Rowwise.forward) as ran:
        zsu_fast.relevance(net, x, 1, composite=GAMMA)
    assert ran.call_count == 4  # two layers, each with a denominator of its own: on shards, not on the whole
    for composite in (GAMMA, Composite(AlphaBeta()), "epsilon_plus_flat", "attnlrp", "cp_lrp"):
        ours = zsu_fast.relevance(net, x, [1, None], composite=composite)
        theirs = zsu_fast.relevance(plain, x, [1, None], composite=composite)
        for one, other in zip(ours, theirs, strict=True):
            assert list(one.neurons) == list(other.neurons)
            torch.testing.assert_close(one.input, other.input, rtol=1e-9, atol=1e-11)
            for name, expected in other.neurons.items():
                torch.testing.assert_close(one.neurons[name], expected, rtol=1e-9, atol=1e-11)
    edit = zsu_fast.perturb_(plain, PICKS, sample=x[:1], path="all")
    edit.apply_(net)
    assert zsu_fast.unlearn.model_digest(net) == zsu_fast.unlearn.model_digest(plain)
    torch.testing.assert_close(zsu_fast.relevance(net, x).logits, plain(x))
    edit.revert(net)
    edit.revert(plain)
    assert zsu_fast.unlearn.model_digest(net) == zsu_fast.unlearn.model_digest(plain)
    with pytest.raises(ValueError, match="no books are kept of models with DTensors"):
        zsu_fast.relevance(net, x, conservation=True)
    with pytest.raises(TypeError, match=r"is a DTensor \(tensor parallel\)"):
        zsu_fast.forget(net, 1, x)


@pytest.mark.parametrize("sequence", [False, True])
def test_relevance_is_that_of_the_whole_model(ranks: Ranks, sequence: bool) -> None:
    ranks.run(same_relevance, sequence)
