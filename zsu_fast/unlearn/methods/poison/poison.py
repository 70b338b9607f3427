"""Forget a class by learning it as another one (arXiv 2405.15662): the classifier alone, on features that are kept.

The source pastes patches of another class into the images of the class, labels them with that class and tunes the
classifier. Here each image goes through the layers before it once, not once an epoch; each is learned as the class that
it looks like; patches, where they are asked for, lie where the relevance is; and an ablation tells what they are good
for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.concepts import ConceptBank, Reading
from zsu_fast.evaluate.given import check_int
from zsu_fast.evaluate.inference import logits_of
from zsu_fast.lrp import Composite, UncoveredFunctionError
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.edits import Edits, Slice
from zsu_fast.unlearn.methods.base import FORGET, RETAIN, Given, Method, Proposal
from zsu_fast.unlearn.methods.baselines.baseline import BatchOptions, default
from zsu_fast.unlearn.methods.kept_features import kept_features, shortcut
from zsu_fast.unlearn.methods.lra_npp import LraNpp, LraNppOptions
from zsu_fast.unlearn.methods.poison import patches
from zsu_fast.unlearn.methods.poison.ablation import BOTH, CUT, LABELS, ORIGINAL, PATCH, Judges, ablation, split
from zsu_fast.unlearn.methods.poison.head import Rates, tuned
from zsu_fast.unlearn.methods.training import EndlessBatches, Values, descend, taught
from zsu_fast.unlearn.options import check_layers, check_positive, option
from zsu_fast.unlearn.shard import Shard
from zsu_fast.unlearn.structure import Head, Structure

SHARES = {"relevance": 2 / 7, "concept": 2 / 7, "centre": 3 / 7, "random": 3 / 7, "full": 5 / 7, "none": 0.0}
"""Side of the patch as a share of the picture's, by where it lies; the source has 64, 96 and 160 of 224 pixels."""
FEW = 36  # images of the class for the cut without training
DONORS = 64  # images that patches are cut from: each takes a relevance pass


