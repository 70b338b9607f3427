"""Which neurons carry a class: scores from relevance, and their order.

Two kinds of candidates. For `lra-npp` they are the inputs of the classifier, ranked for each target class; for
`channels` they are units of any layers (conv channels, hidden units, attention heads). Either way `rank` gives an order
once, which stays on the device of the relevance; a budget takes its beginning, and only that becomes lists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from zsu_fast import ops
from zsu_fast.evaluate.rows import Rows
from zsu_fast.lrp import Composite, relevance

SCORES = ("frequency", "mean", "contrastive")
SCOPES = ("layer", "global")


@dataclass(frozen=True)
class Picks:
    """Neurons to perturb.

    edges: class -> features of the classifier, most relevant first (method "lra-npp").
    neurons: layer name -> units, most relevant first (method "channels").
    """

    edges: dict[int, list[int]] = field(default_factory=dict)
    neurons: dict[str, list[int]] = field(default_factory=dict)

    def __len__(self) -> int:
        return sum(map(len, self.edges.values())) + sum(map(len, self.neurons.values()))

    def by_layer(self, classifier: str | None) -> dict[str, list[int]]:
        """Layer name -> sorted indices; the classifier's inputs stand under "<classifier>.input"."""
        found = {name: sorted(units) for name, units in self.neurons.items()}
        features = sorted({f for picked in self.edges.values() for f in picked})
        return found | ({f"{classifier}.input": features} if features else {})


@dataclass(frozen=True, eq=False)
class EdgeRanking:
    """For each target class the classifier's inputs (int64), most relevant first; only those that speak for it."""

    orders: dict[int, Tensor]

    @property
    def largest_budget(self) -> int:
        return max(map(len, self.orders.values()))

    def take(self, budget: int) -> Picks:
        """The first `budget` features of every target class."""
        return Picks(edges={target: order[:budget].tolist() for target, order in self.orders.items()})


@dataclass(frozen=True, eq=False)
class UnitRanking:
    """Units of all layers in one order, most relevant first: unit `units[i]` of the layer `names[layers[i]]`."""

    names: tuple[str, ...]
    layers: Tensor
    units: Tensor

    @property
    def largest_budget(self) -> int:
        return len(self.units)

    def take(self, budget: int) -> Picks:
        """The first `budget` units of the order."""
        neurons: dict[str, list[int]] = {}
        for layer, unit in zip(self.layers[:budget].tolist(), self.units[:budget].tolist(), strict=True):
            neurons.setdefault(self.names[layer], []).append(unit)
        return Picks(neurons=neurons)


Ranking = EdgeRanking | UnitRanking


def rank_edges(
    features: Tensor, weight: Tensor, labels: Tensor, targets: Sequence[int], k: int, *, absolute: bool = False
) -> EdgeRanking:
    """Rank the classifier's inputs for each target class (LRA-NPP, arXiv 2410.23693, Eqs. 7-8).

    features: [N, D], inputs of the classifier; weight: [classes, D]; labels: int64 [N], the target of each row.
    Relevance at the classifier's input is a_j w_cj (for every rule that conserves, up to a factor per sample). Each
    row's k most relevant inputs are counted; order: count, then mean relevance, then the lower index. Only inputs with
    positive mean relevance are kept: the others do not speak for the class.
    """
    orders = {}
    for target in targets:
        relevance = features[labels == target].float() * weight[target].float()
        counts = ops.topk_count(relevance, min(k, relevance.shape[1]), absolute=absolute)
        mean = (relevance.abs() if absolute else relevance).mean(0)
        order = lexicographic(counts, mean)
        kept = (counts > 0) | (mean > 0) if absolute else mean > 0
        orders[target] = order[kept[order]]
    return EdgeRanking(orders)


def rank_edges_as_authors(
    features: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    k: int,
    targets: Sequence[int],
    labels: Tensor,
    absolute: bool,
) -> EdgeRanking:
    """The same with the quirks of the authors' code, for parity.

    Relevance starts as 1 at the arg-max logit of each sample (not at the target), the epsilon rule uses eps = 0.1 with
    sign(0) = -1, and equal counts keep the order in which samples first named a neuron. Neurons never named are out.
    `absolute` is the ViT branch: |activation x gradient| of that logit.
    """
    orders = {}
    for target in targets:
        rows = features[labels == target].float()
        logits = torch.nn.functional.linear(rows, weight.float(), None if bias is None else bias.float())
        z, winner = logits.max(1, keepdim=True)
        contribution = rows * weight.float()[winner[:, 0]]
        relevance = contribution.abs() if absolute else contribution / (z + torch.where(z > 0, 0.1, -0.1))
        counts: dict[int, int] = {}
        for unit in relevance.topk(min(k, relevance.shape[1]), dim=1).indices.flatten().tolist():
            counts[unit] = counts.get(unit, 0) + 1
        named = sorted(counts, key=lambda unit: -counts[unit])  # stable: insertion order decides ties
        orders[target] = torch.tensor(named, dtype=torch.int64)
    return EdgeRanking(orders)


