"""Forget a class by learning it as another one (arXiv 2405.15662): the classifier alone, on features that are kept.

The source pastes patches of another class into the images of the class, labels them with that class and tunes the
classifier. Here each image goes through the layers before it once, not once an epoch; patches lie where the relevance
is; and the ablation that tells what the patch is good for is part of every record.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from zsu_fast.evaluate.given import check_int
from zsu_fast.lrp import Composite
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.edits import Edits, Slice
from zsu_fast.unlearn.methods.base import FORGET, RETAIN, Given, Method, Proposal
from zsu_fast.unlearn.methods.baselines.baseline import BatchOptions, default
from zsu_fast.unlearn.methods.kept_features import kept_features, shortcut
from zsu_fast.unlearn.methods.lra_npp import LraNpp, LraNppOptions
from zsu_fast.unlearn.methods.poison import patches
from zsu_fast.unlearn.methods.poison.ablation import BOTH, CUT, LABELS, ORIGINAL, PATCH, Judges, ablation, split
from zsu_fast.unlearn.methods.poison.head import Rates, tuned
from zsu_fast.unlearn.methods.training import Values
from zsu_fast.unlearn.options import check_positive, option
from zsu_fast.unlearn.structure import Head, Structure

SHARES = {"relevance": 2 / 7, "centre": 3 / 7, "random": 3 / 7, "full": 5 / 7, "none": 0.0}
"""Side of the patch as a share of the picture's, by where it lies; the source has 64, 96 and 160 of 224 pixels."""
FEW = 36  # images of the class for the cut without training
DONORS = 64  # images that patches are cut from: each takes a relevance pass


