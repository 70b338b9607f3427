"""Images from wherever callers have them: tensors, arrays, lists, Datasets, loaders, generators.

What is in memory already becomes one tensor. Anything else becomes an `ImageStream`, which stands in for that tensor
where images are only run through a model, and reads its source anew each time, a batch after another.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, SequentialSampler

from zsu_fast.evaluate.given import check_images, check_labels
from zsu_fast.evaluate.rows import Rows
from zsu_fast.model.tensors import bytes_of

EXPECTED = "a tensor of images [N, ...], an array, a list of tensors, a Dataset or a loader"
Read = tuple[Tensor, Tensor | None]  # images [B, ...], and int64 [B] where they come with labels


class ImageStream:
    """Stands in for a tensor of images [N, ...] that are read when they are wanted and are never all in memory.

    `split` reads them in batches of one size, however the source cuts them, so that a model sees what it would see of
    the tensor. The first reading checks every batch and notes how many images there are, their labels and digest; later
    ones must bring the same images in the same order. `len`, `labels` and `digest` read the source through if nothing
    has before.

    device: where its batches are put; None: they stay where they are read.
    """

    def __init__(self, source: _Source, device: torch.device | None = None, where: Tensor | None = None) -> None:
        self._source, self._device, self._where = source, device, where

    @property
    def once(self) -> bool:
        """Whether it can be read through only once, like a generator."""
        return self._source.once

    @property
    def labelled(self) -> bool:
        """Whether it begins with images that have labels."""
        return self._source.begins_labelled

    @property
    def expected(self) -> int | None:
        """How many images there are, as far as can be told without reading them."""
        if self._where is not None:
            return len(self._where)
        return self._source.length if self._source.count is None else self._source.count

    def on(self, device: torch.device) -> ImageStream:
        """The same images, in batches on `device`."""
        return ImageStream(self._source, device, self._where)

    def refuses_nan(self, refuses: bool) -> None:
        """From the first reading on, if that is still to come."""
        self._source.finite |= refuses

    def __len__(self) -> int:
        return self._source.known().count if self._where is None else len(self._where)

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, ...] of all images; reads the source through if nothing has before."""
        return len(self), *self._source.head.shape[1:]

    @property
    def dtype(self) -> torch.dtype:
        """Of the images."""
        return self._source.head.dtype

    @property
    def device(self) -> torch.device:
        """Where its batches are put."""
        return self._source.head.device if self._device is None else self._device

    def is_floating_point(self) -> bool:
        """As of a tensor."""
        return self.dtype.is_floating_point

    @property
    def labels(self) -> Tensor | None:
        """int64 [N] on the CPU, if the source gives labels."""
        labels = self._source.known().labels
        return labels if labels is None or self._where is None else labels[self._where]

    def split(self, size: int) -> Iterator[Tensor]:
        """Batches of `size` images, the last of what is left."""
        for batch in _regrouped(self._read(), size):
            yield batch if self._device is None else batch.to(self._device, non_blocking=True)

    def __getitem__(self, where: slice | Tensor) -> Any:
        """Of a mask [N] or of ascending indices a stream; of a slice `[:n]`, which is read at once, a tensor."""
        if isinstance(where, slice):
            if where.start is not None or where.step is not None or where.stop is None:
                raise TypeError(f"{self._source.name}: a stream of images has no other slice than its beginning")
            known = self._source.head
            few = known if self._where is None and where.stop <= len(known) else next(self.split(where.stop))
            return few[: where.stop].to(self.device)
        indices = (where.nonzero()[:, 0] if where.dtype == torch.bool else where).cpu()
        if bool((indices.diff() <= 0).any()):
            raise ValueError(f"{self._source.name}: a stream of images has parts in its own order only")
        return ImageStream(self._source, self._device, indices if self._where is None else self._where[indices])

    def tensor(self) -> Tensor:
        """All images in memory."""
        return torch.cat(list(self.split(1024)))

    def digest(self) -> str:
        """As `images_digest` of the tensor."""
        if self._where is None:
            return self._source.known().digest
        values = hashlib.sha256()
        for batch in self._read():
            values.update(bytes_of(batch).numpy().data)
        return _digest(self.dtype, self.shape, values)

    def _read(self) -> Iterator[Tensor]:
        if self._where is None:
            return (images for images, _ in self._source.read())
        return self._source.read_part(self._where)


Images = Tensor | ImageStream