def rank_units(
    relevance: Mapping[str, Tensor],
    labels: Tensor,
    targets: Sequence[int],
    *,
    score: str,
    scope: str,
    k: float,
    retain: tuple[Mapping[str, Tensor], Tensor] | None = None,
) -> UnitRanking:
    """Rank the units of many layers by their relevance for the targets.

    relevance: layer -> [N, units] for the probes, labels: int64 [N]; k: share of each layer's units counted per sample
    (score "frequency"); retain: the same two for images of other classes (score "contrastive").

    Scores of a unit: "frequency": how many probes have it among their k most relevant; "mean": its mean share of the
    layer's relevance; "contrastive": that share minus its largest mean share for any retained class. Scope "layer"
    takes the same fraction of every layer, "global" compares shares across layers. Ties: lower layer, lower index.
    Units without positive mean relevance are left out: they do not speak for the class.
    """
    keys, layers, units = [], [], []
    for position, name in enumerate(relevance):
        counts, share = _unit_scores(relevance[name].float(), labels, targets, k)
        value = counts.float() if score == "frequency" else share
        if score == "contrastive":
            assert retain is not None
            value = share - _largest_class_share(retain[0][name].float(), retain[1])
        if scope == "layer":
            order = lexicographic(value, share)
            key = -torch.arange(1, len(order) + 1, device=order.device).double() / len(order)
        else:
            order, key = torch.arange(len(value), device=value.device), value
        speak = share[order] > 0
        keys.append(key[speak])
        layers.append(torch.full_like(order, position)[speak])
        units.append(order[speak])
    # Stable: layers in execution order, within one as it was ordered above.
    best = _joined(keys).sort(descending=True, stable=True).indices
    return UnitRanking(tuple(relevance), _joined(layers)[best], _joined(units)[best])


def _joined(parts: list[Tensor]) -> Tensor:
    """On one device, where the layers are on several."""
    return torch.cat([part.to(parts[0].device) for part in parts])


def _unit_scores(relevance: Tensor, labels: Tensor, targets: Sequence[int], k: float) -> tuple[Tensor, Tensor]:
    """Counts and mean shares, for several targets the larger of each."""
    counts, shares = [], []
    per_sample = max(1, round(k * relevance.shape[1]))
    for target in targets:
        rows = relevance[labels == target].contiguous()
        counts.append(ops.topk_count(rows, per_sample))
        shares.append(_share(rows))
    return torch.stack(counts).amax(0), torch.stack(shares).amax(0)


def _share(rows: Tensor) -> Tensor:
    mean = rows.mean(0)
    return mean / mean.abs().sum().clamp_min(torch.finfo(mean.dtype).tiny)


def _largest_class_share(relevance: Tensor, labels: Tensor) -> Tensor:
    return torch.stack([_share(relevance[labels == c]) for c in labels.unique().tolist()]).amax(0)


def lexicographic(first: Tensor, second: Tensor) -> Tensor:
    """Indices in descending order of `first`, ties by descending `second`, then by ascending index."""
    by_second = torch.sort(second, descending=True, stable=True).indices
    return by_second[torch.sort(first[by_second], descending=True, stable=True).indices]


def unit_relevance(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    layers: Sequence[str],
    composite: str | Composite,
    batch_size: int,
    progress: Callable[[int, int, str], None],
    view: nn.Module | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Relevance [N, units] of each of `layers` for `images`, each image for its own label; and logits [N, classes].

    view: what runs, with the model inside; by default the model itself.
    """
    within = "" if view is None else next(f"{name}." if name else "" for name, m in view.named_modules() if m is model)
    collected: dict[str, Rows] = {}
    logits = Rows(len(images))
    done = 0
    for batch, target in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        found = relevance(
            model if view is None else view, batch, target, composite=composite,
            layers=[within + name for name in layers], at_input=False,
        )  # fmt: skip
        logits.add(found.logits)
        for full_name, values in found.neurons.items():
            name = full_name.removeprefix(within)
            collected.setdefault(name, Rows(len(images))).add(values)
        done += len(batch)
        progress(done, len(images), "relevance")
    return {name: rows.tensor() for name, rows in collected.items()}, logits.tensor()