@dataclass(frozen=True)
class PoisonOptions(BatchOptions):
    labels: str = option(
        "What images of the class are learned as: targeted (the donor class), random (any kept class), kept.",
        "targeted",
        choices=("targeted", "random", "kept"),
    )
    donor: int | None = option(
        "The class that gives label and patches.", shown="the kept class that they are most taken for"
    )
    patch: str = option(
        "Where a patch of a donor image goes: relevance (from its peak to the image's), centre, random, full (most of "
        "the picture), none.",
        "relevance",
        choices=tuple(SHARES),
    )
    side: float | None = option("Side of the patch, as a share of the picture's.", shown="2/7; centre, random 3/7; 5/7")
    composite: str | Composite | None = option(
        "Rules of the relevance pass.", shown="epsilon_plus, attnlrp with attention heads"
    )
    epochs: int = option("Passes through the kept features.", 20)
    learning_rate: float = option("Of SGD.", 0.01)
    momentum: float = option("Of SGD.", 0.9)
    weight_decay: float = option("Share of the weights that is added to their gradient.", 0.0)
    train_batch_size: int = default(BatchOptions, "train_batch_size", 32)
    ablation: bool = option("Also measure labels alone, patch alone and the cut without training.", True)

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

    The features stay bit for bit: what is forgotten is forgotten by the answers alone. It is no zero-shot method, and
    the record says so. Random labels are drawn from the kept classes (the source's may be the class itself).
    """

    name: ClassVar[str] = "poison"
    options: ClassVar[type[PoisonOptions]] = PoisonOptions
    needs: ClassVar[frozenset[str]] = frozenset({FORGET, RETAIN})
    until: ClassVar[float] = 0.02
    folds: int = 1
    learns: ClassVar[bool] = True

    asked: PoisonOptions

    def __init__(self, options: PoisonOptions) -> None:
        super().__init__(options)
        self._found: dict[str, Any] = {}
        self._donor: int | None = options.donor

    def check_model(self, structure: Structure) -> None:
        if structure.head is None:
            raise ValueError(f'method: "poison" tunes a classifier, and {structure.no_head}')

    def propose(self, given: Given) -> Iterator[Proposal]:
        asked, head, tensors = self.asked, given.structure.head, Tensors(given.model)
        assert head is not None and given.retain is not None
        images, others = given.images, given.retain[0]
        if asked.patch != "none" and (images.dim() != 4 or not images.is_floating_point()):
            raise ValueError(
                f"patch: needs pictures, floating point [N, C, H, W], got {images.dtype} of shape "
                f'{tuple(images.shape)}; "none" does without'
            )
        kept, kept_logits = kept_features(given, head, asked.batches(others), "features of the others")
        given.note(kept_logits)
        clean, logits = kept_features(given, head, asked.batches(images), "features of the class")
        donor = self._donor = self._donor_class(given, logits)
        generator = torch.Generator().manual_seed(asked.seed)
        patched = clean
        if asked.patch != "none":
            poisoned = self._poisoned(given, donor, generator)
            patched, _ = kept_features(given, head, asked.batches(poisoned), "features of the poisoned")
        aims = self._aims(given, logits.shape[1], donor, generator)
        lesson = _Lesson(head, clean, patched, kept, given.labels, aims, given.retain[1])
        if asked.ablation:
            self._found = {"ablation": self._ablation(given, lesson)}

        def choose(admitted: Tensor | None, _: Tensor | None) -> Values:
            own = slice(None) if admitted is None else admitted.to(given.labels.device)
            weight, bias = self._tuned(given, lesson, patched[own], aims[own], kept, lesson.kept_labels)
            return Values(_written(tensors, head, weight, bias))

        yield Proposal(
            (), f"{asked.labels} labels", choose, 1,
            quick=shortcut(tensors, head, clean, logits),
            quick_retain=shortcut(tensors, head, kept, kept_logits),
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
        return (
            "Only the classifier was tuned: the features are what they were, bit for bit, and know it as before. It "
            "learned from labelled images, it is not zero-shot."
        )

    # --- poison

    def _donor_class(self, given: Given, logits: Tensor) -> int:
        """The kept class with the largest mean logit on the images of the class, unless the user names one."""
        asked, donor = self.asked, self.asked.donor
        classes = logits.shape[1]
        if donor is None:
            mean = logits.float().mean(0)
            mean[list(given.targets)] = -torch.inf
            donor = int(mean.argmax())
        elif donor >= classes or donor in given.targets:
            raise ValueError(f"donor: expected a class of 0..{classes - 1} that is not to be forgotten, got {donor}")
        assert given.retain is not None
        if asked.patch != "none" and not bool((given.retain[1] == donor).any()):
            raise ValueError(f"donor: retain_probes hold no image of class {donor} to take patches from")
        return donor

    def _aims(self, given: Given, classes: int, donor: int, generator: torch.Generator) -> Tensor:
        labels = given.labels
        if self.asked.labels == "targeted":
            return torch.full_like(labels, donor)
        if self.asked.labels == "kept":
            return labels
        others = torch.tensor([c for c in range(classes) if c not in given.targets])
        return others[torch.randint(len(others), labels.shape, generator=generator)].to(labels.device)

    def _poisoned(self, given: Given, donor: int, generator: torch.Generator) -> Tensor:
        """The images of the class, each with a patch of a donor image that is drawn for it."""
        asked, images = self.asked, given.images
        assert given.retain is not None
        found = (given.retain[1] == donor).nonzero()[:, 0].cpu()
        found = found[torch.randperm(len(found), generator=generator)[:DONORS]]
        pool = given.retain[0][found.to(given.retain[0].device)].to(images)
        drawn = torch.randint(len(pool), (len(images),), generator=generator)
        size = patches.patch_size(images, SHARES[asked.patch] if asked.side is None else asked.side)
        if asked.patch == "relevance":
            at = self._peaks(given, images, given.labels, size)
            donors_at = self._peaks(given, pool, torch.full_like(given.labels[:1], donor).expand(len(pool)), size)
        else:
            donors_at = patches.centred(pool, size)
            draws = asked.patch == "random"
            at = patches.anywhere(images, size, generator) if draws else patches.centred(images, size)
        return patches.pasted(images, at, pool[drawn.to(pool.device)], donors_at[drawn], size)

    def _peaks(self, given: Given, images: Tensor, labels: Tensor, size: patches.Size) -> Tensor:
        composite = self.asked.composite or ("attnlrp" if given.structure.heads else "epsilon_plus")
        given.count(len(images))
        batch = self.asked.batch(images)
        maps = patches.relevance_maps(given.model, images, labels, composite, batch, given.progress)
        return patches.peaks(maps, size)

    # --- learning

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
        plans = {LABELS: (lesson.clean, aims)}
        if self.asked.patch != "none":
            plans |= {PATCH: (lesson.patched, lesson.labels), BOTH: (lesson.patched, aims)}
        found = {ORIGINAL: _rows(given, lesson.head)}
        for name, (features, wanted) in plans.items():
            found[name] = self._tuned(
                given, lesson, features[own], wanted[own], lesson.kept[kept], lesson.kept_labels[kept]
            )
        found[CUT] = _cut(given, lesson.head, own[:FEW], self.asked.seed)
        return ablation(judges, found)


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