class _Source:
    """What is read, checked, and what is known of it.

    open: begins another reading. length: how many images, if that can be told. pick: images at ascending indices, where
    the source need not be read through for them. finite: whether NaN and infinity are refused.
    """

    def __init__(
        self,
        name: str,
        open: Callable[[], Iterator[Read]],
        once: bool,
        finite: bool,
        length: int | None = None,
        pick: Callable[[list[int]], Iterator[Read]] | None = None,
    ) -> None:
        self.name, self.once, self.length = name, once, length
        self._open, self._pick, self.finite = open, pick, finite
        self._begun: Iterator[Read] | None = None
        self._first: Read | None = None
        self._labelled = False
        self.count: int | None = None
        self.labels: Tensor | None = None
        self.digest = ""
        self._sum = 0

    @property
    def head(self) -> Tensor:
        """The first images, one or two; they are read at most once, and kept."""
        if self._first is None:
            reading = self._opened()
            self._first = next(reading, None)
            if self._first is None:
                raise ValueError(f"{self.name}: expected images [N, ...] with N >= 1, got none")
            self._labelled = self._first[1] is not None
            if self.once:
                self._begun = reading
            else:
                self._first = self._first[0][:2].clone(), None
        return self._first[0][:2]

    @property
    def begins_labelled(self) -> bool:
        return self.head is not None and self._labelled

    def known(self) -> Any:
        """Itself, once it has been read through."""
        if self.count is None:
            for _ in self.read():
                pass
        return self

    def read(self) -> Iterator[Read]:
        """All of it, batch by batch. Also notes what is known after the first time, and compares the next ones."""
        kind = self.head.shape[1:], self.head.dtype
        values, found, unlabelled, total, checksum = hashlib.sha256(), Rows(self.length), False, 0, 0
        first = self.count is None
        for images, labels in self._again():
            if (images.shape[1:], images.dtype) != kind:
                got = _kind(images.shape[1:], images.dtype)
                raise ValueError(f"{self.name}: expected images of one kind, {_kind(*kind)}, got {got} at {total}")
            data = bytes_of(images).numpy().data
            checksum = zlib.crc32(data, checksum)
            if first:
                values.update(data)
                if labels is not None:
                    found.add(labels)
                unlabelled |= labels is None
                if self.finite and images.is_floating_point() and not bool(images.isfinite().all()):
                    raise ValueError(f"{self.name}: expected finite values, got NaN or infinity")
            total += len(images)
            yield images, labels
        if not first:
            if (total, checksum) != (self.count, self._sum):
                raise ValueError(
                    f"{self.name}: read again, it gives other images or another order; expected a loader without "
                    "shuffling and augmentation"
                )
            return
        if unlabelled and len(found):
            raise ValueError(f"{self.name}: some of its batches come with labels and some without")
        self.labels = found.tensor() if len(found) else None
        self.count, self._sum, self.digest = total, checksum, _digest(kind[1], (total, *kind[0]), values)

    def read_part(self, where: Tensor) -> Iterator[Tensor]:
        """The images at these ascending indices."""
        if self._pick is not None:
            yield from (images for images, _ in self._pick(where.tolist()))
            return
        start = 0
        for images, _ in self.read():
            low, high = torch.searchsorted(where, torch.tensor([start, start + len(images)])).tolist()
            if high > low:
                yield images[(where[low:high] - start).to(images.device)]
            start += len(images)

    def _again(self) -> Iterator[Read]:
        """Another reading; a generator goes on from what `head` has taken of it."""
        if not self.once:
            yield from self._opened()
            return
        if self._begun is None or self._first is None:
            raise ValueError(
                f"{self.name}: a generator can be read only once, and it is needed again here; give what can be read "
                "again: a DataLoader, a Dataset or a list"
            )
        reading, self._begun, first = self._begun, None, self._first
        self._first = first[0][:2].clone(), None
        yield first
        del first
        yield from reading

    def _opened(self) -> Iterator[Read]:
        return (batch for batch in self._open() if len(batch[0]))


