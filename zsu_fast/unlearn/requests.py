"""WHAT is to be forgotten: frozen values, which a method is asked to carry out. What each kind must say of itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from zsu_fast.class_names import ClassNames, given_names
from zsu_fast.evaluate.accuracy import Evaluation, summarise
from zsu_fast.evaluate.given import check_images, check_labels, check_targets
from zsu_fast.evaluate.images import Images, ImageStream, images_of, labelled_images
from zsu_fast.evaluate.inference import answers_of, logits_of
from zsu_fast.evaluate.rows import Rows
from zsu_fast.unlearn import search
from zsu_fast.unlearn.verdict import KNOWN, Evaluated, Evidence, Verdict, judge, judged_by_known

Pair = tuple[Tensor, Tensor]
"""Images and labels; the images may be an `ImageStream` where they are only run, which then stands in for a tensor."""
Batches = Callable[[Tensor], Sequence[Tensor]]
NAN = "nothing was done, the model gives NaN on them (is the preprocessing right?)."


def counted(request: Request) -> str:
    """What is counted: "images with the class"; `inputs` of a request says what they are, where they are no images."""
    return f"{getattr(request, 'inputs', 'images')} {request.short}"


@runtime_checkable
class Request(Protocol):
    """What the floor asks of a request of any kind.

    kind: its name; methods say which kinds they take. argument: what the caller calls the images. classes: those to
    forget, if it is classes that are. behind: by how much forgotten images must fall behind in the median, as a share
    of the median lead before. is_its_images: its images are themselves what is to be forgotten, and no sample of it:
    they judge it, and `evaluate_on` shows what the edit costs.
    """

    kind: ClassVar[str]
    argument: ClassVar[str]
    behind: ClassVar[float]
    is_its_images: ClassVar[bool]

    def view(self, model: nn.Module) -> nn.Module:
        """What runs: a module, with the model inside, that makes logits [N, classes] of `probes` and `retain`.

        The model itself, where it is a classifier. Edits are of the model alone; whatever else the view holds is run,
        in evaluation mode, and stays as it is.
        """

    @property
    def probes(self) -> Tensor:
        """Images [N, ...] (or what else the view takes) on which it is measured."""

    @property
    def probe_labels(self) -> Tensor:
        """int64 [N]"""

    @property
    def retain(self) -> Pair | None:
        """Images that are to be kept, and int64 labels, where the request brings them itself."""

    @property
    def classes(self) -> tuple[int, ...]:
        """Those to forget, if it is classes that are; else none."""

    @property
    def groups(self) -> list[Tensor]:
        """Masks [N]: the images of each are counted by themselves, and the worst group judges."""

    @property
    def name(self) -> str:
        """As sentences begin with it."""

    @property
    def short(self) -> str:
        """What may still be said of an image that is not forgotten: "with the class"."""

    def started(self, forward: Callable[[Tensor], Tensor], view: nn.Module) -> Request:
        """The request with what it takes from the unedited view, which may be its very probes.

        forward: images -> logits of the view, batch by batch, without gradients.

        Before, only `view`, `check` and one of the probes and retain images are asked for.
        """

    def margins(self, logits: Tensor, where: Tensor) -> Tensor:
        """[n] how far each of the images `where` (mask or indices) is from forgotten, differentiable; below 0 it is."""

    def check(self, classes: int, evaluated: Tensor | None) -> None:
        """ValueError for what does not fit a model with so many classes, or the labels of `evaluate_on`."""

    def unknown(self, logits: Tensor) -> str | None:
        """Why there is nothing to forget, if so, from the unedited model's logits [N, classes] of the images."""

    def evaluate(self, view: nn.Module, given: Pair | None, batches: Batches) -> Evaluated | None:
        """What judges an edit, by the view as it is now: asked for before the edit and after.

        given: the caller's `evaluate_on`. batches: inputs -> the parts in which they are run.
        """

    def verdict(self, evidence: Evidence) -> Verdict:
        """On an edit that is in place."""

    def describe(self) -> dict[str, Any]:
        """JSON form, for the record."""


class OfClassifier:
    """Of requests to a model that makes logits of images itself, and is judged by the caller's images."""

    @property
    def retain(self) -> Pair | None:
        return None

    @property
    def classes(self) -> tuple[int, ...]:
        return ()

    def view(self, model: nn.Module) -> nn.Module:
        return model

    def evaluate(self, view: nn.Module, given: Pair | None, batches: Batches) -> Evaluated | None:
        if given is None:
            return None
        images, labels = given
        answers = Rows(len(images))
        for batch in batches(images):
            answers.add(answers_of(logits_of(view(batch))))
        return summarise(answers.tensor(), labels.cpu(), self.classes)


