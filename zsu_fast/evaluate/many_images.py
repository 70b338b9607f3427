"""Relevance of more images than memory holds: batch by batch, or its means for each neuron."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor, nn

from zsu_fast import ops
from zsu_fast.evaluate.batch_size import BatchSize, check_batch_size, customary, fitting, halving
from zsu_fast.evaluate.given import check_labels, check_targets
from zsu_fast.evaluate.images import Images, ImageStream, images_of, length
from zsu_fast.evaluate.inference import Progress, batches_for, model_device
from zsu_fast.lrp import Relevance, relevance

Target = int | str | Tensor | Sequence[int] | None


@dataclass(frozen=True, eq=False)
class MeanRelevance:
    """Of the neurons of each layer, by its name, over all images.

    Attributes:
        mean: of the relevance, float64 [units].
        magnitude: mean of its absolute value, float64 [units].
        counts: int64 [units]: how many images have the unit among the most relevant of its layer.
        images: how many there were.
    """

    mean: dict[str, Tensor]
    magnitude: dict[str, Tensor]
    counts: dict[str, Tensor]
    images: int


def relevance_batches(
    model: nn.Module,
    images: Any,
    target: Target = None,
    *,
    batch_size: BatchSize = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> Iterator[Relevance]:
    """`zsu_fast.relevance` of one batch after another; nothing stays of a batch when the next one is asked for.

        for found in relevance_batches(model, loader, target=3, composite="attnlrp"):
            write(found.input)

    Args:
        model: as `zsu_fast.relevance` takes it, in evaluation mode.
        images: [N, ...], or whatever they can be read from, see `zsu_fast.evaluate.images_of`. They are cut anew into
            batches of `batch_size`, and moved to the model's device.
        target: a class for all, integers [N], or None: each image's largest logit. "labels": those that come with the
            images; a stream without labels beside it is read through for them first.
        batch_size: images in one pass, the last batch being smaller. "auto": 16 on a CPU, 64 elsewhere, or fewer where
            one or two images that are tried say that memory has no room for them; where it runs out all the same,
            batches become half as large from the one on that was too much. Bits may depend on the size of a batch; it
            is the length of what is yielded.
        progress: called as `progress(done, total, text)` after every batch.
        options: of `zsu_fast.relevance`: composite, init, layers, at_input, strict, conservation, plan, memory.

    Raises:
        ValueError, TypeError: naming the argument; at the call, but for what reading and running find out.
    """
    given, beside = images_of("images", images)
    check_batch_size(batch_size)
    wanted = _wanted(given, beside, target)
    return _batches(model, given, wanted, batch_size, progress, options)


def mean_relevance(
    model: nn.Module,
    images: Any,
    target: Target = None,
    *,
    k: float = 0.25,
    batch_size: BatchSize = "auto",
    progress: Progress | None = None,
    **options: Any,
) -> MeanRelevance:
    """What each neuron's relevance is in the mean over many images, of which none is kept.

    Args:
        model, images, target, batch_size, progress, options: as in `relevance_batches`. Passes end at the lowest layer
            that is wanted, unless `at_input` says otherwise.
        k: share of each layer's units, in (0, 1], one at least, that count as an image's most relevant ones.

    Raises:
        ValueError, TypeError: naming the argument.
    """
    if isinstance(k, bool) or not isinstance(k, int | float):
        raise TypeError(f"k: expected a share in (0, 1], got {k!r}")
    if not 0 < k <= 1:
        raise ValueError(f"k: expected a share in (0, 1], got {k}")
    found = MeanRelevance({}, {}, {}, 0)
    count = 0
    options = {"at_input": False} | options
    for batch in relevance_batches(model, images, target, batch_size=batch_size, progress=progress, **options):
        count += len(batch.logits)
        for name, values in batch.neurons.items():
            few = ops.topk_count(values.float().contiguous(), max(1, round(k * values.shape[1])))
            parts = (values.double().sum(0), values.double().abs().sum(0), few)
            for sums, part in zip((found.mean, found.magnitude, found.counts), parts, strict=True):
                sums[name] = sums[name] + part if name in sums else part
    mean, magnitude = ({name: s / count for name, s in sums.items()} for sums in (found.mean, found.magnitude))
    return MeanRelevance(mean, magnitude, found.counts, count)


def _wanted(given: Images, beside: object, target: Target) -> int | Tensor | None:
    """The class of all, or int64 [N], or None."""
    if target is None or (isinstance(target, Integral) and not isinstance(target, bool)):
        return None if target is None else check_targets(target)[0]
    if isinstance(target, str):
        if target != "labels":
            raise ValueError(f'target: expected a class, integers [N], "labels" or None, got {target!r}')
        if beside is None and isinstance(given, ImageStream):
            if given.once:
                raise ValueError("images: a generator can be read only once; give its labels as target")
            beside = given.labels
        if beside is None:
            raise ValueError('target: "labels" needs images that come with labels')
        return check_labels("images labels", beside, len(given))
    expected = length(given)
    if expected is None and isinstance(target, Tensor | Sequence):
        expected = len(target)  # what there are images for is seen as they come
    return check_labels("target", target, 0 if expected is None else expected)


def _batches(
    model: nn.Module,
    images: Images,
    target: int | Tensor | None,
    batch_size: BatchSize,
    progress: Progress | None,
    options: dict[str, Any],
) -> Iterator[Relevance]:
    done = 0

    def explained(batch: Tensor) -> Relevance:
        nonlocal done
        own = target
        if isinstance(target, Tensor):
            own = target[done : done + len(batch)].to(batch.device)
            if len(own) < len(batch):
                raise ValueError(f"target: expected one for each image, got {len(target)}, and there are more images")
        found = relevance(model, batch, own, **options)
        done += len(batch)
        return found

    if batch_size == "auto":
        few = images[:2].to(model_device(model, images.device))
        size = fitting(lambda one: relevance(model, one, **options), few, customary(few.device))
        yield from halving(explained, batches_for(model, images, size, progress, "relevance"))
    else:
        yield from map(explained, batches_for(model, images, batch_size, progress, "relevance"))
    if isinstance(target, Tensor) and len(target) != done:
        raise ValueError(f"target: expected one for each image, got {len(target)} for {done}")