def images_of(name: str, given: object, *, finite: bool = False) -> tuple[Images, object]:
    """What a caller gave as images, with or without labels: a dense tensor or a stream, and labels or None.

    given: a tensor or array [N, ...]; a list of images, tensors or arrays of one kind; a Dataset of images or of pairs
    (image, label); a DataLoader or another iterable of batches, [B, ...] or ([B, ...], labels [B]); a generator of
    batches, which can be read only once; or a pair of any of them and labels. Labels that a stream brings are with it
    (`ImageStream.labels`). finite: refuse NaN and infinity in a stream, when it is first read.

    Raises:
        TypeError, ValueError: naming the argument.
    """
    if isinstance(given, ImageStream):
        given.refuses_nan(finite)
        return given, None
    if _is_pair(given):
        images, _ = images_of(name, given[0], finite=finite)  # type: ignore[index]
        return images, given[1]  # type: ignore[index]
    if isinstance(given, list | tuple):
        return check_images(name, _stacked(name, given)), None
    if isinstance(given, Tensor | np.ndarray):
        return check_images(name, _tensor(name, given)), None
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable | _Indexed):
        raise TypeError(f"{name}: expected {EXPECTED}, got {type(given).__name__}")
    return ImageStream(_source(name, given, finite)), None


def labelled_images(
    name: str, given: object, device: torch.device | str | None = "cpu", *, finite: bool = False
) -> tuple[Images, Tensor]:
    """A pair (images [N, ...], labels int64 [N]), N >= 1, of whatever `images_of` takes that has labels.

    The labels are on `device`, or with None where the images are. A stream without labels beside it is read through.
    """
    images, labels = images_of(name, given, finite=finite)
    if labels is None and isinstance(images, ImageStream):
        if images.once:
            raise ValueError(f"{name}: a generator can be read only once; give a DataLoader, a Dataset or a list")
        labels = images.labels
    if labels is None:
        got = f"{type(given).__name__} of {len(given)}" if isinstance(given, tuple | list) else type(given).__name__
        raise TypeError(f"{name}: expected a pair (images, labels), got {got}")
    if isinstance(images, Tensor):
        check_images(name, images, 1)
    return images, check_labels(f"{name} labels", labels, len(images), images.device if device is None else device)


def check_labelled(name: str, given: object, device: torch.device | str | None = "cpu") -> tuple[Tensor, Tensor]:
    """As `labelled_images`, the images in memory."""
    images, labels = labelled_images(name, given, device)
    return held(images), labels


def length(images: Images) -> int | None:
    """How many images there are, as far as that can be told without reading them."""
    return len(images) if isinstance(images, Tensor) else images.expected


def is_read_once(images: object) -> bool:
    """Whether they come from a generator, and are gone when it has been read."""
    return isinstance(images, ImageStream) and images.once


def held(images: Images) -> Tensor:
    """The images as one tensor, in memory."""
    return images if isinstance(images, Tensor) else images.tensor()


