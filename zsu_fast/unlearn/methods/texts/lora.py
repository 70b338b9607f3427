"""Low-rank updates of linear layers, merged into their weights in the end (LoRA: Hu et al. 2021, arXiv 2106.09685)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize


class LowRank(nn.Module):
    """W -> W + scale B A, with A [rank, columns] drawn and B [rows, rank] zero at first."""

    def __init__(self, weight: Tensor, rank: int, scale: float, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        self.scale = scale
        self.a = nn.Parameter((torch.randn(rank, columns, generator=generator) / columns**0.5).to(weight))
        self.b = nn.Parameter(weight.new_zeros(rows, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.b @ self.a)


@contextmanager
def adapted(
    model: nn.Module, rank: int, alpha: float, layers: Sequence[str] | None, generator: torch.Generator
) -> Iterator[list[nn.Parameter]]:
    """The parameters that learn: those of updates of `layers` by alpha / rank, merged at the end; rank 0: the model's.

    Layers are modules with a matrix for a weight, by full names, last parts of these, or patterns; by default all that
    are no embeddings, nor tied to one. ValueError if there are none.
    """
    if not rank:
        yield [parameter for parameter in model.parameters() if parameter.requires_grad]
        return
    chosen = _matrices(model, layers)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    parameters = []
    for module, weight in chosen:
        update = LowRank(weight, rank, alpha / rank, generator)
        parametrize.register_parametrization(module, "weight", update)
        parameters += [update.a, update.b]
    yield parameters
    for module, _ in chosen:
        parametrize.remove_parametrizations(module, "weight")


def _matrices(model: nn.Module, layers: Sequence[str] | None) -> list[tuple[nn.Module, Tensor]]:
    modules = dict(model.named_modules())
    looked_up = {id(module.weight) for module in modules.values() if isinstance(module, nn.Embedding)}
    found = {
        name: (module, weight)
        for name, module in modules.items()
        if isinstance(weight := module._parameters.get("weight"), Tensor)
        and weight.dim() == 2
        and weight.is_floating_point()
        and id(weight) not in looked_up
    }
    for pattern in layers or ():
        if not any(_named(name, pattern) for name in found):
            raise ValueError(f"layers: no linear layer {pattern!r}; there are {', '.join(found) or 'none'}")
    if not found:
        raise ValueError("lora_rank: the model has no linear layer of its own")
    return [pair for name, pair in found.items() if not layers or any(_named(name, p) for p in layers)]


def _named(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.rpartition(".")[2] == pattern
