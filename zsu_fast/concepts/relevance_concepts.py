"""Concepts that nobody named: what at a layer carries relevance for a class and for no other, shown by its crops."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.concepts.bank import ConceptBank
from zsu_fast.concepts.located import Part, channels_first, located
from zsu_fast.concepts.reading import classifier_of
from zsu_fast.evaluate.given import check_int, check_seed
from zsu_fast.evaluate.images import check_labelled
from zsu_fast.evaluate.inference import inference_mode
from zsu_fast.extras import require
from zsu_fast.lrp import Composite

KINDS = ("channels", "directions")


@dataclass(frozen=True, eq=False)
class RelevanceConcept:
    """One concept of a class.

    name: "channel 12", or "direction 3". share: of the class's relevance at the layer, in the mean over its images, and
    `other`: the largest share for another class on its own images. images: indices of those of the class on which it is
    most relevant, first the most. corners: int64 [n, 2], where on these the patch of most relevance through the concept
    begins; crops: [n, C, h, w], those patches. vector: [D], in the pooled activations.
    """

    name: str
    share: float
    other: float
    images: Tensor
    corners: Tensor
    crops: Tensor
    vector: Tensor

    @property
    def contrast(self) -> float:
        """What ranks it: a class is made of what speaks for it and for no other."""
        return self.share - self.other

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "share": self.share,
            "other": self.other,
            "images": self.images.tolist(),
            "corners": self.corners.tolist(),
        }


def relevance_concepts(
    model: nn.Module,
    labelled: tuple[Tensor, Tensor],
    target: int,
    layer: str | None = None,
    *,
    kind: str = "channels",
    count: int = 5,
    top: int = 6,
    side: float = 2 / 7,
    composite: str | Composite = "epsilon_plus",
    batch_size: int = 16,
    seed: int = 0,
) -> list[RelevanceConcept]:
    """What a class is made of at a layer, the most class-specific first.

    Args:
        model: in evaluation mode; unchanged by this.
        labelled: (images [N, C, H, W], labels int [N]): of the class, and of the others to tell it from.
        layer: module whose input is looked at; default: the classifier, whose inputs have no places of their own.
        kind: "channels": each input channel is a concept. "directions": non-negative factors of the relevance, where
            channels are mixed (needs scikit-learn).
        count: concepts to give. top: crops of each. side: of a crop, as a share of the picture's.

    Raises:
        ValueError: naming the argument.
    """
    images, labels = check_labelled("labelled", labelled, None)
    if images.dim() != 4:
        raise ValueError(f"labelled: expected pictures [N, C, H, W], got shape {tuple(images.shape)}")
    if kind not in KINDS:
        raise ValueError(f"kind: expected one of {', '.join(KINDS)}, got {kind!r}")
    for name, value in (("count", count), ("top", top)):
        check_int(name, value, 1)
    check_seed(seed)
    own = labels == target
    if not bool(own.any()) or bool(own.all()):
        raise ValueError(f"labelled: expected images of class {target} and of others")
    layer = classifier_of(model, images) if layer is None else layer
    with inference_mode(model), torch.enable_grad():
        given: dict[str, Any] = {"composite": composite, "batch_size": batch_size}
        at_layer, _, _ = located(model, layer, images, labels, **given)
        places = channels_first(at_layer)
        factors = torch.eye(places.shape[1]) if kind == "channels" else _factors(places[own], count, seed)
        amounts = _amounts(places, factors)
        shares = _shares(amounts)
        mean = torch.stack([shares[labels == c].mean(0) for c in labels.unique()])
        here = mean[labels.unique() == target][0]
        there = mean[labels.unique() != target].amax(0)
        chosen = (here - there).sort(descending=True, stable=True).indices[:count].tolist()
        mine = own.nonzero()[:, 0]
        found = []
        for at in chosen:
            best = mine[amounts[mine, at].sort(descending=True, stable=True).indices[:top]]
            part = _through(factors, at, at_layer.shape)
            _, _, pixels = located(model, layer, images[best], labels[best], part=part, **given)
            corners, crops = _crops(images[best], pixels.sum(1), side)
            name = f"{kind.removesuffix('s')} {at}"
            found.append(RelevanceConcept(name, float(here[at]), float(there[at]), best, corners, crops, factors[at]))
    return found


def as_bank(found: list[RelevanceConcept], layer: str) -> ConceptBank:
    """Relevance concepts in the form of a bank; their margins are activations, no side of them is "without"."""
    return ConceptBank(
        tuple(one.name for one in found),
        torch.stack([one.vector for one in found]),
        torch.zeros(len(found)),
        layer,
        tuple({"share": one.share, "other": one.other, "from": "relevance"} for one in found),
    )


def _amounts(places: Tensor, factors: Tensor) -> Tensor:
    """[N, K]: the relevance of each image [N, D, P] that each factor [K, D] carries."""
    if bool((factors == torch.eye(*factors.shape)).all()):
        return places.sum(2)
    positive = places.clamp_min(0)
    loads = torch.einsum("ndp,kd->nkp", positive, factors)
    return (loads / loads.sum(1, keepdim=True).clamp_min(1e-30) * positive.sum(1, keepdim=True)).sum(2)


def _shares(amounts: Tensor) -> Tensor:
    return amounts / amounts.abs().sum(1, keepdim=True).clamp_min(torch.finfo(amounts.dtype).tiny)


def _factors(places: Tensor, count: int, seed: int) -> Tensor:
    """[K, D], of length 1: non-negative factors of the positive relevance at the places of [N, D, P]."""
    rows = places.clamp_min(0).transpose(1, 2).flatten(0, 1).double().cpu()
    rows = rows[rows.sum(1) > 0]
    if len(rows) < count:
        raise ValueError(f"count: {len(rows)} places have relevance for the class, {count} factors were asked for")
    if len(rows) > 20_000:
        rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:20_000]]
    nmf = require("sklearn.decomposition", "evaluate").NMF(count, init="nndsvda", max_iter=400, random_state=seed)
    nmf.fit((rows / rows.mean()).numpy())
    found = torch.from_numpy(nmf.components_).float()
    return found / found.norm(dim=1, keepdim=True).clamp_min(1e-30)


def _through(factors: Tensor, at: int, shape: torch.Size) -> Part:
    """What of the relevance at the layer passes on: the channel's, or in each place the factor's share of it."""
    one_each = bool((factors == torch.eye(*factors.shape)).all())

    def shares(arrived: Tensor, first: int) -> Tensor:
        dim = 2 if arrived.dim() == 3 else 1
        view = [1] * arrived.dim()
        view[dim] = -1
        if one_each:
            return factors[at].view(view).expand(arrived.shape)
        loads = torch.tensordot(arrived.clamp_min(0), factors.T.to(arrived), ([dim], [0]))  # [..., K]
        load = loads[..., at] / loads.sum(-1).clamp_min(1e-30)
        return load.unsqueeze(dim).expand(arrived.shape)

    return shares


def _crops(images: Tensor, maps: Tensor, side: float) -> tuple[Tensor, Tensor]:
    """Corners [n, 2] of the windows with the largest sum in maps [n, H, W], and the pixels there."""
    size = [max(1, round(side * whole)) for whole in images.shape[2:]]
    sums = F.avg_pool2d(maps[:, None].double(), size, stride=1)[:, 0]
    best = sums.flatten(1).argmax(1)
    corners = torch.stack([best // sums.shape[2], best % sums.shape[2]], 1).cpu()
    crops = [image[:, y : y + size[0], x : x + size[1]] for image, (y, x) in zip(images, corners.tolist(), strict=True)]
    return corners, torch.stack(crops).cpu()
