"""A few pictures through the model's own preprocessing and the model: whether both fit is seen at once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zsu_fast.cli.images import ImageSet
from zsu_fast.cli.pictures import open_picture, to_8_bits, turned_by_exif
from zsu_fast.cli.session import Session
from zsu_fast.evaluate.inference import inference_mode, logits_of

MOST = 24


@dataclass(frozen=True)
class Look:
    """What a model makes of some images of a set.

    Attributes:
        images: those looked at, out of `total`.
        answers, probabilities: the model's top answer for each, and its share of the softmax.
        seen: uint8 [n, H, W, 1 or 3], the model-ready images turned back.
        turned: how many of them have an EXIF orientation, which is not applied.
    """

    images: ImageSet
    total: int
    answers: list[int]
    probabilities: list[float]
    seen: np.ndarray[Any, Any]
    turned: int

    @property
    def right(self) -> int | None:
        """How many answers are the labels; None without labels."""
        labels = self.images.labels
        return None if labels is None else sum(map(int.__eq__, labels.tolist(), self.answers))

    def to_dict(self, session: Session) -> dict[str, Any]:
        return {"total": self.total, "looked_at": len(self.images), "right": self.right, "images": self._rows(session)}

    def remarks(self) -> list[str]:
        """What a user should know of the preprocessing before going on."""
        found = []
        if self.turned:
            found.append(
                f"{self.turned} of the {len(self.images)} images carry an EXIF rotation, which is not applied: the "
                "loaders of torchvision and timm, by which models are trained, do not apply it either"
            )
        most, count = Counter(self.answers).most_common(1)[0]
        if len(self.images) > 3 and count == len(self.images) and len(set(self._labels())) > 1:
            found.append(f"the model answers {most} to all images: are its weights and preprocessing right?")
        elif self.right is not None and 4 * self.right < len(self.images):
            found.append(
                f"the model answers {self.right} of {len(self.images)} images with their label: are the "
                "preprocessing and the order of the classes right?"
            )
        return found

    def sheet(self, session: Session) -> Any:
        """The figure: each image as it is, as the model sees it, and below its label and the answer."""
        from zsu_fast.plot import contact_sheet

        captions = [
            (f"label: {row['label']}\n" if "label" in row else f"{row.get('file', '')}\n")
            + f"answer: {row['answer']}, {100 * row['probability']:.0f} %"
            for row in self._rows(session)
        ]
        wrong = [label != answer for label, answer in zip(self._labels(), self.answers, strict=True)]
        return contact_sheet(self._originals(), self.seen, captions, wrong if self.right is not None else None)

    def _labels(self) -> list[int]:
        return self.answers if self.images.labels is None else self.images.labels.tolist()

    def _rows(self, session: Session) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for i, (answer, share) in enumerate(zip(self.answers, self.probabilities, strict=True)):
            row: dict[str, Any] = {"file": self.images.files[i].name} if self.images.files else {"image": i}
            if self.images.labels is not None:
                row["label"] = session.label(self._labels()[i])
            rows.append(row | {"answer": session.label(answer), "probability": round(share, 4)})
        return rows

    def _originals(self) -> list[np.ndarray[Any, Any]]:
        if self.images.pixels is not None:
            return list(self.images.pixels)
        found = [np.asarray(to_8_bits(open_picture(path))) for path in self.images.files]
        return [pixels[..., None] if pixels.ndim == 2 else pixels for pixels in found]


def look(session: Session, images: ImageSet, most: int = MOST) -> Look:
    """At up to `most` of the images, evenly over the set: of each class where there are not more classes.

    Raises:
        ValueError: the model's answers to them are no numbers.
    """
    chosen = images.take(sorted({round(i) for i in np.linspace(0, len(images) - 1, most)}))
    model, batch = session.loaded.model, session.tensor(chosen)
    with inference_mode(model):
        logits = torch.cat([logits_of(model(part)) for part in batch.split(session.batch_size)])
    top = logits.float().softmax(1).max(1)
    if top.values.isnan().any():
        raise ValueError(f"the model makes NaN of images of {images.source}: are its weights and preprocessing right?")
    turned = sum(map(turned_by_exif, chosen.files))
    return Look(chosen, len(images), top.indices.tolist(), top.values.tolist(), session.photos(batch), turned)