@dataclass(frozen=True)
class PoisonOptions(BatchOptions):
    labels: str = option(
        "What images of the class are learned as: nearest (each as the kept class that it is most taken for), targeted "
        "(all as the donor class), random (any kept class), kept (the class itself).",
        "nearest",
        choices=("nearest", "targeted", "random", "kept"),
    )
    donor: int | None = option(
        "The class that gives label and patches, but for nearest.", shown="the kept class that most are taken for"
    )
    patch: str = option(
        "Where a patch of a donor image goes: relevance (from its peak to the image's), concept (likewise, of the "
        "relevance for a concept), centre, random, full (most of the picture), none.",
        "none",
        choices=tuple(SHARES),
    )
    bank: str | None = option("For patch=concept: file of a bank, as zsu-fast concepts --save-bank writes it.")
    concept: str | None = option("The concept, by its name there.")
    side: float | None = option("Side of the patch, as a share of the picture's.", shown="2/7; centre, random 3/7; 5/7")
    composite: str | Composite | None = option(
        "Rules of the relevance pass.", shown="epsilon_plus, attnlrp with attention heads"
    )
    layers: tuple[str, ...] | None = option(
        "These layers learn too: then the net runs for every mini-batch.",
        shown="the classifier alone, on kept features",
    )
    epochs: int = option("Passes through the images, or their kept features.", 20)
    learning_rate: float = option("Of SGD.", 0.01)
    momentum: float = option("Of SGD.", 0.9)
    weight_decay: float = option("Share of the weights that is added to their gradient.", 0.0)
    train_batch_size: int = default(BatchOptions, "train_batch_size", 32)
    ablation: bool = option(
        "Also measure labels alone, patch alone (at the relevance where none is asked for), a cut without training.",
        False,
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", check_layers(self.layers))
        super().__post_init__()

    def check(self) -> None:
        super().check()
        check_int("epochs", self.epochs, 1)
        check_positive("learning_rate", self.learning_rate)
        for name in ("momentum", "weight_decay"):
            check_positive(name, getattr(self, name), or_zero=True)
        if self.momentum >= 1:
            raise ValueError(f"momentum: expected less than 1, got {self.momentum}")
        if self.donor is not None:
            check_int("donor", self.donor, 0)
        if not isinstance(self.ablation, bool):
            raise TypeError(f"ablation: expected True or False, got {self.ablation!r}")
        if self.side is not None:
            check_positive("side", self.side)
            if self.side > 1:
                raise ValueError(f"side: expected a share of the picture's side, at most 1, got {self.side}")
        if self.donor is not None and self.labels == "nearest":
            raise ValueError('donor: labels "nearest" have none; "targeted" takes one')
        if (self.patch == "concept") != (self.bank is not None and self.concept is not None):
            raise ValueError('bank, concept: patch "concept" needs both, and no other does')
        if self.labels == "kept" and self.patch == "none":
            raise ValueError('labels: "kept" without a patch leaves nothing to learn')

    @property
    def rates(self) -> Rates:
        return Rates(self.epochs, self.learning_rate, self.momentum, self.weight_decay, self.train_batch_size)


@dataclass(frozen=True, eq=False)
class _Lesson:
    """Features of the class's images as they are and with a patch, of the others, and what each is learned as."""

    head: Head
    clean: Tensor
    patched: Tensor
    kept: Tensor
    labels: Tensor  # of the class's images, as they are
    aims: Tensor  # what they are learned as
    kept_labels: Tensor


class Poison(Method):
    """Tune the classifier on the others and on poisoned images of the class, all of them labelled training images.

    With the classifier alone the features stay bit for bit: what is forgotten is forgotten by the answers alone. It is
    no zero-shot method, and the record says so. Random labels are drawn from the kept classes (the source's may be the
    class itself).
    """

    name: ClassVar[str] = "poison"
    options: ClassVar[type[PoisonOptions]] = PoisonOptions
    needs: ClassVar[frozenset[str]] = frozenset({FORGET, RETAIN})
    until: ClassVar[float] = 0.02
    reads_classifier: ClassVar[bool] = True
    folds: int = 1
    learns: ClassVar[bool] = True
    resumable: ClassVar[bool] = True

    asked: PoisonOptions

    def __init__(self, options: PoisonOptions) -> None:
        super().__init__(options)
        self._found: dict[str, Any] = {}
        self._donor: int | None = options.donor
        self._where = "relevance" if options.ablation and options.patch == "none" else options.patch

    def check_model(self, structure: Structure) -> None:
        if structure.head is None:
            raise ValueError(f'method: "poison" tunes a classifier, and {structure.no_head}')
        known = [name for name in structure.layers if name != structure.head.name]
        for name in self.asked.layers or ():
            if name not in known:
                raise ValueError(f"layers: no layer {name!r} before the classifier; there are {', '.join(known)}")

    def propose(self, given: Given) -> Iterator[Proposal]:
        asked, head, tensors = self.asked, given.structure.head, Tensors(given.model)
        assert head is not None and given.retain is not None
        images, others = given.images, given.retain[0]
        if self._where != "none" and (images.dim() != 4 or not images.is_floating_point()):
            raise ValueError(
                f"patch: needs pictures, floating point [N, C, H, W], got {images.dtype} of shape "
                f'{tuple(images.shape)}; "none" does without'
            )
        kept, kept_logits = kept_features(given, head, asked.batches(others), "features of the others")
        given.note(kept_logits)
        clean, logits = given.classified or kept_features(given, head, asked.batches(images), "features of the class")
        generator = torch.Generator().manual_seed(asked.seed)
        aims, donors = self._aims(given, logits, generator)
        poisoned, patched = images, clean
        if self._where != "none":
            try:
                poisoned = self._poisoned(given, donors, generator)
                patched, _ = kept_features(given, head, asked.batches(poisoned), "features of the poisoned")
            except (ValueError, UncoveredFunctionError) as error:
                if asked.patch != "none":
                    raise
                said = f"The patch was not tried: {' '.join(str(error).split())}"
                self._found = {"ablation": {"rows": [], "patch_adds": None, "said": said}}
        lesson = _Lesson(head, clean, patched, kept, given.labels, aims, given.retain[1])
        if asked.ablation and not self._found:
            self._found = {"ablation": self._ablation(given, lesson)}

        if asked.layers is not None:
            learn = partial(self._learn, images if asked.patch == "none" else poisoned, aims)
            yield replace(taught(given, learn, asked.seed), mode=f"{asked.labels} labels, {len(asked.layers)} layers")
            return

        def choose(admitted: Tensor | None, _: Tensor | None) -> Values:
            own = slice(None) if admitted is None else admitted.to(given.labels.device)
            learned = clean if asked.patch == "none" else patched
            weight, bias = self._tuned(given, lesson, learned[own], aims[own], kept, lesson.kept_labels)
            return Values(_written(tensors, head, weight, bias))

        yield Proposal(
            (), f"{asked.labels} labels", choose, 1,
            quick=shortcut(tensors, head, Shard.of(clean, asked.batch(clean)), logits),
            quick_retain=shortcut(tensors, head, Shard.of(kept, asked.batch(kept)), kept_logits),
        )  # fmt: skip

    def described(self, given: Given) -> dict[str, Any]:
        return {
            "donor": self._donor,
            "needs": sorted(self.needs),
            "zero_shot": False,
            "data": f"labelled images to learn from: {len(given.images)} of the class and "
            f"{0 if given.retain is None else len(given.retain[0])} of others",
        }

    def findings(self) -> dict[str, Any]:
        return self._found

    def remark(self, edits: Edits, structure: Structure) -> str:
        said = "It learned from labelled images, it is not zero-shot."
        if self.asked.layers is not None:
            return said
        kept = "Only the classifier was tuned: the features are what they were, bit for bit, and know it as before."
        return f"{kept} {said}"

    # --- poison

    def _aims(self, given: Given, logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """int64 [N] each: what the images of the class are learned as, and the classes that their patches come from."""
        labels, asked, classes = given.labels, self.asked, logits.shape[1]
        others = [c for c in range(classes) if c not in given.targets]
        if not others:
            raise ValueError("target: names every class of the model, so there is no other label to learn")
        if asked.donor is not None and asked.donor not in others:
            raise ValueError(
                f"donor: expected a class of 0..{classes - 1} that is not to be forgotten, got {asked.donor}"
            )
        among = torch.tensor(others, device=labels.device)
        if asked.labels == "nearest":
            nearest = among[logits[:, others].argmax(1)]
            return nearest, nearest
        donor = self._donor = int(among[logits[:, others].mean(0).argmax()]) if asked.donor is None else asked.donor
        donors = torch.full_like(labels, donor)
        if asked.labels == "random":
            return among[torch.randint(len(others), labels.shape, generator=generator).to(labels.device)], donors
        return (donors if asked.labels == "targeted" else labels), donors

    def _poisoned(self, given: Given, donors: Tensor, generator: torch.Generator) -> Tensor:
        """The images of the class, each with a patch of an image of its donor class that is drawn for it."""
        asked, images = self.asked, given.images
        assert given.retain is not None
        others, kinds = given.retain[0], given.retain[1].cpu()
        wanted = donors.cpu()
        drawn = torch.empty(len(images), dtype=torch.int64)  # indices of retain images
        for kind in wanted.unique().tolist():
            pool = (kinds == kind).nonzero()[:, 0]
            if not len(pool):
                raise ValueError(f"donor: retain_probes hold no image of class {kind} to take patches from")
            few = pool[torch.randperm(len(pool), generator=generator)[: max(8, DONORS // len(wanted.unique()))]]
            own = wanted == kind
            drawn[own] = few[torch.randint(len(few), (int(own.sum()),), generator=generator)]
        used, place = drawn.unique(return_inverse=True)
        pool = others[used.to(others.device)].to(images)
        size = patches.patch_size(images, SHARES[self._where] if asked.side is None else asked.side)
        if self._where in ("relevance", "concept"):
            at = self._peaks(given, images, given.labels, size)
            donors_at = self._peaks(given, pool, kinds[used].to(given.labels), size)
        else:
            draws = self._where == "random"
            at = patches.anywhere(images, size, generator) if draws else patches.centred(images, size)
            donors_at = patches.centred(pool, size)
        return patches.pasted(images, at, pool[place.to(pool.device)], donors_at[place], size)

    def _peaks(self, given: Given, images: Tensor, labels: Tensor, size: patches.Size) -> Tensor:
        composite = self.asked.composite or ("attnlrp" if given.structure.heads else "epsilon_plus")
        given.count(len(images))
        batch, model = self.asked.batch(images), given.model
        if self._where == "concept":
            bank = ConceptBank.load(str(self.asked.bank))
            at, (vectors, offsets) = bank.index(str(self.asked.concept)), bank.unit()
            model = Reading(model, bank.layer, vectors[at : at + 1], offsets[at : at + 1])
            labels = torch.full_like(labels, given.structure.classes)  # its margin comes behind the logits
        maps = patches.relevance_maps(model, images, labels, composite, batch, given.progress)
        return patches.peaks(maps, size)

    # --- learning

    def _learn(self, own: Tensor, aims: Tensor, student: nn.Module, given: Given, _: Tensor, __: Tensor) -> None:
        """The layers and the classifier, by running the net. Norms keep their statistics."""
        assert given.retain is not None and given.structure.head is not None
        asked, structure = self.asked, given.structure
        names = {given.structure.head.weight, given.structure.head.bias}
        for layer in map(structure.layers.__getitem__, asked.layers or ()):
            names.update([layer.weight, layer.bias, *(norm.tensor for norm in layer.norms)])
        learned = []
        for name, parameter in student.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and name in names)
            learned += [parameter] if parameter.requires_grad else []
        x, y = torch.cat([own, given.retain[0].to(own)]), torch.cat([aims, given.retain[1].to(aims)])
        optimizer = torch.optim.SGD(learned, asked.learning_rate, asked.momentum, weight_decay=asked.weight_decay)
        generator = torch.Generator().manual_seed(asked.seed)
        batches = EndlessBatches(len(x), asked.train_batch_size, generator)
        stretch = given.stretch([student, optimizer, generator, batches])
        for epoch in range(asked.epochs):
            given.count(len(x))
            descend(
                partial(_loss, student, x, y, batches), learned, optimizer, batches.epoch, given.progress,
                f"epoch {epoch + 1} of {asked.epochs}", stretch, last=False,
            )  # fmt: skip

    def _tuned(
        self, given: Given, lesson: _Lesson, own: Tensor, aims: Tensor, kept: Tensor, labels: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Rows of the classifier, by class, after learning from these features."""
        weight, bias = _rows(given, lesson.head)
        generator = torch.Generator().manual_seed(self.asked.seed)
        features = torch.cat([own, kept.to(own)])
        return tuned(
            weight, bias, features, torch.cat([aims, labels.to(aims)]), self.asked.rates, generator, given.progress
        )

    def _ablation(self, given: Given, lesson: _Lesson) -> dict[str, Any]:
        """On a quarter of the images that none of these classifiers is tuned on."""
        if len(lesson.clean) < 4:
            return {"rows": [], "patch_adds": None, "said": "Too few images of the class to hold any out."}
        generator = torch.Generator().manual_seed(self.asked.seed)
        own, own_judge = split(len(lesson.clean), generator)
        kept, kept_judge = split(len(lesson.kept), generator)
        judges = Judges(
            (lesson.clean[own_judge], lesson.labels[own_judge]),
            (lesson.kept[kept_judge], lesson.kept_labels[kept_judge]),
        )
        aims = lesson.aims if self.asked.labels != "kept" else torch.full_like(lesson.aims, self._donor or 0)
        plans = {
            LABELS: (lesson.clean, aims), PATCH: (lesson.patched, lesson.labels), BOTH: (lesson.patched, aims),
        }  # fmt: skip
        found = {ORIGINAL: _rows(given, lesson.head)}
        for name, (features, wanted) in plans.items():
            found[name] = self._tuned(
                given, lesson, features[own], wanted[own], lesson.kept[kept], lesson.kept_labels[kept]
            )
        found[CUT] = _cut(given, lesson.head, own[:FEW], self.asked.seed)
        return ablation(judges, found)


def _loss(student: nn.Module, x: Tensor, y: Tensor, batches: Iterator[Tensor], step: int) -> Tensor:
    where = next(batches).to(x.device)
    return F.cross_entropy(logits_of(student(x[where])), y[where])


def _rows(given: Given, head: Head) -> tuple[Tensor, Tensor | None]:
    """Weight [classes, D] and bias [classes] of the classifier, as copies."""
    tensors = Tensors(given.model)
    bias = None if head.bias is None else tensors[head.bias][head.rows]
    return tensors[head.weight].flatten(1)[head.rows], bias


def _written(tensors: Tensors, head: Head, weight: Tensor, bias: Tensor | None) -> dict[str, Tensor]:
    """Whole new tensors of the classifier."""
    new = tensors[head.weight].clone()
    new[head.rows] = weight.view_as(new[head.rows])
    found = {head.weight: new}
    if head.bias is not None and bias is not None:
        found[head.bias] = tensors[head.bias].clone()
        found[head.bias][head.rows] = bias
    return found


def _cut(given: Given, head: Head, few: Tensor, seed: int) -> tuple[Tensor, Tensor | None]:
    """The classifier as "lra-npp" leaves it, from a few images of the class."""
    few = few.to(given.labels.device)
    asked = Given(
        given.model, given.structure, given.targets, given.images[few], given.labels[few], None, given.forward,
        given.count, given.progress,
    )  # fmt: skip
    choice = next(LraNpp(LraNppOptions(seed=seed)).propose(asked)).choose(None, None)
    tensors = Tensors(given.model)
    whole = tensors[head.weight].flatten(1).clone()
    for piece in choice.edits(choice.largest):
        assert isinstance(piece, Slice) and piece.row is not None
        whole[piece.row, list(piece.indices)] *= -1 if piece.mode == "invert" else 0
    bias = None if head.bias is None else tensors[head.bias][head.rows]
    return whole[head.rows], bias
