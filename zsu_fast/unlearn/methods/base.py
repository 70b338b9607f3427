"""What a method of forgetting is: it analyses and proposes edits of growing size. It knows no undo, verdict, files."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from zsu_fast.unlearn.checkpoint import Stretch
from zsu_fast.unlearn.edits import Edits, Slice
from zsu_fast.unlearn.options import Options
from zsu_fast.unlearn.picks import Picks, Ranking
from zsu_fast.unlearn.requests import ForgetClass, Request
from zsu_fast.unlearn.shard import Shard
from zsu_fast.unlearn.structure import Structure

Progress = Callable[[int, int, str], None]
FORGET, RETAIN = "forget images", "retain images"
NEEDS = {FORGET: "probes: images of the classes to forget", RETAIN: "retain_probes: images of other classes"}
"""What methods may work with, and the argument that gives it. Probes are always given: they measure, too."""


@dataclass(frozen=True)
class Given:
    """What a method gets: a model in evaluation mode that it must leave as it is, and the images of one request.

    images, labels: to forget, [N, ...] and int64 [N]. retain: images of other classes and their labels. forward:
    images -> logits [N, classes], batch by batch, counted. count: called with the number of images that are run with
    a backward pass. note: called with the logits of the retain images, where the analysis has them: they need not
    be run again. classified: what enters the classifier [N, D], and logits of the images, where a run already has them
    (`reads_classifier`). request: what the images and labels are of; needed by methods that take other kinds than
    classes. view: the model, or a copy of it -> what runs on the images and gives logits; for a classifier the model
    itself. stretch: all that the coming steps of training change, or draw from -> what keeps them in a checkpoint.
    probes, others: the images, and those of `retain`, as they are numbered where several processes hold a part each;
    all the rest is then of those here. Masks of a proposal are of all. retain_classified: as `classified`, of the
    images of `retain`, where these can be read only once.
    """

    model: nn.Module
    structure: Structure
    targets: tuple[int, ...]
    images: Tensor
    labels: Tensor
    retain: tuple[Tensor, Tensor] | None
    forward: Callable[[Tensor], Tensor]
    count: Callable[[int], None]
    progress: Progress
    request: Request | None = None
    note: Callable[[Tensor], None] = lambda logits: None
    classified: tuple[Tensor, Tensor] | None = None
    view: Callable[[nn.Module], nn.Module] = lambda model: model
    stretch: Callable[[Sequence[Any]], Stretch] = lambda things: Stretch()
    probes: Shard | None = None
    others: Shard | None = None
    retain_classified: tuple[Tensor, Tensor] | None = None

    def numbered(self, size: int) -> Shard:
        """The images, in batches of that size where there are no other processes."""
        return Shard.of(self.images, size) if self.probes is None else self.probes


class Choice(Protocol):
    """Edits of growing size, 1..largest, as some of the images chose them; the same at every call."""

    @property
    def largest(self) -> int: ...

    def picks(self, size: int) -> Picks:
        """The neurons that an edit of this size names; none where it changes values."""

    def edits(self, size: int) -> Edits: ...


@dataclass(frozen=True)
class Masks:
    """Neurons in their order; an edit of a size perturbs that many. planned: the slices that perturbing picks means."""

    ranking: Ranking
    planned: Callable[[Picks], list[Slice]]

    @property
    def largest(self) -> int:
        return self.ranking.largest_budget

    def picks(self, size: int) -> Picks:
        return self.ranking.take(size)

    def edits(self, size: int) -> Edits:
        return self.planned(self.picks(size))


@dataclass(frozen=True)
class Proposal:
    """Edits of growing size, 1..largest.

    choose: the edits by the images to forget that a mask [N] admits, and, if the method learns from the retain images,
    by those that another one admits (None: all). free: the edit costs what is kept nothing, so it is taken in full.
    smallest: the smallest size that meets the aim is taken, and no larger. candidates: what a fraction of the budget
    counts. quick: logits of images (a mask [N]) under the edit that is in place, without running the model; only where
    it gives the model's own logits bit for bit. quick_retain: the same for the retain images (indices).
    """

    layers: tuple[str, ...]
    mode: str
    choose: Callable[[Tensor | None, Tensor | None], Choice]
    candidates: int
    free: bool = False
    smallest: bool = False
    quick: Callable[[Tensor], Tensor] | None = None
    quick_retain: Callable[[Tensor], Tensor] | None = None


class Method(ABC):
    """A way to forget.

    takes: kinds of request that it can carry out. needs: names of `NEEDS`, what it learns from. options: its class of
    options. until: its default aim. folds: in how many parts the probes are held out in turn, each judged by an edit
    that was chosen without it; 1: none are, only other images can judge. learns: from the retain images too, which are
    then held out likewise. reads_classifier: it looks at what enters the classifier, which the first pass of the images
    then keeps. resumable: its training is in a `stretch`, so that it can go on from a checkpoint. streams: it only runs
    its images, batch by batch, so that an `ImageStream` may stand for them; others get tensors. in_parts: it takes
    FSDP2 models, whose modules hold parts of weights when they do not run: it reads and writes by `Tensors` alone.
    """

    name: ClassVar[str]
    options: ClassVar[type[Options]]
    takes: ClassVar[frozenset[str]] = frozenset({ForgetClass.kind})
    needs: ClassVar[frozenset[str]] = frozenset({FORGET})
    until: ClassVar[float]
    folds: int = 4
    learns: ClassVar[bool] = False
    reads_classifier: ClassVar[bool] = False
    resumable: ClassVar[bool] = False
    streams: ClassVar[bool] = False
    in_parts: ClassVar[bool] = False

    def __init__(self, options: Any) -> None:
        self.asked = options

    def check_images(self, has_retain: bool) -> None:
        """ValueError, naming what is missing, before any work."""
        if RETAIN in self.needs and not has_retain:
            raise ValueError(f"method: {self.name!r} needs {NEEDS[RETAIN]}")

    def why_alone(self) -> str | None:
        """Why several processes, each with images of its own, cannot decide by this method; None if they can."""
        return f"method {self.name!r} needs all images in one process"

    @abstractmethod
    def check_model(self, structure: Structure) -> None:
        """ValueError, saying why, if the method cannot edit such a model."""

    def completed(self, structure: Structure) -> Any:
        """The options, with what follows from the model (or from a preset) filled in."""
        return self.asked

    def runs_again(self) -> str | None:
        """Why images that are gone after a reading will not do; None if what enters the classifier is enough."""
        return f"method {self.name!r} runs them under every edit that it tries"

    def heavier_pass(
        self, model: nn.Module, structure: Structure, view: nn.Module
    ) -> tuple[Callable[[Tensor], object], int] | None:
        """What the analysis runs images through besides a forward pass, and how many times smaller its batches are."""
        return None

    @abstractmethod
    def propose(self, given: Given) -> Iterator[Proposal]:
        """Analyse, then give proposals in the order in which they are to be tried."""

    def described(self, given: Given) -> dict[str, Any]:
        """Options as they were completed for this model, for the record."""
        return {}

    def findings(self) -> dict[str, Any]:
        """What the analysis found out besides, JSON-able, for the record and the report."""
        return {}

    def remark(self, edits: Edits, structure: Structure) -> str:
        """What the verdict on such an edit must say besides."""
        return ""
