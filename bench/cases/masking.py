"""Masking in place: elements by score, and the slices of many tensors that make up neurons."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.registry import Case, register
from zsu_fast import ops
from zsu_fast.reference import masking as reference

ELEMENTS = 1 << 22  # two float32 tensors of 16 MiB: beyond the second-level caches, quick to check


def _distinct(device: torch.device) -> Tensor:
    """Without ties, which torch.topk breaks in an order that it does not specify; exact in float32."""
    return torch.randperm(ELEMENTS, device=device) - ELEMENTS // 2


def _rectified(device: torch.device) -> Tensor:
    """Half of them zeros, among which the threshold falls."""
    return _distinct(device).relu()


def _element_arguments(
    share: float, scores: Callable[[torch.device], Tensor]
) -> Callable[[torch.device, torch.dtype], tuple[Tensor, Tensor, int]]:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
        weight = torch.randn(ELEMENTS, device=device).to(dtype)
        return weight, scores(device).to(torch.float32), round(share * ELEMENTS)

    return make


def _masked(weight: Tensor, scores: Tensor, k: int) -> Tensor:
    reference.topk_mask_(weight, scores, k, False, 0.0, None, None)
    return weight


def _topk_scatter(weight: Tensor, scores: Tensor, k: int) -> Tensor:
    return weight.index_fill_(0, scores.topk(k, sorted=False).indices, 0)


def _threshold(weight: Tensor, scores: Tensor, k: int) -> Tensor:
    """Right only where no two scores are equal."""
    return weight.masked_fill_(scores >= scores.kthvalue(scores.numel() - k + 1).values, 0)


def _element_traffic(weight: Tensor, scores: Tensor, k: int) -> int:
    return scores.nbytes + k * weight.element_size()


for _name, _share, _scores in (
    ("0.1 %", 0.001, _distinct),
    ("10 %", 0.1, _distinct),
    ("75 % of half zeros", 0.75, _rectified),
):
    register(
        Case(
            name=f"topk_mask_/{ELEMENTS >> 20} Mi, {_name}",
            make=_element_arguments(_share, _scores),
            run=ops.topk_mask_,
            reference=_masked,
            bytes=_element_traffic,
            peers={"eager topk": _topk_scatter, "eager kthvalue": _threshold} if _scores is _distinct else {},
            dtypes=(torch.float32, torch.bfloat16),
        )
    )


def _recorded_topk(weight: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    indices = scores.topk(k, sorted=False).indices.sort().values
    values = weight[indices]
    return weight.index_fill_(0, indices, 0), indices, values


def _recorded_reference(weight: Tensor, scores: Tensor, k: int) -> tuple[Tensor, Tensor, Tensor]:
    indices, values = scores.new_empty(k, dtype=torch.int64), weight.new_empty(k)
    reference.topk_mask_(weight, scores, k, False, 0.0, indices, values)
    return weight, indices, values


register(
    Case(
        name=f"topk_mask_/{ELEMENTS >> 20} Mi, 10 %, recorded",
        make=_element_arguments(0.1, _distinct),
        run=lambda weight, scores, k: ops.topk_mask_(weight, scores, k, record=True),
        reference=_recorded_reference,
        bytes=lambda weight, scores, k: scores.nbytes + k * (3 * weight.element_size() + 8),
        peers={"eager topk": _recorded_topk},
    )
)


def _network(device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], list[Tensor], list[int]]:
    """The last blocks of a VGG-16 with BatchNorm: rows, biases and norms of 16 % of the channels, and their columns."""
    tensors, dims = [], []
    for width, inputs in ((512, 256), (512, 512), (512, 512)):
        tensors += [torch.randn(width, inputs, 3, 3), *torch.randn(3, width)]
        dims += [0, 0, 0, 0]
    tensors.append(torch.randn(512, 512))
    dims.append(1)
    index = torch.randperm(512)[:82].to(device)
    return [tensor.to(device, dtype) for tensor in tensors], [index] * len(dims), dims


def _slices(tensors: list[Tensor], indices: list[Tensor], dims: list[int]) -> list[Tensor]:
    for tensor, index, dim in zip(tensors, indices, dims, strict=True):
        tensor.index_fill_(dim, index, 0)
    return tensors


def _recorded_slices(
    tensors: list[Tensor], indices: list[Tensor], dims: list[int]
) -> tuple[list[Tensor], list[Tensor]]:
    old = [t.index_select(dim, index) for t, index, dim in zip(tensors, indices, dims, strict=True)]
    return _slices(tensors, indices, dims), old


def _slice_traffic(tensors: list[Tensor], indices: list[Tensor], dims: list[int]) -> int:
    return sum(t.nbytes // t.shape[d] * len(i) for t, i, d in zip(tensors, indices, dims, strict=True))


register(
    Case(
        name="mask_neurons_/16 % of VGG-16's last block",
        make=_network,
        run=ops.mask_neurons_,
        reference=_slices,
        bytes=_slice_traffic,
        peers={"eager": _slices},
        dtypes=(torch.float32, torch.bfloat16),
    )
)
register(
    Case(
        name="mask_neurons_/16 % of VGG-16's last block, recorded",
        make=_network,
        run=lambda tensors, indices, dims: ops.mask_neurons_(tensors, indices, dims, record=True),
        reference=_recorded_slices,
        bytes=lambda *arguments: 3 * _slice_traffic(*arguments),
        peers={"eager": _recorded_slices},
    )
)
