"""Masking in place: elements by score, and the slices of many tensors that make up neurons."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from bench.registry import Case, register
from zsu_fast import ops
from zsu_fast.reference import masking as reference

ELEMENTS = 1 << 22  # two float32 tensors of 16 MiB: beyond the second-level caches, quick to check
MANY = 10**8  # far beyond every cache


def _distinct(n: int, device: torch.device) -> Tensor:
    """Without ties, which torch.topk breaks in an order that it does not specify; exact in float32."""
    return torch.randperm(n, device=device) - n // 2


def _rectified(n: int, device: torch.device) -> Tensor:
    """Half of them zeros, among which the threshold falls."""
    return _distinct(n, device).relu()


def _scattered(n: int, device: torch.device) -> Tensor:
    """Without ties too, for up to 2^27 scores: positive numbers of neighbouring bits, in the order of a hash."""
    return (torch.arange(n, device=device) * 0x9E3779B1 % (1 << 27) + 0x30000000).to(torch.int32).view(torch.float32)


Make = Callable[[torch.device, torch.dtype], tuple[Tensor, Tensor, int]]


def _element_arguments(n: int, share: float, scores: Callable[[int, torch.device], Tensor]) -> Make:
    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, int]:
        weight = torch.randn(n, device=device).to(dtype)
        return weight, scores(n, device).to(torch.float32), round(share * n)

    return make


def _masked(weight: Tensor, scores: Tensor, k: int) -> Tensor:
    reference.topk_mask_(weight, scores, k, False, 0.0, None, None)
    return weight


def _topk_scatter(weight: Tensor, scores: Tensor, k: int) -> Tensor:
    return weight.index_fill_(0, scores.topk(k, sorted=False).indices, 0)


def _threshold(weight: Tensor, scores: Tensor, k: int) -> Tensor:
    """Right only where no two scores are equal."""
    return weight.masked_fill_(scores >= scores.kthvalue(scores.numel() - k + 1).values, 0)


class _Holder(nn.Module):
    """What torch.nn.utils.prune works on."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)


def _pruned(weight: Tensor, scores: Tensor, k: int) -> Tensor:
    """It prunes where |importance| is smallest."""
    holder = _Holder(weight)
    prune.l1_unstructured(holder, "weight", amount=k, importance_scores=scores.max() - scores)
    return prune.remove(holder, "weight").weight


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
            make=_element_arguments(ELEMENTS, _share, _scores),
            run=ops.topk_mask_,
            reference=_masked,
            bytes=_element_traffic,
            peers={"eager topk": _topk_scatter, "eager kthvalue": _threshold, "prune": _pruned}
            if _scores is _distinct
            else {},
            dtypes=(torch.float32, torch.bfloat16),
        )
    )
register(
    Case(
        name="topk_mask_/1e8, 10 %",
        make=_element_arguments(MANY, 0.1, _scattered),
        small=_element_arguments(ELEMENTS // 16, 0.1, _scattered),
        run=ops.topk_mask_,
        reference=_masked,
        bytes=_element_traffic,
        peers={"eager topk": _topk_scatter},
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
        make=_element_arguments(ELEMENTS, 0.1, _distinct),
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


Blocks = tuple[list[Tensor], list[Tensor], list[int], list[int], list[int]]


def _transformer(blocks: int, width: int, heads: int, hidden: int) -> Callable[[torch.device, torch.dtype], Blocks]:
    """Tensors, scores, how many of each scores' neurons, and per tensor: which scores choose, along which dimension.

    A head is a slice of views of the weights around attention: its rows in q, k and v, its columns in the projection.
    """

    def make(device: torch.device, dtype: torch.dtype) -> Blocks:
        def weight(*shape: int) -> Tensor:
            return torch.ones(shape, device=device, dtype=dtype)

        tensors, scores, k, of, dims = [], [], [], [], []
        for block in range(blocks):
            tensors += [weight(3, heads, width // heads, width), weight(3, heads, width // heads)]
            tensors += [
                weight(width, heads, width // heads),
                weight(hidden, width),
                weight(hidden),
                weight(width, hidden),
            ]
            scores += [torch.randperm(heads, device=device).float(), torch.randperm(hidden, device=device).float()]
            k += [heads // 8, hidden // 10]
            of += [2 * block] * 3 + [2 * block + 1] * 3
            dims += [1, 1, 1, 0, 0, 1]
        return tensors, scores, k, of, dims

    return make


def _from_scores(tensors: list[Tensor], scores: list[Tensor], k: list[int], of: list[int], dims: list[int]) -> object:
    picks = ops.topk_indices(scores, k)
    return ops.mask_neurons_(tensors, [picks[i] for i in of], dims, check=False)


def _layer_by_layer(
    tensors: list[Tensor], scores: list[Tensor], k: list[int], of: list[int], dims: list[int]
) -> object:
    picks = [each.topk(n).indices for each, n in zip(scores, k, strict=True)]
    return _slices(tensors, [picks[i] for i in of], dims)


def _structured(tensors: list[Tensor], scores: list[Tensor], k: list[int], of: list[int], dims: list[int]) -> object:
    result = []
    for tensor, i, dim in zip(tensors, of, dims, strict=True):
        holder = _Holder(tensor)
        kept = torch.ones_like(scores[i]).index_fill_(0, scores[i].topk(k[i]).indices, 0)
        mask = kept.view(-1, *[1] * (tensor.dim() - dim - 1)).expand_as(tensor)
        prune.custom_from_mask(holder, "weight", mask)
        result.append(prune.remove(holder, "weight").weight)
    return result


register(
    Case(
        name="topk_indices + mask_neurons_/ViT-L",
        make=_transformer(24, 1024, 16, 4096),
        small=_transformer(2, 32, 8, 40),
        run=_from_scores,
        reference=_layer_by_layer,
        bytes=lambda tensors, scores, k, of, dims: sum(
            tensor.nbytes // tensor.shape[dim] * k[i] for tensor, i, dim in zip(tensors, of, dims, strict=True)
        ),
        peers={"eager topk": _layer_by_layer, "prune": _structured},
        dtypes=(torch.float32, torch.bfloat16),
    )
)


Prepared = tuple[list[Tensor], list[Tensor], list[int], ops.PreparedMask]


def _prepared(blocks: int, width: int, heads: int, hidden: int) -> Callable[[torch.device, torch.dtype], Prepared]:
    def make(device: torch.device, dtype: torch.dtype) -> Prepared:
        tensors, scores, k, of, dims = _transformer(blocks, width, heads, hidden)(device, dtype)
        picks = ops.topk_indices(scores, k)
        indices = [picks[i] for i in of]
        return tensors, indices, dims, ops.PreparedMask(tensors, indices, dims)

    return make


# Of 16 units a layer, what is to be masked takes no time: what a call costs that has 144 tensors to look at.
for _name, _sizes in (("ViT-L", (24, 1024, 16, 4096)), ("ViT-L with 16 units a layer", (24, 16, 8, 40))):
    register(
        Case(
            name=f"mask_neurons_/{_name}, prepared",
            make=_prepared(*_sizes),
            small=_prepared(2, 32, 8, 40),
            run=lambda tensors, indices, dims, mask: mask(),
            reference=lambda tensors, indices, dims, mask: _slices(tensors, indices, dims),
            bytes=lambda tensors, indices, dims, mask: _slice_traffic(tensors, indices, dims),
            peers={
                "eager": lambda tensors, indices, dims, mask: _slices(tensors, indices, dims),
                "not prepared": lambda tensors, indices, dims, mask: ops.mask_neurons_(tensors, indices, dims),
            },
        )
    )
