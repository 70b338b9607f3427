"""What a class is made of, in one value: its relevance concepts, its named concepts, and how far to believe them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.concepts.bank import ConceptBank
from zsu_fast.concepts.bottleneck import Bottleneck, concept_bottleneck
from zsu_fast.concepts.gradients import agreement, integrated_gradients
from zsu_fast.concepts.reading import classifier_of
from zsu_fast.concepts.relevance_concepts import RelevanceConcept, relevance_concepts
from zsu_fast.evaluate.images import check_labelled
from zsu_fast.evaluate.inference import inference_mode
from zsu_fast.lrp import Composite, relevance

COMPARED = 16


@dataclass(frozen=True, eq=False)
class Explanation:
    """Of one class of a model.

    layer: where the concepts `found` were looked for. bottleneck: of the named concepts of `bank`, if there is one.
    rank_correlation: of the relevance of the pixels and of integrated gradients, mean over `compared` images of the
    class: two accounts of the same logit. incomplete: share of the logit's difference that integrated gradients miss,
    in the median.
    """

    target: int
    layer: str
    found: tuple[RelevanceConcept, ...]
    bank: ConceptBank | None
    bottleneck: Bottleneck | None
    rank_correlation: float
    incomplete: float
    compared: int

    def to_dict(self) -> dict[str, Any]:
        named = None
        if self.bank is not None and self.bottleneck is not None:
            evidence = dict(zip(self.bank.names, self.bank.evidence, strict=True))
            top = [
                {"name": name, "weight": weight} | evidence[name] for name, weight in self.bottleneck.top(self.target)
            ]
            named = self.bottleneck.to_dict() | {"layer": self.bank.layer, "top": top}
        return {
            "target": self.target,
            "layer": self.layer,
            "found": [one.to_dict() for one in self.found],
            "named": named,
            "integrated_gradients": {
                "rank_correlation": self.rank_correlation, "incomplete": self.incomplete, "images": self.compared,
            },
        }  # fmt: skip


def explain_class(
    model: nn.Module,
    labelled: tuple[Tensor, Tensor],
    target: int,
    layer: str | None = None,
    *,
    bank: ConceptBank | None = None,
    kind: str = "channels",
    count: int = 5,
    top: int = 6,
    composite: str | Composite = "epsilon_plus",
    batch_size: int = 16,
    seed: int = 0,
) -> Explanation:
    """What a class is made of; arguments as of `relevance_concepts`, and a bank of named concepts.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    images, labels = check_labelled("labelled", labelled, None)
    layer = classifier_of(model, images) if layer is None else layer
    found = relevance_concepts(
        model, (images, labels), target, layer, kind=kind, count=count, top=top, composite=composite,
        batch_size=batch_size, seed=seed,
    )  # fmt: skip
    named = None if bank is None else concept_bottleneck(model, bank, (images, labels), seed=seed)
    few = (labels == target).nonzero()[:COMPARED, 0]
    other = integrated_gradients(model, images[few], labels[few], batch_size=batch_size)
    with inference_mode(model), torch.enable_grad():
        own = relevance(model, images[few], labels[few], composite=composite, layers=()).input
    alike = agreement(own.float(), other.attributions.float()).mean()
    return Explanation(target, layer, tuple(found), bank, named, float(alike), float(other.error.median()), len(few))
