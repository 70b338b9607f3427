"""Concepts by their names, where the user has a CLIP: it sorts the user's own images, and they make the vectors.

So a text is worth what its images are: the vector lies in the model's own activations, not in CLIP's, and is tested and
refused as that of any folder.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.concepts.bank import ConceptBank, concept_bank
from zsu_fast.concepts.reading import part
from zsu_fast.evaluate.given import check_int
from zsu_fast.extras import require


def likeness(
    directory: str | os.PathLike[str],
    texts: Sequence[str],
    pictures: Sequence[Any],
    *,
    batch_size: int = 32,
) -> Tensor:
    """float32 [N, K]: cosine of CLIP's embeddings of pictures and texts.

    directory: of a CLIP model with its processor, as transformers saves them; nothing is ever downloaded. pictures: N
    of PIL, or uint8 arrays [H, W, 3].

    Raises:
        ImportError: transformers is missing (extra "models").
        ValueError: no such directory, or it holds no CLIP.
    """
    if not Path(directory).is_dir():
        raise ValueError(f"directory: no such folder: {directory}")
    transformers = require("transformers", "models")
    try:
        clip = transformers.CLIPModel.from_pretrained(directory, local_files_only=True).eval()
        processor = transformers.CLIPProcessor.from_pretrained(directory, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"directory: {directory} holds no CLIP of transformers: {str(error).splitlines()[0]}"
        ) from None
    found = []
    with torch.no_grad():
        for start in range(0, len(pictures), batch_size):
            batch = list(pictures[start : start + batch_size])
            out = clip(**processor(text=list(texts), images=batch, return_tensors="pt", padding=True))
            sides = [nn.functional.normalize(one.float(), dim=1) for one in (out.image_embeds, out.text_embeds)]
            found.append(sides[0] @ sides[1].T)
    return torch.cat(found)


def clip_bank(
    model: nn.Module,
    directory: str | os.PathLike[str],
    names: Sequence[str],
    pictures: Sequence[Any],
    images: Tensor,
    layer: str | None = None,
    *,
    count: int = 50,
    text: str = "a photo of {}",
    **options: Any,
) -> ConceptBank:
    """A bank from names: of each concept the `count` pictures that CLIP finds most like it, against the least alike.

    Args:
        names: of concepts; `text` makes the sentence that CLIP gets.
        pictures: the user's N, of whatever they show, as CLIP takes them (see `likeness`); images: the same [N, ...],
            model-ready. A few hundred; twice `count` at least.
        options: of `concept_bank`: alpha, at_chance, permutations, batch_size, seed, progress.

    Raises:
        ValueError: naming the argument; a concept at chance is refused (or dropped) as one from folders is.
    """
    check_int("count", count, 1)
    if isinstance(names, str) or not names or len(set(names)) != len(names):
        raise ValueError(f"names: expected different names of concepts, got {names!r}")
    if len(pictures) != len(images):
        raise ValueError(f"images: expected as many as pictures, {len(pictures)}, got {len(images)}")
    if len(images) < 2 * count:
        raise ValueError(f"count: {count} most and {count} least alike need {2 * count} images, got {len(images)}")
    alike = likeness(directory, [text.format(name) for name in names], pictures)
    share = options.pop("alpha", 0.01) / len(names)
    banks = []
    for at, name in enumerate(names):
        order = alike[:, at].argsort(descending=True, stable=True)
        sides = part(images, order[:count]), part(images, order[-count:])
        try:
            banks.append(concept_bank(model, {name: sides[0]}, sides[1], layer, alpha=share, **options))
        except ValueError as error:
            if options.get("at_chance") != "drop" or "at chance" not in str(error):
                raise
    if not banks:
        raise ValueError("names: all are at chance")
    evidence = tuple(bank.evidence[0] | {"from": "clip"} for bank in banks)
    return ConceptBank(
        tuple(bank.names[0] for bank in banks), torch.cat([bank.vectors for bank in banks]),
        torch.cat([bank.offsets for bank in banks]), banks[0].layer, evidence,
    )  # fmt: skip
