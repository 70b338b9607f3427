"""What ``zsu-fast forget concept`` does between reading its options and writing its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zsu_fast.cli.session import Session
from zsu_fast.concepts import ConceptBank, concept_bank
from zsu_fast.report.analysis import begun
from zsu_fast.report.concept import SHOWN, ConceptReport, look, made_of_one
from zsu_fast.unlearn import ForgetConcept, ForgetResult, forget


def read_concept(
    session: Session,
    inside: Path,
    without: Path,
    concept: str | None,
    bank: Path | None,
    layer: str | None,
    used_by: Sequence[str] | None,
    seed: int,
) -> ForgetConcept:
    """The request; without a bank half of the images make one."""
    has, has_not = session.read(inside, "--with"), session.read(without, "--without")
    if shared := has.shared_with(has_not):
        raise ValueError(f"--with: {shared} of its {len(has)} images are among those of --without")
    using = session.targets(used_by, "--used-by") if used_by else None
    images, others = session.tensor(has), session.tensor(has_not)
    if bank is not None:
        known = ConceptBank.load(bank)
        name = concept or known.names[0]
    else:
        name = concept or inside.stem
        known, images, others = bank_of_halves(session, name, images, others, layer, seed)
    return ForgetConcept(name, known, images, others, using)


def bank_of_halves(
    session: Session, name: str, images: Tensor, others: Tensor, layer: str | None, seed: int
) -> tuple[ConceptBank, Tensor, Tensor]:
    """A bank from half of the images of each side, and the other halves."""
    generator = torch.Generator().manual_seed(seed)
    drawn = [side[torch.randperm(len(side), generator=generator).to(side.device)] for side in (images, others)]
    given: dict[str, Any] = {"batch_size": session.batch_size, "seed": seed}
    try:
        bank = concept_bank(session.loaded.model, {name: drawn[0][::2]}, drawn[1][::2], layer, **given)
    except ValueError as error:
        what, _, why = str(error).partition(": ")
        if not what.startswith("concepts["):
            raise
        raise ValueError(f"--with ({name!r}), beside --without as the random ones: {why}") from None
    return bank, drawn[0][1::2], drawn[1][1::2]


def forget_and_look(
    session: Session, request: ForgetConcept, method: str, given: dict[str, Any], report: bool, photos: bool
) -> tuple[ForgetResult, ConceptReport | None]:
    """Look, forget, look again."""
    model, batch_size, seed = session.loaded.model, session.batch_size, given["seed"]
    if not report:
        return forget(model, request, method=method, **given), None
    pictures = photos and request.images.dim() == 4
    judging = given.get("evaluate_on") if pictures else None
    users = begun(model, request, batch_size).users
    before, was = look(model, request, batch_size, seed), made_of_one(model, users, judging, session.photos)
    result = forget(model, request, method=method, **given)
    edited = bool(result.patch.entries)
    now = made_of_one(model, users, judging, session.photos) if edited else None
    page = ConceptReport(
        model=session.loaded.spec,
        record=result.record,
        picks=result.picks,
        names=session.names,
        before=before,
        after=look(model, request, batch_size, seed) if edited else None,
        photos=(session.photos(request.images[:SHOWN]), session.photos(request.without[:SHOWN])) if pictures else None,
        made_of=(was, now),
    )
    return result, page
