"""Sets of labelled images from the disk: folders and .npz files, read batch by batch."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsu_fast.class_names import MOST_INDEX, ClassNames
from zsu_fast.cli.npz import read_arrays
from zsu_fast.cli.pictures import open_picture
from zsu_fast.cli.preprocess import AnyPreprocess

EXTENSIONS = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff"}


@dataclass(frozen=True)
class ImageSet:
    """Images with or without labels.

    Attributes:
        source: where they come from, for messages.
        pixels: uint8 [N, H, W, C], or None if the images are files.
        files: the files, or empty.
        labels: int64 [N], or None.
        names: class index -> name, as far as the source tells.
        alphabetical: how many class folders got their index from the alphabet alone; 0 if they were named.
        ignored: folders that are hidden, or hold no images and need not be those of classes.
        strays: files that are no images by their suffix.
    """

    source: str
    pixels: np.ndarray[Any, Any] | None
    files: tuple[Path, ...]
    labels: Tensor | None
    names: dict[int, str]
    alphabetical: int = 0
    ignored: tuple[Path, ...] = ()
    strays: tuple[Path, ...] = ()

    def __len__(self) -> int:
        return len(self.files) if self.pixels is None else len(self.pixels)

    def take(self, chosen: Sequence[int] | Tensor) -> ImageSet:
        """The images at these positions."""
        where = torch.as_tensor(chosen, dtype=torch.int64)
        return ImageSet(
            self.source,
            None if self.pixels is None else self.pixels[where.numpy()],
            tuple(self.files[i] for i in where.tolist()) if self.pixels is None else (),
            None if self.labels is None else self.labels[where],
            self.names,
            self.alphabetical,
        )

    def of_classes(self, classes: Sequence[int], inside: bool = True) -> ImageSet:
        """The images of these classes (or, with ``inside=False``, of all others)."""
        assert self.labels is not None
        member = torch.isin(self.labels, torch.tensor(list(classes), dtype=torch.int64))
        return self.take(torch.nonzero(member if inside else ~member)[:, 0])

    def check_classes(self, classes: int) -> None:
        """Refuse folders whose alphabetical order cannot be that of the model's classes, and labels beyond them."""
        if self.alphabetical not in (0, classes):
            raise ValueError(
                f"{self.source} has {self.alphabetical} class folders and the model {classes} classes: which is which "
                "cannot be told from the alphabet; name the folders by class index (0, 1, ...)"
            )
        if self.labels is not None and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < classes:
            raise ValueError(
                f"{self.source} has labels {int(self.labels.min())}..{int(self.labels.max())}, "
                f"the model has classes 0..{classes - 1}"
            )

    def batches(self, preprocess: AnyPreprocess, batch_size: int) -> Iterator[Tensor]:
        """Model-ready batches [B, ...], in order."""
        for start in range(0, len(self), batch_size):
            yield preprocess(self._raw(start, start + batch_size))

    def tensor(self, preprocess: AnyPreprocess, batch_size: int = 256) -> Tensor:
        """All images, model-ready, [N, ...]."""
        return torch.cat(list(self.batches(preprocess, batch_size)))

    def stream(self, preprocess: AnyPreprocess, batch_size: int) -> Stream:
        """What reads them anew each time, as `zsu_fast.forget` takes it."""
        return Stream(self, preprocess, batch_size)

    def shared_with(self, other: ImageSet) -> int:
        """How many images of this set are, byte for byte, in the other one as well."""
        mine: dict[int, set[bytes]] = {}
        for i in range(len(self)):
            mine.setdefault(self._size(i), set()).add(self._digest(i))
        # Only what has the size of one of ours is read: a folder of 50,000 files costs 50,000 stats, not 5 GB.
        theirs = {other._digest(i) for i in range(len(other)) if other._size(i) in mine}
        return sum(self._digest(i) in theirs for i in range(len(self)))

    def left_out(self) -> list[str]:
        """What lies there and was not read, and why."""
        told = [
            f"{folder} is left out: {'no images are in it' if _may_be_class(folder) else 'it is hidden'}"
            for folder in self.ignored
        ]
        if self.strays:
            more = f" and {len(self.strays) - 1} more are" if len(self.strays) > 1 else " is"
            told.append(f"{self.strays[0]}{more} left out: no image by the suffix ({', '.join(sorted(EXTENSIONS))})")
        return told

    def _raw(self, start: int, stop: int) -> Any:
        if self.pixels is not None:
            return self.pixels[start:stop]
        return [open_picture(path) for path in self.files[start:stop]]

    def _size(self, i: int) -> int:
        return self.files[i].stat().st_size if self.pixels is None else int(self.pixels[i].nbytes)

    def digests(self) -> list[bytes]:
        """SHA-256 of each image: of its file, or of its pixels where there are no files."""
        return [self._digest(i) for i in range(len(self))]

    def _digest(self, i: int) -> bytes:
        data = self.files[i].read_bytes() if self.pixels is None else np.ascontiguousarray(self.pixels[i]).tobytes()
        return hashlib.sha256(data).digest()


@dataclass(frozen=True)
class Stream:
    """Model-ready batches, with the labels if there are some; each iteration begins anew."""

    images: ImageSet
    preprocess: AnyPreprocess
    batch_size: int

    def __iter__(self) -> Iterator[Tensor | tuple[Tensor, Tensor]]:
        batches, labels = self.images.batches(self.preprocess, self.batch_size), self.images.labels
        return batches if labels is None else zip(batches, labels.split(self.batch_size), strict=True)


