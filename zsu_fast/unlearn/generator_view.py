"""A generator behind its judge, and what is seen of it on given latents."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.generated import frechet_distance, precision_recall, roughness
from zsu_fast.evaluate.inference import logits_of
from zsu_fast.evaluate.intervals import wilson_interval
from zsu_fast.unlearn.requests import Batches
from zsu_fast.unlearn.watch import classifier_input, trace_structure

CONFIDENT = 0.8
FEW = 1000
"""So many images are compared two by two."""


class GeneratorView(nn.Module):
    """Latents -> the judge's logits of the images that the model makes of them."""

    judge: nn.Module
    second: nn.Module | None
    features: nn.Module | None

    def __init__(
        self,
        model: nn.Module,
        beside: Mapping[str, nn.Module | None],
        generate: Callable[[nn.Module, Tensor], Tensor] | None = None,
    ) -> None:
        """beside: "judge", and what else runs: it is held, so that it is in evaluation mode and stays as it is."""
        super().__init__()
        self.model, self._generate = model, generate
        for name in ("judge", "second", "features", *beside):
            self.register_module(name, beside.get(name))

    def images(self, latents: Tensor) -> Tensor:
        found = self.model(latents) if self._generate is None else self._generate(self.model, latents)
        if not isinstance(found, Tensor) or found.dim() < 2 or len(found) != len(latents):
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ValueError(f"expected images [{len(latents)}, ...] of so many latents, got {got}")
        return found

    def forward(self, latents: Tensor) -> Tensor:
        return logits_of(self.judge(self.images(latents)))


@dataclass(frozen=True, eq=False)
class Seen:
    """What a generator makes of some latents.

    labels: int64 [N] by the judge. made, made_second: how many of the classes that are to go, by either judge.
    accuracy: of the latents of other classes, the share that have the class that they had in the unedited model.
    confident: of the latents whose images were of the classes to go, the share whose images the judge takes for one
    class (before: whichever, after: another) with a probability of at least `CONFIDENT`: others lie in no class.
    roughness: of their neighbourhoods, see `zsu_fast.evaluate.generated.roughness`. frechet, precision, recall: to the
    reference, all images that are made together. features: of the images, float [N, D], where there are any.
    """

    labels: Tensor
    made: int
    made_second: int | None
    accuracy: float | None
    confident: float | None
    roughness: float | None
    frechet: float | None
    precision: float | None
    recall: float | None
    features: Tensor | None

    def to_dict(self) -> dict[str, Any]:
        total = len(self.labels)
        found: dict[str, Any] = {"latents": total}
        for name, made in (("share", self.made), ("second_share", self.made_second)):
            found[name] = None if made is None else made / total
            found[f"{name}_interval"] = None if made is None else list(wilson_interval(made, total))
        counts = self.labels.bincount().tolist()
        return found | {
            "per_class": {str(label): count / total for label, count in enumerate(counts)},
            "kept_same": self.accuracy,
            "confident": self.confident,
            "roughness": self.roughness,
            "frechet": self.frechet,
            "precision": self.precision,
            "recall": self.recall,
        }


def look(
    view: GeneratorView,
    latents: Tensor,
    targets: Sequence[int],
    batches: Batches,
    first: Seen | None,
    reference: Tensor | None,
    seed: int,
) -> Seen:
    """first: of the same latents, by the unedited model; None if it is this one that runs."""
    features_of = _features_of(view, latents[:2])
    gone = torch.tensor(list(targets), device=latents.device)
    logits, others, features = [], [], []
    for batch in batches(latents):
        images = view.images(batch)
        found, answer = features_of(images)
        features.append(found)
        logits.append(answer)
        if view.second is not None:
            others.append(torch.isin(logits_of(view.second(images)).argmax(1), gone))
    probabilities = torch.cat(logits).softmax(1)
    labels = probabilities.argmax(1)
    before = labels if first is None else first.labels
    was = torch.isin(before, gone)
    sure = probabilities if first is None else probabilities.index_fill(1, gone, 0.0)
    every = None if features[0] is None else torch.cat([f for f in features if f is not None])
    frechet = precision = recall = None
    held = _reference(reference, features_of, batches, every if first is None else first.features, ~was)
    if every is not None and held is not None and len(held) > 3:
        frechet = frechet_distance(every, held)
        precision, recall = precision_recall(held[:FEW], every[:FEW])
    return Seen(
        labels=labels,
        made=int(torch.isin(labels, gone).sum()),
        made_second=int(torch.cat(others).sum()) if others else None,
        accuracy=float((labels == before)[~was].double().mean()) if bool((~was).any()) else None,
        confident=float((sure[was].amax(1) >= CONFIDENT).double().mean()) if bool(was.any()) else None,
        roughness=roughness(view.images, latents[was][:FEW], seed=seed) if bool(was.any()) else None,
        frechet=frechet,
        precision=precision,
        recall=recall,
        features=every,
    )


_Look = Callable[[Tensor], tuple[Tensor | None, Tensor]]


def _features_of(view: GeneratorView, latents: Tensor) -> _Look:
    """Images -> features by the given network or before the judge's classifier, if it has one, and logits."""
    given, judge = view.features, view.judge
    if given is not None:
        return lambda images: (given(images).flatten(1), logits_of(judge(images)))
    head = trace_structure(judge, view.images(latents)).head
    if head is None:
        return lambda images: (None, logits_of(judge(images)))
    weight = dict(judge.named_parameters())[head.weight]
    return lambda images: classifier_input(judge, weight, images)


def _reference(
    given: Tensor | None, features_of: _Look, batches: Batches, before: Tensor | None, kept: Tensor
) -> Tensor | None:
    """Features of the reference: the caller's images, or what the unedited model made of the latents that are kept."""
    if before is None:
        return None
    if given is None:
        return before[kept]
    found = [features_of(batch.to(before.device))[0] for batch in batches(given)]
    return torch.cat([f for f in found if f is not None])
