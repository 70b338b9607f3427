"""Banks of concepts: directions at one layer of a model, each tested before it is believed."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zsu_fast.atomic import replacing
from zsu_fast.concepts import cav
from zsu_fast.concepts.reading import activations, classifier_of, part
from zsu_fast.evaluate.given import check_images, check_int, check_seed
from zsu_fast.evaluate.inference import Progress
from zsu_fast.model.tensors import bytes_of

FORMAT = "zsu_fast concepts 1"
FEWEST = 10
"""Images on each side; fewer cannot tell a concept from chance after a correction for several."""


@dataclass(frozen=True, eq=False)
class ConceptBank:
    """Concepts of a model.

    names: K of them. vectors: float32 [K, D], offsets: float32 [K]: the margin of an image with pooled activations a
    is (a . vector + offset) / |vector|, above 0 with the concept. layer: the module whose pooled inputs are meant.
    evidence: for each concept what it rests on, JSON-able ("accuracy", "p_value", "images", "from").
    """

    names: tuple[str, ...]
    vectors: Tensor
    offsets: Tensor
    layer: str
    evidence: tuple[dict[str, Any], ...]

    def __post_init__(self) -> None:
        count = len(self.names)
        if len(set(self.names)) != count or not count:
            raise ValueError(f"names: expected different names, at least one, got {list(self.names)}")
        if self.vectors.shape[:1] != (count,) or self.vectors.dim() != 2 or self.offsets.shape != (count,):
            raise ValueError(
                f"vectors: expected [{count}, D] and offsets [{count}], got {tuple(self.vectors.shape)} and "
                f"{tuple(self.offsets.shape)}"
            )
        if len(self.evidence) != count:
            raise ValueError(f"evidence: expected one for each of {count} names, got {len(self.evidence)}")
        if not bool(self.vectors.isfinite().all() and self.offsets.isfinite().all()):
            raise ValueError("vectors: expected finite values, got NaN or infinity")
        if not bool((self.vectors.norm(dim=1) > 0).all()):
            raise ValueError("vectors: one has no length, so it is no direction")

    def index(self, name: str) -> int:
        """ValueError if there is no such concept."""
        if name not in self.names:
            raise ValueError(f"concept: the bank has {', '.join(self.names)}, got {name!r}")
        return self.names.index(name)

    def margins(self, found: Tensor) -> Tensor:
        """[N, K] from pooled activations [N, D] at the layer."""
        if found.dim() != 2 or found.shape[1] != self.vectors.shape[1]:
            raise ValueError(f"activations: expected [N, {self.vectors.shape[1]}], got {tuple(found.shape)}")
        vectors, offsets = self.unit()
        return found @ vectors.to(found).T + offsets.to(found)

    def unit(self) -> tuple[Tensor, Tensor]:
        """Vectors of length 1 [K, D] and their offsets [K]: margins are distances in activations."""
        length = self.vectors.norm(dim=1)
        return self.vectors / length[:, None], self.offsets / length

    def save(self, path: str | os.PathLike[str]) -> None:
        """A safetensors file, whole or not at all."""
        facts = {"format": FORMAT, "names": list(self.names), "layer": self.layer, "evidence": list(self.evidence)}
        tensors = {"vectors": self.vectors.contiguous(), "offsets": self.offsets.contiguous()}
        with replacing(Path(path)) as temporary:
            save_file(tensors, temporary, {"concepts": json.dumps(facts)})

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ConceptBank:
        """ValueError for a file that is no such bank."""
        try:
            with safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["concepts"])
                vectors, offsets = file.get_tensor("vectors"), file.get_tensor("offsets")
            if facts["format"] != FORMAT:
                raise KeyError(facts["format"])
            return cls(
                tuple(map(str, facts["names"])), vectors.float(), offsets.float(), str(facts["layer"]),
                tuple(map(dict, facts["evidence"])),
            )  # fmt: skip
        except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"bank: {path} is no bank of concepts ({error})") from None


def concept_bank(
    model: nn.Module,
    concepts: Mapping[str, Tensor],
    random: Tensor,
    layer: str | None = None,
    *,
    alpha: float = 0.01,
    at_chance: str = "refuse",
    permutations: int = 999,
    batch_size: int = 64,
    seed: int = 0,
    progress: Progress | None = None,
) -> ConceptBank:
    """Concepts from the user's images of them: a vector for each, against images without any of them.

    Args:
        model: unchanged by this.
        concepts: name -> images [N, ...] with the concept, model-ready; ten at least, a few dozen are better.
        random: images without them, of the same kind otherwise: what else the two differ in becomes the concept.
        layer: module whose pooled input is read; default: the last linear one, so that concepts lie in the features.
        alpha: significance in the permutation test, shared out among the concepts (Bonferroni).
        at_chance: what becomes of concepts that are not told apart significantly: "refuse" (ValueError) or "drop".

    Raises:
        ValueError: naming the concept: at chance, too few images, images on both sides, or the same image twice.
    """
    if not isinstance(concepts, Mapping) or not concepts:
        raise TypeError(f"concepts: expected images by name, got {type(concepts).__name__}")
    if at_chance not in ("refuse", "drop"):
        raise ValueError(f'at_chance: expected "refuse" or "drop", got {at_chance!r}')
    if not 0 < alpha < 1:
        raise ValueError(f"alpha: expected a share in (0, 1), got {alpha!r}")
    check_seed(seed)
    check_int("permutations", permutations, 1)
    permutations = max(permutations, int(2 * len(concepts) / alpha))  # or the smallest p would be too large
    without = check_side("random", random)
    for name, images in concepts.items():
        check_side(f"concepts[{name!r}]", images)
        if seen := bytes_of_each(images) & bytes_of_each(without):
            raise ValueError(f"concepts[{name!r}]: {len(seen)} of its images are among random too")
    layer = classifier_of(model, without) if layer is None else layer
    outside, _ = activations(model, without, layer, batch_size=batch_size, progress=progress)
    found: dict[str, cav.Cav] = {}
    for name, images in concepts.items():
        inside, _ = activations(model, images, layer, batch_size=batch_size, progress=progress)
        rows, labels = balanced(inside, outside, seed)
        fitted = cav.fit(rows, labels, permutations=permutations, seed=seed)
        if fitted.p_value <= alpha / len(concepts) and fitted.accuracy > 0.5:
            found[name] = fitted
        elif at_chance == "refuse":
            raise ValueError(
                f"concepts[{name!r}]: at chance: vectors fitted without an image get {fitted.accuracy:.3f} of "
                f"{fitted.images} right, p = {fitted.p_value:.3g}, needed {alpha / len(concepts):.3g}: the layer "
                f"{layer!r} does not tell these images from the random ones"
            )
    if not found:
        raise ValueError("concepts: all are at chance")
    return ConceptBank(
        tuple(found),
        torch.stack([one.vector for one in found.values()]),
        torch.tensor([one.offset for one in found.values()]),
        layer,
        tuple(
            {"accuracy": one.accuracy, "p_value": one.p_value, "images": one.images, "from": "images"}
            for one in found.values()
        ),
    )


def check_side(name: str, images: object) -> Tensor:
    """Images of one side: enough, finite, no two the same."""
    found = check_images(name, images, 1)
    if len(found) < FEWEST:
        raise ValueError(f"{name}: expected at least {FEWEST} images, got {len(found)}")
    if found.is_floating_point() and not bool(found.isfinite().all()):
        raise ValueError(f"{name}: expected finite values, got NaN or infinity")
    if double := len(found) - len(bytes_of_each(found)):
        raise ValueError(f"{name}: {double} of {len(found)} images are there twice: what is held out would be known")
    return found


def bytes_of_each(images: Tensor) -> set[bytes]:
    """What tells images apart, whatever their memory layout."""
    return {bytes_of(image).numpy().tobytes() for image in images}


def balanced(inside: Tensor, outside: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Rows [2n, D] and labels bool [2n]: as many of each side as the smaller one has, drawn from the larger."""
    count, generator = min(len(inside), len(outside)), torch.Generator().manual_seed(seed)
    parts = [part(side, torch.randperm(len(side), generator=generator)[:count]) for side in (inside, outside)]
    return torch.cat(parts), torch.arange(2 * count) < count
