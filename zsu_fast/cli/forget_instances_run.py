"""What ``zsu-fast forget instances`` does between reading its options and writing its files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from zsu_fast.cli.session import Session
from zsu_fast.report.analysis import begun
from zsu_fast.report.instances import MOST, InstancesReport, look
from zsu_fast.unlearn import ForgetInstances, ForgetResult, forget


def read_instances(session: Session, images: Path, goal: str, to: str | None, unseen: Path | None) -> ForgetInstances:
    """The request."""
    x, y = session.pair(session.read_labelled(images, "--images"))
    return ForgetInstances(
        x,
        y,
        goal,
        to=None if to is None else torch.full_like(y, session.targets([to], "--to")[0]),
        unseen=None if unseen is None else session.pair(session.read_labelled(unseen, "--unseen")),
    )


def forget_and_look(
    session: Session, request: ForgetInstances, method: str, given: dict[str, Any], report: bool, photos: bool
) -> tuple[ForgetResult, InstancesReport | None]:
    """Look, forget, look again."""
    model = session.loaded.model
    if not report:
        return forget(model, request, method=method, **given), None
    judged = begun(model, request, session.batch_size)
    before = look(model, judged, session.batch_size)
    result = forget(model, request, method=method, **given)
    page = InstancesReport(
        model=session.loaded.spec,
        record=result.record,
        picks=result.picks,
        names=session.names,
        labels=request.probe_labels.tolist(),
        before=before,
        after=look(model, judged, session.batch_size) if result.patch.entries else None,
        photos=session.photos(request.x[:MOST]) if photos and request.x.dim() == 4 else None,
    )
    return result, page
