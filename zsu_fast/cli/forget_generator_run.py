"""What ``zsu-fast forget generator`` does between reading its options and writing its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsu_fast.class_names import ClassNames
from zsu_fast.cli.images import ImageSet, read_images
from zsu_fast.cli.judges import Judge, judge_of, read_latents
from zsu_fast.cli.made import made_of, made_of_class, pixels_of
from zsu_fast.cli.models import load_model
from zsu_fast.cli.preprocess import Preprocess
from zsu_fast.cli.session import Session, named
from zsu_fast.model.tensors import model_digest
from zsu_fast.report import Report
from zsu_fast.report.generator import GeneratorReport
from zsu_fast.report.items import MOST, ItemsReport
from zsu_fast.unlearn import ForgetGenerated, ForgetItems, ForgetResult, forget
from zsu_fast.unlearn.checkpoint import digest_of


@dataclass
class GeneratorSession(Session):
    """A generator that makes pixels of any range, and the judges of what it makes, each loaded once."""

    class_names: str | None = None  # of the judges' classes, as the user gave them
    judges: dict[tuple[str, Path | None], Session] = field(default_factory=dict)

    def judge(self, option: str, spec: str, weights: Path | None, bounds: tuple[float, float]) -> tuple[Judge, Session]:
        """The classifier as a judge of images between these bounds, and its session, which knows its classes."""
        if (spec, weights) not in self.judges:
            loaded = named(load_model(spec, weights, device=self.device), self.class_names)
            self.judges[spec, weights] = Session(loaded, 1, self.device)
        found = self.judges[spec, weights]
        self.was_given(option, lambda: [bytes.fromhex(model_digest(found.loaded.model))])
        return judge_of(found.loaded, *bounds, option), found

    def latents(self, latent: tuple[int, ...] | Path) -> tuple[int, ...] | Tensor:
        """The shape of one; or those of a file, on the generator's device."""
        found = read_latents(latent)
        if not isinstance(found, Tensor):
            return found
        self.was_given("--latent", lambda: [bytes.fromhex(digest_of(found))])
        return found.to(self.device)


def read_class(
    session: GeneratorSession,
    target: Sequence[str],
    judge: tuple[str, Path | None],
    second: tuple[str, Path | None] | None,
    latent: tuple[int, ...] | Path,
    bounds: tuple[float, float],
    **more: Any,
) -> tuple[ForgetGenerated, ClassNames]:
    """The request, and the names of the judge's classes. judge, second: as models are named, and their weights."""
    first, known = session.judge("--judge", *judge, bounds)
    other = None if second is None else session.judge("--second-judge", *second, bounds)[0]
    request = ForgetGenerated(known.targets(target), first, session.latents(latent), second=other, **more)
    return request, known.names


def read_items(
    session: GeneratorSession,
    items: Path,
    unseen: Path,
    instead: Path | None,
    judge: tuple[str, Path | None] | None,
    latent: tuple[int, ...] | Path,
    bounds: tuple[float, float],
    **more: Any,
) -> ForgetItems:
    """The request. ValueError, naming the option, for files that hold no such images."""
    low, high = bounds

    def read(path: Path, option: str) -> ImageSet:
        images = read_images(path, {}, option)
        session.was_given(option, images.digests)
        return images

    def made(images: ImageSet) -> Tensor:
        return (images.tensor(Preprocess()) * (high - low) + low).to(session.device)

    asked, others = read(items, "--items"), read(unseen, "--unseen")
    if shared := asked.shared_with(others):
        raise ValueError(f"--items: {shared} of these {len(asked)} images are among those of --unseen")
    return ForgetItems(
        made(asked),
        session.latents(latent),
        made(others),
        instead=None if instead is None else made(read(instead, "--instead")),
        classifier=None if judge is None else session.judge("--judge", *judge, bounds)[0],
        **more,
    )


def forget_class_and_look(
    session: GeneratorSession,
    names: ClassNames,
    bounds: tuple[float, float],
    request: ForgetGenerated,
    method: str,
    given: dict[str, Any],
    report: bool,
) -> tuple[ForgetResult, Report | None]:
    """Look at what latents of the class make, forget, look again."""
    loaded = session.loaded
    latents, before = made_of_class(loaded.model, request, *bounds)
    result = forget(loaded.model, request, method=method, **given)
    if not report:
        return result, None
    made = before, made_of(loaded.model, request, latents, *bounds)
    return result, GeneratorReport(model=loaded.spec, record=result.record, picks=result.picks, names=names, made=made)


def forget_items_and_look(
    session: GeneratorSession,
    bounds: tuple[float, float],
    request: ForgetItems,
    method: str,
    given: dict[str, Any],
    report: bool,
    photos: bool,
) -> tuple[ForgetResult, Report | None]:
    """photos: also the items, what is made of the latents that made them, and what a search now finds nearest."""
    loaded = session.loaded
    result = forget(loaded.model, request, method=method, **given)
    if not report:
        return result, None
    page = ItemsReport(model=loaded.spec, record=result.record, picks=result.picks)
    seen = result.record.get("evaluation")
    if not photos or not seen:
        return result, page
    found = {"what made it makes": "before", "nearest now": "after"} if page.edited else {"nearest": "before"}
    shown = {"the item": pixels_of(request.items[:MOST], *bounds)}
    for what, when in found.items():
        latents = torch.tensor(seen[when]["found"][:MOST]).to(request.fresh)
        shown[what] = made_of(loaded.model, request, latents, *bounds)
    return result, replace(page, photos=shown)
