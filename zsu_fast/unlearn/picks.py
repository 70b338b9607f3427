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
from zsu_fast.lrp.blocks import Memory
from zsu_fast.unlearn.exact_sums import sums
from zsu_fast.unlearn.group import ALONE, Group
from zsu_fast.unlearn.shard import Shard

SCORES = ("frequency", "mean", "contrastive")
SCOPES = ("layer", "global")


@dataclass(frozen=True, repr=False)
class Picks:
    """Neurons to perturb.

    edges: class -> features of the classifier, most relevant first (method "lra-npp").
    neurons: layer name -> units, most relevant first (method "channels").

        picks = zsu_fast.select(model, 3, probes, budget=2)
        patch = zsu_fast.perturb_(model, picks, sample=probes[:1])
        patch.revert(model)
    """

    edges: dict[int, list[int]] = field(default_factory=dict)
    neurons: dict[str, list[int]] = field(default_factory=dict)

    def __repr__(self) -> str:
        told = [f"class {target}: {len(features)} features" for target, features in self.edges.items()]
        told += [f"{name}: {len(units)} neurons" for name, units in self.neurons.items()]
        return f"Picks({'; '.join(told[:6])}{f'; and {len(told) - 6} more' if len(told) > 6 else ''})"

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
    features: Tensor,
    weight: Tensor,
    labels: Tensor,
    targets: Sequence[int],
    k: int,
    *,
    absolute: bool = False,
    group: Group = ALONE,
) -> EdgeRanking:
    """Rank the classifier's inputs for each target class (LRA-NPP, arXiv 2410.23693, Eqs. 7-8).

    features: [N, D], inputs of the classifier; weight: [classes, D]; labels: int64 [N], the target of each row.
    Relevance at the classifier's input is a_j w_cj (for every rule that conserves, up to a factor per sample). Each
    row's k most relevant inputs are counted; order: count, then mean relevance, then the lower index. Only inputs with
    positive mean relevance are kept: the others do not speak for the class.
    group: processes that bring features and labels of their own, and get one order.
    """
    orders = {}
    for target in targets:
        relevance = features[labels == target].float() * weight[target].float()
        named = {"": ops.topk_count(relevance, min(k, relevance.shape[1]), absolute=absolute)}
        only = torch.zeros(len(relevance), dtype=torch.int64, device=relevance.device)
        found, added = sums({"": relevance.abs() if absolute else relevance}, only, 1, group, named)
        counts, mean = added[""], found[""].mean()[0]
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
    against: Mapping[str, Tensor] | None = None,
    group: Group = ALONE,
) -> UnitRanking:
    """Rank the units of many layers by their relevance for the targets.

    relevance: layer -> [N, units] for the probes, labels: int64 [N], each of them a target; k: share of each layer's
    units counted per sample (score "frequency"); against: layer -> [units], the `largest_shares` for retained classes
    (score "contrastive"). group: processes that bring relevance and labels of their own, and get one order.

    Scores of a unit: "frequency": how many probes have it among their k most relevant; "mean": its mean share of the
    layer's relevance; "contrastive": that share minus its largest mean share for any retained class. Scope "layer"
    takes the same fraction of every layer, "global" compares shares across layers. Ties: lower layer, lower index.
    Units without positive mean relevance are left out: they do not speak for the class. Of several targets the larger
    count and share.
    """
    own, named = [labels == target for target in targets], {}
    for name, values in relevance.items():
        per_sample = max(1, round(k * values.shape[1]))
        rows = [values[where].float().contiguous() for where in own]
        named[name] = torch.stack([ops.topk_count(of_target, per_sample) for of_target in rows])
    positions = torch.stack(own).long().argmax(0)
    found, counts = sums({n: v.float() for n, v in relevance.items()}, positions, len(own), group, named)
    keys, layers, units = [], [], []
    for position, name in enumerate(relevance):
        share = found[name].share().amax(0)
        value = counts[name].amax(0).double() if score == "frequency" else share
        if score == "contrastive":
            assert against is not None
            value = share - against[name]
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


def largest_shares(relevance: Mapping[str, Tensor], labels: Tensor, group: Group = ALONE) -> dict[str, Tensor]:
    """Layer -> [units]: of each unit the largest mean share of its layer's relevance for any class, float64."""
    classes = group.gather(labels.unique()).unique()
    positions = torch.searchsorted(classes, labels.contiguous())  # it warns of others
    found, _ = sums({n: v.float() for n, v in relevance.items()}, positions, len(classes), group)
    return {name: of_classes.share().amax(0) for name, of_classes in found.items()}


def _joined(parts: list[Tensor]) -> Tensor:
    """On one device, where the layers are on several."""
    return torch.cat([part.to(parts[0].device) for part in parts])


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
    return relevance_of_shard(model, Shard.of(images, batch_size), labels, layers, composite, progress, view)


def relevance_of_shard(
    model: nn.Module,
    images: Shard,
    labels: Tensor,
    layers: Sequence[str],
    composite: str | Composite,
    progress: Callable[[int, int, str], None],
    view: nn.Module | None = None,
    memory: Memory = "normal",
) -> tuple[dict[str, Tensor], Tensor]:
    """The same for the images that a process holds, labels: [n]."""
    within = "" if view is None else next(f"{name}." if name else "" for name, m in view.named_modules() if m is model)
    collected: dict[str, Rows] = {}
    logits = Rows(images.rows)
    done = 0
    for batch, target in zip(images.batches(), images.beside(labels).batches(), strict=True):
        found = relevance(
            model if view is None else view, batch, target, composite=composite,
            layers=[within + name for name in layers], at_input=False, memory=memory,
        )  # fmt: skip
        logits.add(found.logits)
        for full_name, values in found.neurons.items():
            name = full_name.removeprefix(within)
            collected.setdefault(name, Rows(images.rows)).add(values)
        done += len(batch)
        progress(done, images.rows, "relevance")
    return {name: images.outcome(rows.tensor()) for name, rows in collected.items()}, images.outcome(logits.tensor())
