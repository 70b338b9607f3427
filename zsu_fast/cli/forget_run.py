"""What ``zsu-fast forget`` does between reading its options and writing its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zsu_fast.cli.images import ImageSet
from zsu_fast.cli.processes import current
from zsu_fast.cli.session import Session
from zsu_fast.cli.sources import keyed_hash
from zsu_fast.evaluate import Evaluation, ProbeResult
from zsu_fast.evaluate.inference import Progress
from zsu_fast.report import ClassReport, Report, analyse
from zsu_fast.report.made_of import MOST, Made, made_of
from zsu_fast.unlearn import ForgetResult, SyntheticProbes, synthesise
from zsu_fast.unlearn import forget as forget_classes
from zsu_fast.unlearn.group import ALONE
from zsu_fast.unlearn.methods import find_method


@dataclass(frozen=True)
class Images:
    """The images of one request.

    Attributes:
        targets: classes to forget.
        probes: images of them, or how to synthesise some.
        probe_labels: int64 [N], the target each probe belongs to; empty where they are synthesised.
        retain: images of other classes, or None.
        evaluation: labelled images to judge on, or None.
        warnings: what makes the numbers to come worth less.
    """

    targets: list[int]
    probes: ImageSet | SyntheticProbes
    probe_labels: Tensor
    retain: ImageSet | None
    evaluation: ImageSet | None
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """What came out."""

    result: ForgetResult
    before: Evaluation | None = None
    after: Evaluation | None = None
    probe_before: ProbeResult | None = None
    probe_after: ProbeResult | None = None
    report: Report | None = None
    warnings: tuple[str, ...] = ()
    sources: Mapping[str, Sequence[bytes]] | None = None  # option -> digests of the images given

    @property
    def hashed(self) -> dict[str, dict[str, Any]]:
        """The sources by the key that is in the undo file."""
        return {option: keyed_hash(digests, self.result.patch.key) for option, digests in (self.sources or {}).items()}

    @property
    def overlap(self) -> int:
        """How many of the evaluation images are among the others, which choose the edit."""
        sources = dict(self.sources or {})
        judging = sources.pop("--eval", ())
        choosing = {digest for digests in sources.values() for digest in digests}
        return sum(digest in choosing for digest in judging)


def read_forget_images(
    session: Session, target: Sequence[str], probes: Path | str, retain: Path | None, evaluation: Path | None, seed: int
) -> Images:
    """Read and check everything that the user named, before anything is changed.

    probes: where they are; or the shape of those to be synthesised, see `_synthetic`.

    Raises:
        ValueError: images that are not there, or are not of the classes that they are given for.
    """
    found = _synthetic(session, probes, seed) if isinstance(probes, str) else session.read(probes, "--probes")
    judged = session.read_labelled(evaluation, "--eval") if evaluation is not None else None
    kept = session.read(retain, "--retain") if retain is not None else None
    targets = session.targets(target)
    named = ", ".join(session.label(t) for t in targets)
    if isinstance(found, SyntheticProbes):
        labels = torch.empty(0, dtype=torch.int64)
    elif found.labels is None:
        if len(targets) > 1:
            raise ValueError("--probes must be labelled for several targets: class folders, or labels in the .npz")
        labels = torch.full((len(found),), targets[0], dtype=torch.int64)
    else:
        found = found.of_classes(targets)
        assert found.labels is not None
        labels = found.labels
        for t in targets:
            if not bool((labels == t).any()):
                raise ValueError(f"--probes: {probes} holds no image of class {session.label(t)}")
    if kept is not None and kept.labels is not None:
        kept = kept.of_classes(targets, inside=False)
        if len(kept) == 0:
            raise ValueError(f"--retain: {retain} holds no image of another class than {named}")
    warnings = []
    if isinstance(found, ImageSet) and len(found) < 8 * len(targets):
        warnings.append(f"only {len(found)} probes: a few dozen for each class make a sound choice of neurons")
    if judged is not None:
        if isinstance(found, ImageSet) and (shared := found.shared_with(judged)):
            warnings.append(
                f"{shared} of the {len(found)} probes are among the --eval images: "
                "the class will look more forgotten than it is"
            )
        assert judged.labels is not None
        if missing := [t for t in targets if not bool((judged.labels == t).any())]:
            warnings.append(f"--eval holds no image of class {session.label(missing[0])}")
    return Images(targets, found, labels, kept, judged, tuple(warnings))


def run_forget(
    session: Session,
    images: Images,
    settings: dict[str, Any],
    *,
    linear_probe: bool,
    front: bool,
    report: bool,
    photos: bool,
    progress: Progress,
) -> Run:
    """Measure, forget, measure again; gather what the report shows: the first of several processes, on its images."""
    model, group = session.loaded.model, current()
    streams = find_method(settings["method"]).streams
    report = report and group.rank == 0
    request: Any
    if isinstance(images.probes, SyntheticProbes):
        request = synthesise(model, images.targets, images.probes, progress, session.names)
        probes, probe_labels = request.probes, request.probe_labels.cpu()
    else:
        own = session.pair(replace(images.probes, labels=images.probe_labels))
        assert isinstance(own, tuple)
        request, probes, probe_labels = images.targets, own[0], own[1].cpu()
        settings = settings | {"probes": probes, "probe_labels": probe_labels, "class_names": session.names}
        settings |= {} if group is ALONE else {"group": group}
    composite = settings.get("composite", "epsilon")
    if report and settings["method"] == "poison" and probes.dim() == 4:
        settings = {"ablation": True} | settings  # whether the patch is good for anything

    def measure(when: str) -> tuple[Evaluation | None, ProbeResult | None]:
        if images.evaluation is None:
            return None, None
        seed = settings["seed"] if linear_probe else None
        return session.evaluate(images.evaluation, images.targets, progress, f"evaluate {when}", seed)

    before, probe_before = measure("before")
    made = _made_of(session, images, probes) if report and photos else None
    analysis_before = analyse(model, probes, probe_labels, composite=composite) if report else None
    result = forget_classes(
        model,
        request,
        retain_probes=None if images.retain is None else session.given(images.retain, streams),
        evaluate_on=_judging(session, images),
        front=_labelled(session, images.evaluation) if front else None,
        progress=progress,
        **settings,
    )
    warnings = images.warnings
    edited = bool(result.patch.entries)
    after, probe_after = measure("after") if edited else (before, probe_before)
    page = None
    if analysis_before is not None:
        analysis_after = analyse(model, probes, probe_labels, composite=composite) if edited else analysis_before
        shown = 0 if analysis_before.heat is None else len(analysis_before.heat)
        page = ClassReport(
            model=session.loaded.spec,
            record=result.record,
            picks=result.picks,
            names=session.names,
            before=before,
            after=after,
            relevance_before=analysis_before,
            relevance_after=analysis_after,
            photos=session.photos(probes[:shown]) if shown and photos else None,
            probe_before=probe_before,
            probe_after=probe_after,
            warnings=warnings,
            made_of=made,
        )
    return Run(result, before, after, probe_before, probe_after, page, warnings, session.sources)


def _synthetic(session: Session, shape: str, seed: int) -> SyntheticProbes:
    """For a picture CxHxW: of the shape that it has once it is model-ready, between black and white."""
    try:
        channels, height, width = (int(part) for part in shape.lower().split("x"))
    except ValueError:
        raise ValueError(f"--synthetic must be channels x height x width, as 3x32x32, got {shape!r}") from None
    if channels not in (1, 3) or not 0 < height <= 10_000 or not 0 < width <= 10_000:
        raise ValueError(f"--synthetic: expected 1 or 3 channels and sides of 1 to 10000 pixels, got {shape!r}")
    preprocess = session.loaded.preprocess
    black, white = (
        torch.as_tensor(preprocess(np.full((1, height, width, channels), value, np.uint8)))[0].flatten(1)
        for value in (0, 255)
    )
    ready = preprocess(np.zeros((1, height, width, channels), np.uint8)).shape[1:]
    return SyntheticProbes(tuple(ready), low=black.amin(1).tolist(), high=white.amax(1).tolist(), seed=seed)


def _made_of(session: Session, images: Images, probes: Tensor) -> Made | None:
    """Of one class whose images are pictures, beside labelled ones of others."""
    retain = None if images.retain is None else session.pair(images.retain.take(range(len(images.retain))[:MOST]))
    if not isinstance(retain, tuple) or len(images.targets) > 1 or probes.dim() != 4:
        return None
    return made_of(session.loaded.model, probes, images.targets[0], retain, session.photos)


def _judging(session: Session, images: Images) -> Any:
    """The evaluation images of the classes to forget: they have the last word."""
    judged = images.evaluation
    if judged is None or judged.labels is None or not all(bool((judged.labels == t).any()) for t in images.targets):
        return None
    return session.given(judged.of_classes(images.targets), True)


def _labelled(session: Session, images: ImageSet | None) -> tuple[Tensor, Tensor]:
    assert images is not None
    found = session.pair(images)
    assert isinstance(found, tuple)
    return found