@dataclass(frozen=True, eq=False)
class ForgetClass(OfClassifier):
    """Forget one class, or several.

    targets: class index or indices, or names of `class_names`. probes: model-ready images [N, ...] of the class(es)
    that the model was not trained on, or whatever they can be read from (`zsu_fast.evaluate.images_of`); a few dozen of
    each are enough. labels: int [N], the target that each probe belongs to; needed with several, if the probes do not
    bring them. class_names: the model's, in order or by index; those of the targets stand in verdict and record.

    Raises:
        TypeError, ValueError: naming the argument.
    """

    targets: int | str | Sequence[int | str]
    probes: Tensor
    labels: Tensor | Sequence[int] | None = None
    class_names: Mapping[int, str] | Sequence[str] | None = None

    kind: ClassVar[str] = "class"
    argument: ClassVar[str] = "probes"
    behind: ClassVar[float] = 0.25
    is_its_images: ClassVar[bool] = False
    short: ClassVar[str] = "with the class"

    def __post_init__(self) -> None:
        names = given_names(self.class_names)
        targets = check_targets(indices_of(self.targets, names))
        object.__setattr__(self, "targets", tuple(targets))
        object.__setattr__(self, "class_names", {target: names[target] for target in targets if target in names})
        images, beside = images_of("probes", self.probes, finite=True)
        object.__setattr__(self, "probes", check_finite("probes", images))
        object.__setattr__(self, "labels", beside if self.labels is None else self.labels)
        if isinstance(images, Tensor):
            object.__setattr__(self, "labels", self.probe_labels)

    @property
    def classes(self) -> tuple[int, ...]:
        return cast(tuple[int, ...], self.targets)

    @cached_property
    def probe_labels(self) -> Tensor:
        labels = self.labels
        if labels is None and isinstance(self.probes, ImageStream):
            labels = self.probes.labels  # which reads it through
        return probe_classes(self.probes, labels, list(self.classes))

    @property
    def groups(self) -> list[Tensor]:
        return [self.probe_labels == target for target in self.classes]

    @property
    def name(self) -> str:
        return "class " + ", ".join(map(self._named, self.classes))

    def _named(self, target: int) -> str:
        name = cast(dict[int, str], self.class_names).get(target, str(target))
        return str(target) if name == str(target) else f"{target} ({name})"

    def started(self, forward: Callable[[Tensor], Tensor], view: nn.Module) -> ForgetClass:
        return self

    def margins(self, logits: Tensor, where: Tensor) -> Tensor:
        return search.margins(logits, self.probe_labels[where])

    def check(self, classes: int, evaluated: Tensor | None) -> None:
        check_targets(self.classes, classes)
        for target in self.classes:
            if evaluated is not None and not bool((evaluated == target).any()):
                raise ValueError(f"evaluate_on: holds no image of class {self._named(target)}, so it cannot judge")

    def unknown(self, logits: Tensor) -> str | None:
        if bool(logits.isnan().any()):
            return f"{self.name}: {NAN}"
        for target, own in zip(self.classes, self.groups, strict=True):
            answers = logits[own].argmax(1)
            counts = torch.bincount(answers, minlength=logits.shape[1]).tolist()
            share = counts[target] / len(answers)
            other = max((count, index) for index, count in enumerate(counts) if index != target)
            instead = other[0] / len(answers)
            if share < KNOWN or share < instead / 3:
                return (
                    f"class {self._named(target)}: nothing was done, the model does not know it: it recognises "
                    f"{100 * share:.1f} % of the {len(answers)} probes and answers class {other[1]} on "
                    f"{100 * instead:.1f} % (are the class index and the preprocessing right?)."
                )
        return None

    def verdict(self, evidence: Evidence) -> Verdict:
        """By `evaluate_on`, which has the last word, or else by the held-out probes."""
        if isinstance(evidence.after, Evaluation):
            counts = [_still(evidence.after, target) for target in self.classes]
            found = judge(self.name, counts, evidence.until, "evaluation images", evidence.fixed)
            assert isinstance(evidence.before, Evaluation)
            return judged_by_known(self.name, found, [_still(evidence.before, target) for target in self.classes])
        if not evidence.held_out:
            sentence = f"{self.name} was edited; all the probes chose the edit, so no image is left to judge it by."
            return Verdict("not judged", sentence, *max(evidence.counts))
        return judge(self.name, evidence.counts, evidence.until, "held-out probes", evidence.fixed)

    def describe(self) -> dict[str, Any]:
        names = {str(target): name for target, name in cast(dict[int, str], self.class_names).items()}
        return {"kind": self.kind, "targets": list(self.classes)} | ({"class_names": names} if names else {})


def indices_of(targets: object, names: ClassNames) -> object:
    """With the index for each name; whatever is neither is left to be refused, and so are digits without names."""

    def found(target: object) -> object:
        named = isinstance(target, str) and (bool(names) or not target.isdecimal())
        return names.find(cast(str, target), "target") if named else target

    return [found(each) for each in targets] if isinstance(targets, list | tuple) else found(targets)


def _still(evaluation: Evaluation, target: int) -> tuple[int, int]:
    """How many images of a class still get it as answer, or NaN, which is not another one; and of how many."""
    count, nan = evaluation.counts[target], evaluation.taken_for.get(-1, 0)
    return min(count, round(evaluation.per_class[target] * count) + nan), count


def check_finite(name: str, images: object) -> Tensor:
    """Images [N, ...] to choose an edit by: at least one, no NaN or infinity; a stream sees to that as it is read."""
    if isinstance(images, ImageStream):
        return cast(Tensor, images)
    found = check_images(name, images, 1)
    if (found.is_floating_point() or found.is_complex()) and not all(
        bool(part.isfinite().all()) for part in found.split(1024)
    ):
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    return found


def labelled(name: str, given: object) -> Pair:
    """A pair (images, labels), the labels where the images are."""
    images, labels = labelled_images(name, given, None, finite=True)
    return check_finite(name, images), labels


def probe_classes(images: Images, labels: object, targets: list[int]) -> Tensor:
    """The class of each probe, int64 [N] where the probes are."""
    if labels is None:
        if len(targets) > 1:
            raise ValueError("probe_labels: needed with several targets, to say which probe belongs to which")
        return torch.full((len(images),), targets[0], device=images.device)
    found = check_labels("probe_labels", labels, len(images), images.device)
    if set(found.unique().tolist()) != set(targets):
        raise ValueError(f"probe_labels: expected each of the targets {targets}, got {sorted(found.unique().tolist())}")
    return found