def batches_at(images: Images, order: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """(indices, images there), batch after batch, in this order; of a stream the indices must ascend."""
    if isinstance(images, Tensor):
        yield from ((where, images[where]) for where in order.split(size))
    else:
        part = images if len(order) == len(images) else images[order]
        yield from zip(order.split(size), part.split(size), strict=True)


def images_digest(images: Images) -> str:
    """SHA-256 of dtype, shape and values: equal for equal images, wherever they come from."""
    if isinstance(images, ImageStream):
        return images.digest()
    values = hashlib.sha256()
    for batch in images.split(1024):
        values.update(bytes_of(batch).numpy().data)
    return _digest(images.dtype, tuple(images.shape), values)


def _digest(dtype: torch.dtype, shape: Sequence[int], values: hashlib._Hash) -> str:
    return hashlib.sha256(f"{dtype}\0{tuple(shape)}\0".encode() + values.digest()).hexdigest()


@runtime_checkable
class _Indexed(Protocol):
    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


def _source(name: str, given: Any, finite: bool) -> _Source:
    if isinstance(given, DataLoader):
        batched = given.batch_sampler is not None
        in_order = batched and isinstance(given.sampler, SequentialSampler) and not given.drop_last
        dataset: Any = given.dataset
        indexed = in_order and isinstance(dataset, _Indexed) and not isinstance(dataset, IterableDataset)
        length = len(dataset) if indexed else None
        read = _batch if batched else _either

        def pick(indices: list[int]) -> Iterator[Read]:
            only = DataLoader(
                dataset, given.batch_size, sampler=indices, num_workers=given.num_workers,
                collate_fn=given.collate_fn, worker_init_fn=given.worker_init_fn,
            )  # fmt: skip
            return (_batch(name, item) for item in only)

        return _Source(name, lambda: (read(name, x) for x in given), False, finite, length, pick if indexed else None)
    if isinstance(given, Iterator):
        return _Source(name, lambda: (_batch(name, x) for x in given), True, finite)
    if isinstance(given, IterableDataset):
        return _Source(name, lambda: (_either(name, x) for x in given), False, finite)
    if isinstance(given, _Indexed) and (isinstance(given, Dataset) or not isinstance(given, Iterable)):

        def at(indices: Iterable[int]) -> Iterator[Read]:
            return (_one(name, given[i]) for i in indices)

        return _Source(name, lambda: at(range(len(given))), False, finite, len(given), at)
    return _Source(name, lambda: (_batch(name, x) for x in given), False, finite)


def _batch(name: str, item: object) -> Read:
    """A batch of images, or of images and labels."""
    images, labels = _parts(name, item)
    found = check_images(name, images)
    return found, None if labels is None else check_labels(f"{name} labels", labels, len(found))


def _one(name: str, item: object) -> Read:
    """An image, or an image and its label."""
    image, label = _parts(name, item)
    return check_images(name, image[None]), None if label is None else check_labels(f"{name} labels", [label], 1)


def _either(name: str, item: object) -> Read:
    """Of a source that may be batched or not: a list of labels makes a batch, one label or none an image."""
    labels = _parts(name, item)[1]
    several = labels.ndim == 1 if isinstance(labels, Tensor | np.ndarray) else isinstance(labels, Sized)
    return _batch(name, item) if several else _one(name, item)


def _parts(name: str, item: object) -> tuple[Tensor, Any]:
    if isinstance(item, tuple | list) and len(item) in (1, 2) and isinstance(item[0], Tensor | np.ndarray):
        return _tensor(name, item[0]), item[1] if len(item) == 2 else None
    if isinstance(item, Tensor | np.ndarray):
        return _tensor(name, item), None
    got = f"{type(item).__name__} of {len(item)}" if isinstance(item, tuple | list) else type(item).__name__
    raise TypeError(
        f"{name}: expected tensors, images or (images, labels), got {got}; a transform or a collate_fn makes them"
    )


def _is_pair(given: object) -> bool:
    """Whether it is (images, labels), and no list of two images."""
    if not isinstance(given, tuple | list) or len(given) != 2:
        return False
    images, labels = given
    if isinstance(labels, Tensor | np.ndarray):
        return labels.ndim < 2 and (not isinstance(images, Tensor | np.ndarray) or images.ndim > 1)
    return not isinstance(images, int | float)


def _stacked(name: str, given: Sequence[Any]) -> Tensor:
    for image in given:
        if not isinstance(image, Tensor | np.ndarray):
            raise TypeError(f"{name}: expected {EXPECTED}, got {type(given).__name__} of {type(image).__name__}")
    images = [_tensor(name, image) for image in given]
    for at, image in enumerate(images):
        if (image.shape, image.dtype) != (images[0].shape, images[0].dtype):
            raise ValueError(
                f"{name}: expected images of one kind, {_kind(images[0].shape, images[0].dtype)}, got "
                f"{_kind(image.shape, image.dtype)} at {at}"
            )
    if not images:
        raise ValueError(f"{name}: expected images [N, ...] with N >= 1, got none")
    return torch.stack(images)


def _tensor(name: str, given: Tensor | np.ndarray[Any, Any]) -> Tensor:
    if isinstance(given, Tensor):
        return given
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # it cannot be written to: nobody will
            return torch.from_numpy(given)
    except ValueError:  # strides below zero
        return torch.from_numpy(np.ascontiguousarray(given))
    except TypeError:
        raise TypeError(f"{name}: expected numbers that torch knows, got an array of {given.dtype}") from None


def _regrouped(batches: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The same images in batches of `size`."""
    waiting: list[Tensor] = []
    for images in batches:
        while len(images):
            part, images = images.split([n := min(len(images), size - sum(map(len, waiting))), len(images) - n])
            waiting.append(part)
            if sum(map(len, waiting)) == size:
                yield waiting[0] if len(waiting) == 1 else torch.cat(waiting)
                waiting = []
        if waiting:
            waiting[-1] = waiting[-1].clone()  # the source may write the next batch over this one
    if waiting:
        yield waiting[0] if len(waiting) == 1 else torch.cat(waiting)


def _kind(shape: Sequence[int], dtype: torch.dtype) -> str:
    return f"{dtype} {tuple(shape)}"
