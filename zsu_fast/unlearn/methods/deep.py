"""Forget in the features: keep of them what the other classes' answers rest on, and let nothing else of them vary.

The answers among the kept classes are a function of the features' part in the span of the differences of their rows of
the classifier: only there do features carry relevance for a kept class against another. What lies across that span
tells nothing of the kept classes, and it is what a probe finds a class by whose row was cut. So a copy of the model is
taught, on few images and without labels, to give the same part in the span, and across it features of as small a volume
as the arithmetic allows, whatever the image is, above all along the direction in which the class's own row reads.
Images of the class move, in the span, to where their look-alikes lie.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.given import check_int
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.methods.base import FORGET, RETAIN, Given, Method, Proposal
from zsu_fast.unlearn.methods.entry_module import entered, entry_module, inputs_kept
from zsu_fast.unlearn.methods.training import EndlessBatches, Values, descend, values_of_learning
from zsu_fast.unlearn.methods.views import MEMORY, answered_alike_mirrored, views
from zsu_fast.unlearn.options import Options, check_layers, check_positive, option
from zsu_fast.unlearn.structure import Head, Structure
from zsu_fast.unlearn.watch import classifier_input, classifier_inputs

FLOOR = 1e-3
"""Variance across the span, in units of the mean one in it, below which a direction counts as still."""
WEAKER = 4.0
"""By how much pressure and contrast fall from one attempt to the next."""
RISE = 0.15
"""Share of the steps in which the learning rate rises to its peak."""
ATTEMPTS = 3


@dataclass(frozen=True)
class DeepOptions(Options):
    pressure: float = option(
        "Weight of what varies across the span beside the error in it; less if the floor breaks.", 0.1
    )
    contrast: float = option("Weight of what varies along the class's own row across the span; falls likewise.", 0.3)
    shift: float = option("Share of the way from the class's centre to that of its look-alikes, in the span.", 1.0)
    steps: int | None = option("Steps of Adam.", shown="75 where norms stand on the layers that learn, else 225")
    learning_rate: float = option("Of Adam, at its peak: it rises from 0 and falls back to it.", 3e-3)
    train_batch_size: int = option("Images in a step.", 128)
    views: int = option(
        "Shifted variants of each image, flipped where the model answers those alike; at most 512 MiB.", 10
    )
    folds: int = option("Parts of the images that are held out in turn to judge by; 1: none, for evaluate_on alone.", 2)
    layers: tuple[str, ...] | None = option("Only these layers learn.", shown="the last third of them, at least four")

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", check_layers(self.layers))
        super().__post_init__()

    def check(self) -> None:
        super().check()
        if self.steps is not None:
            check_int("steps", self.steps, 1)
        for name, low in (("train_batch_size", 2), ("views", 1), ("folds", 1)):
            check_int(name, getattr(self, name), low)
        for name in ("pressure", "learning_rate"):
            check_positive(name, getattr(self, name))
        for name in ("contrast", "shift"):
            check_positive(name, getattr(self, name), or_zero=True)


class Deep(Method):
    """Needs images of the class and of the others that the model was not trained on; dozens are enough.

    The row of a forgotten class becomes the mean of the kept ones, and its bias their mean less the mean lead of the
    best kept logit: it is then below the best of them for every image (without a bias not above it: a tie remains).
    """

    name: ClassVar[str] = "deep"
    options: ClassVar[type[DeepOptions]] = DeepOptions
    needs: ClassVar[frozenset[str]] = frozenset({FORGET, RETAIN})
    until: ClassVar[float] = 0.02
    learns: ClassVar[bool] = True
    resumable: ClassVar[bool] = True

    asked: DeepOptions

    def __init__(self, options: DeepOptions) -> None:
        super().__init__(options)
        self.folds = options.folds

    def check_model(self, structure: Structure) -> None:
        if structure.head is None:
            raise ValueError(f'method: "deep" needs a classifier, and {structure.no_head}')
        known = [name for name in structure.layers if name != structure.head.name]
        for name in self.asked.layers or ():
            if name not in known:
                raise ValueError(f"layers: no layer {name!r} before the classifier; there are {', '.join(known)}")
        if not known:
            raise ValueError('method: "deep" teaches layers before the classifier, and the model has none')

    def propose(self, given: Given) -> Iterator[Proposal]:
        assert given.retain is not None
        images = torch.cat([given.images, given.retain[0].to(given.images)])
        forgotten = torch.arange(len(images), device=images.device) < len(given.images)

        @cache
        def whole() -> _Pool:
            return self._pool(given, images, forgotten)

        def choose(weight: float, admitted: Tensor | None, kept: Tensor | None) -> Values:
            chosen = torch.ones_like(forgotten)
            for part, mask in ((forgotten, admitted), (~forgotten, kept)):
                if mask is not None:
                    chosen[part] = mask.to(chosen.device)

            def change(student: nn.Module) -> None:
                # Variants of a picture are its own; those of other inputs are mixed with other images.
                own = images.dim() == 4
                pool = whole().of(chosen) if own else self._pool(given, images[chosen], forgotten[chosen])
                self._learn(student, given, pool, weight)

            return values_of_learning(given.model, change, self.asked.seed)

        for attempt in range(ATTEMPTS):
            weight = WEAKER**-attempt
            yield Proposal((), f"pressure {self.asked.pressure * weight:g}", partial(choose, weight), 1)

    def described(self, given: Given) -> dict[str, Any]:
        return {"steps": self._steps(given.structure)}

    def _steps(self, structure: Structure) -> int:
        """As many as a ResNet-20 and LeNets took to what more steps did not deepen: norms make the way shorter."""
        layers = map(structure.layers.__getitem__, _layers(structure, self.asked.layers))
        return self.asked.steps or (75 if any(layer.norms for layer in layers) else 225)

    def _pool(self, given: Given, images: Tensor, forgotten: Tensor) -> _Pool:
        head = given.structure.head
        assert head is not None
        weight = Tensors(given.model).held(head.weight)
        flips = answered_alike_mirrored(given.forward, images)
        pool = views(images, self.asked.views, torch.Generator().manual_seed(self.asked.seed), flips)
        entry = _entry(given, weight, _layers(given.structure, self.asked.layers), pool)
        with inputs_kept(None if entry is None else given.model.get_submodule(entry)) as kept:
            features, logits = classifier_inputs(given.model, weight, self.asked.batches(pool))
        inputs = pool if entry is None else torch.cat(kept)
        return _Pool(inputs, features, logits, forgotten.repeat(len(pool) // len(images)), entry, pool[:1])

    def _learn(self, student: nn.Module, given: Given, pool: _Pool, weight: float) -> None:
        asked, head, generator = self.asked, given.structure.head, torch.Generator().manual_seed(self.asked.seed)
        assert head is not None
        rows = Tensors(given.model).held(head.weight).detach().flatten(1)[head.rows]
        span = kept_span(rows, given.targets).to(pool.features)
        still = _Still(span, own_directions(rows, given.targets, span), pool.features)
        aims = _shifted(pool.features, pool.logits, pool.forgotten, given.targets, asked.shift)
        parameters = _learned(student, given.structure, _layers(given.structure, asked.layers))
        optimizer = torch.optim.Adam(parameters, lr=asked.learning_rate)
        steps = self._steps(given.structure)
        batches = EndlessBatches(len(aims), min(asked.train_batch_size, len(aims)), generator)
        own = Tensors(student).held(head.weight)

        def loss_of(step: int) -> Tensor:
            done = (step + 0.5) / steps
            for group in optimizer.param_groups:
                group["lr"] = asked.learning_rate * min(done / RISE, (1 - done) / (1 - RISE))
            where = next(batches).to(aims.device)
            given.count(len(where))
            found = pool.features_of(student, own, where)
            return still.loss(found, aims[where], weight * asked.pressure, weight * asked.contrast)

        stretch = given.stretch([student, optimizer, generator, batches])
        descend(loss_of, parameters, optimizer, steps, given.progress, "features", stretch)
        silence(Tensors(student), head, given.targets, pool.logits)


@dataclass(frozen=True)
class _Pool:
    """Images [N, ...], or what the module `entry` of the model gets of them, and what the model makes of them."""

    inputs: Tensor
    features: Tensor  # [N, D]
    logits: Tensor  # [N, classes]
    forgotten: Tensor  # bool [N]
    entry: str | None
    image: Tensor  # one, to call the model with where `entry` has its inputs from here

    def of(self, chosen: Tensor) -> _Pool:
        """All views of some of the images."""
        if bool(chosen.all()):
            return self
        where = chosen.repeat(len(self.inputs) // len(chosen)).nonzero()[:, 0]
        inputs, features, logits, forgotten = (
            part[where] for part in (self.inputs, self.features, self.logits, self.forgotten)
        )
        return _Pool(inputs, features, logits, forgotten, self.entry, self.image)

    def features_of(self, student: nn.Module, weight: Tensor, where: Tensor) -> Tensor:
        """[M, D], as a student has them whose classifier has that weight."""
        if self.entry is None:
            return classifier_input(student, weight, self.inputs[where])[0]
        with entered(student.get_submodule(self.entry), self.inputs[where]):
            return classifier_input(student, weight, self.image)[0]


class _Still:
    """The loss: features keep their part in a span, and what lies across it gets a small volume."""

    def __init__(self, span: Tensor, own: Tensor, features: Tensor) -> None:
        self.span, self.own = span, own
        part = (features - features.mean(0)) @ (span.T if len(span) else torch.eye(features.shape[1]).to(features))
        self.energy = part.square().sum(1).mean().clamp_min(torch.finfo(features.dtype).tiny)
        self.unit = self.energy / part.shape[1]
        self.across = features.shape[1] - len(span)

    def loss(self, found: Tensor, wanted: Tensor, pressure: float, contrast: float) -> Tensor:
        """Squared error in the span, relative; variance along `own`; and the mean log-variance over the directions
        across the span.

        By logarithms, since a probe scales each direction before it reads it: what is left of a small one counts as
        much as of a large one. log det(cov + floor) over directions is that over images of their Gram matrix, but for
        a constant (Sylvester).
        """
        error = ((found - wanted) @ self.span.T).square().sum(1).mean() / self.energy
        if not self.across:
            return error
        centred = found - found.mean(0)
        across = centred - centred @ self.span.T @ self.span
        gram = across @ across.T / (len(found) * self.unit)
        volume = torch.logdet(gram + FLOOR * torch.eye(len(found)).to(gram))
        read = (centred @ self.own.T).square().sum(1).mean() / self.unit
        return error + contrast * read + pressure * volume / self.across


def _shifted(features: Tensor, logits: Tensor, forgotten: Tensor, targets: Sequence[int], share: float) -> Tensor:
    """Features to aim at: those of images to forget move from the centre of theirs to that of their look-alikes.

    Images look like the kept class that they are most taken for, among those of which there are kept images: of a
    thousand classes few are at hand. Its centre is that of the kept images of that answer.
    """
    kept = logits.clone()
    kept[:, list(targets)] = -torch.inf
    like, aims = kept.argmax(1), features.clone()
    absent = torch.ones(kept.shape[1], dtype=torch.bool, device=kept.device)
    absent[like[~forgotten]] = False
    like[forgotten] = kept[forgotten].masked_fill(absent, -torch.inf).argmax(1)
    for c in like[forgotten].unique().tolist():
        own, others = forgotten & (like == c), ~forgotten & (like == c)
        if bool(others.any()):
            aims[own] += share * (features[others].mean(0) - features[own].mean(0))
    return aims


def kept_span(rows: Tensor, targets: Sequence[int]) -> Tensor:
    """[K, D], orthonormal: the span of the differences of the rows [classes, D] that do not belong to `targets`."""
    kept = rows[[c for c in range(len(rows)) if c not in targets]].double()
    _, sizes, directions = torch.linalg.svd(kept - kept.mean(0), full_matrices=False)
    return directions[sizes > 1e-5 * sizes.max()]


def own_directions(rows: Tensor, targets: Sequence[int], span: Tensor) -> Tensor:
    """[K, D], orthonormal: how rows of `targets` read a class against the mean of the kept ones, across `span`."""
    kept = [c for c in range(len(rows)) if c not in targets]
    own = (rows[list(targets)] - rows[kept].mean(0)).double()
    across = own - own @ span.T.double() @ span.double()
    _, sizes, directions = torch.linalg.svd(across, full_matrices=False)
    return directions[sizes > 1e-5 * own.norm()].to(span)


def silence(tensors: Tensors, head: Head, targets: Sequence[int], logits: Tensor) -> None:
    """Rows of `targets` become the mean of the kept ones; see `zsu_fast.unlearn.never_largest` for what that proves."""
    kept = [c for c in range(len(head.rows)) if c not in targets]
    own, others = ([head.rows[c] for c in classes] for classes in (targets, kept))
    lead = logits[:, kept].amax(1) - logits[:, kept].mean(1)
    with torch.no_grad():
        weight = tensors[head.weight]
        weight[own] = weight[others].mean(0)
        if head.bias is not None:
            bias = tensors[head.bias]
            bias[own] = bias[others].mean() - lead.mean().to(bias)


def _layers(structure: Structure, asked: Sequence[str] | None) -> list[str]:
    """Names of the layers that learn, in execution order."""
    names = [name for name in structure.layers if structure.head is None or name != structure.head.name]
    return [name for name in names if name in asked] if asked else names[-max(4, len(names) // 3) :]


def _entry(given: Given, weight: Tensor, layers: Sequence[str], pool: Tensor) -> str | None:
    """The module from which on the model needs to run while these layers learn, if what it gets can be kept."""
    if len(pool) < 2 or any(given.structure.layers[name].runs > 1 for name in layers):
        return None

    def run(images: Tensor) -> Tensor:
        with torch.no_grad():
            return classifier_input(given.model, weight, images)[0]

    entry = entry_module(given.model, layers[0], run, pool[:2])
    if entry is None:
        return None
    with inputs_kept(given.model.get_submodule(entry)) as kept:
        run(pool[:1])
    return entry if kept[0].nbytes * len(pool) <= 2 * MEMORY else None


def _learned(student: nn.Module, structure: Structure, layers: Sequence[str]) -> list[nn.Parameter]:
    """The parameters of the layers and of the norms behind them; all others are made not to take gradients."""
    found = set()
    for layer in map(structure.layers.__getitem__, layers):
        found.update([layer.weight, layer.bias, *(norm.tensor for norm in layer.norms)])
    learned = []
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in found)
        if parameter.requires_grad:
            learned.append(parameter)
    return learned
