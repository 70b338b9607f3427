"""Selection: per-sample top-k and frequency count."""

from collections.abc import Callable

import torch
from torch import Tensor

from bench.registry import Case, register
from zsu_fast import ops
from zsu_fast.reference import selection as reference


def _distinct(samples: int, units: int, k: int) -> Callable[[torch.device, torch.dtype], tuple[Tensor, int]]:
    """Scores without ties, which torch.topk breaks in an order that it does not specify."""

    def make(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, int]:
        scores = torch.randperm(samples * units, device=device).view(samples, units) - samples * units // 2
        return scores.to(dtype), k

    return make


def _topk(relevance: Tensor, k: int) -> Tensor:
    picked = relevance.topk(k, dim=1, sorted=False).indices.flatten()
    return picked.bincount(minlength=relevance.shape[1])


def _sort(relevance: Tensor, k: int) -> Tensor:
    return relevance.argsort(dim=1, descending=True)[:, :k].flatten().bincount(minlength=relevance.shape[1])


for _samples, _units, _k in ((36, 512, 50), (36, 4096, 150), (2048, 2048, 200), (4, 1 << 20, 1 << 17)):
    register(
        Case(
            name=f"topk_count/{_samples}x{_units} k={_k}",
            make=_distinct(_samples, _units, _k),
            run=ops.topk_count,
            reference=lambda relevance, k: reference.topk_count(relevance, k, False),
            bytes=lambda relevance, k: relevance.nbytes + 8 * relevance.shape[1],
            peers={"eager topk": _topk, "eager sort": _sort},
        )
    )