def read_images(
    path: str | Path, names: Mapping[int, str], option: str = "images", class_map: Mapping[str, int] | None = None
) -> ImageSet:
    """Images of a .npz file, or of a folder with or without one subfolder for each class.

    Args:
        path: a folder, or a .npz with uint8 images [N, H, W, C] or [N, H, W] under ``images`` or ``x`` and integer
            labels under ``labels`` or ``y`` (optional).
        names: the model's class names, as far as known; subfolders may be named so, or by the class index.
        option: what the user called this path, for messages.
        class_map: subfolder -> class, where their names do not tell.

    Raises:
        ValueError: nothing to read there, or not what is described above.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, ClassNames(names, getattr(names, "ids", {})), option, class_map)
    if not path.exists():
        raise ValueError(f"{option}: no such file or folder: {path}")
    if path.suffix.lower() != ".npz":
        raise ValueError(f"{option} must be a folder of images or a .npz file, got {path}")
    return _read_npz(path, names, option)


def _read_npz(path: Path, names: Mapping[int, str], option: str) -> ImageSet:
    try:
        data, keys = read_arrays(path, ("images", "x", "labels", "y", "classes"))
    except ValueError as error:
        raise ValueError(f"{option}: cannot read {path}: {error}") from None
    pixels = data.get("images", data.get("x"))
    labels = data.get("labels", data.get("y"))
    classes = data.get("classes")
    if pixels is None:
        raise ValueError(f"{option}: {path} must hold images under 'images' or 'x', it holds {keys}")
    if pixels.ndim == 3:
        pixels = pixels[..., None]
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3):
        raise ValueError(
            f"{option}: {path} must hold uint8 images of shape [N, H, W, 3], [N, H, W, 1] or [N, H, W], "
            f"got {pixels.dtype} {list(pixels.shape)}"
        )
    if pixels.size == 0:
        raise ValueError(f"{option}: {path} holds no images")
    if labels is not None and (labels.shape != (len(pixels),) or not np.issubdtype(labels.dtype, np.integer)):
        raise ValueError(
            f"{option}: {path} must hold {len(pixels)} integer labels, got {labels.dtype} {list(labels.shape)}"
        )
    if labels is not None and int(labels.max()) > MOST_INDEX:
        raise ValueError(f"{option}: {path} has the label {int(labels.max())}, which is no class index")
    if classes is not None and classes.ndim == 1 and classes.dtype.kind == "U":
        names = {i: str(name) for i, name in enumerate(classes)} | dict(names)
    truth = None if labels is None else torch.from_numpy(labels.astype(np.int64))
    return ImageSet(str(path), pixels, (), truth, dict(names))


def _read_folder(folder: Path, names: ClassNames, option: str, class_map: Mapping[str, int] | None) -> ImageSet:
    strays: list[Path] = []
    folders = [entry for entry in sorted(folder.iterdir()) if entry.is_dir()]
    hidden = tuple(entry for entry in folders if not _may_be_class(entry))
    classes = {entry: _image_files(entry, "**/*", strays) for entry in folders if entry not in hidden}
    direct = _image_files(folder, "*", strays)
    if not any(classes.values()) and (direct or not classes):
        if not direct:
            raise ValueError(f"{option}: no images in {folder} (looked for {', '.join(sorted(EXTENSIONS))})")
        ignored = (*hidden, *classes)
        return ImageSet(str(folder), None, tuple(direct), None, names, ignored=ignored, strays=tuple(strays))
    if direct:
        raise ValueError(f"{option}: {folder} holds images beside class folders; which class they are of is unclear")
    told = bool(names) or class_map is not None or all(entry.name.isdecimal() for entry in classes)
    # Where the alphabet alone tells, a class without images still has its place.
    ignored = tuple(entry for entry, found in classes.items() if told and not found)
    used = {entry: found for entry, found in classes.items() if entry not in ignored}
    if not any(used.values()):
        raise ValueError(f"{option}: no images in the class folders of {folder}")
    indices = range(len(used)) if not told else _class_indices(list(used), names, option, class_map)
    labels = [index for index, found in zip(indices, used.values(), strict=True) for _ in found]
    return ImageSet(
        str(folder),
        None,
        tuple(path for found in used.values() for path in found),
        torch.tensor(labels),
        names if told else {index: entry.name for index, entry in enumerate(used)},
        alphabetical=0 if told else len(used),
        ignored=(*hidden, *ignored),
        strays=tuple(strays),
    )


def _class_indices(
    folders: list[Path], names: ClassNames, option: str, class_map: Mapping[str, int] | None
) -> list[int]:
    """Which class each folder holds: by the map, or by its name."""
    if class_map is None:
        indices = [names.find(entry.name, f"{option}: {entry}") for entry in folders]
    elif unknown := [entry for entry in folders if entry.name not in class_map]:
        raise ValueError(f"{option}: folder {unknown[0]} is not in --class-map")
    else:
        indices = [class_map[entry.name] for entry in folders]
    if len(set(indices)) < len(indices):
        twice = next(index for index in indices if indices.count(index) > 1)
        same = [entry.name for entry, index in zip(folders, indices, strict=True) if index == twice]
        raise ValueError(f"{option}: folders of {folders[0].parent} are of one class, {twice}: {', '.join(same)}")
    return indices


def _may_be_class(entry: Path) -> bool:
    """Not what systems leave behind: hidden folders, and the one that macOS puts into archives."""
    return not entry.name.startswith((".", "__MACOSX"))


def _image_files(folder: Path, pattern: str, strays: list[Path]) -> list[Path]:
    """The images in order; other files that are not hidden are added to `strays`."""
    found = sorted(path for path in folder.glob(pattern) if not path.name.startswith(".") and path.is_file())
    strays += [path for path in found if path.suffix.lower() not in EXTENSIONS]
    return [path for path in found if path.suffix.lower() in EXTENSIONS]
