"""What a model still knows of a class, as JSON: by its answers, to attackers of its features, and after relearning."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.benchmark.case import Case
from zsu_fast.benchmark.settings import Entry, Few, Measures
from zsu_fast.evaluate import (
    Relearning,
    linear_probe,
    membership,
    mlp_probe,
    nearest_prototype,
    neighbour_probe,
    prototype_row,
    relearn,
)
from zsu_fast.evaluate.fresh_row import classifier_of
from zsu_fast.evaluate.inference import Progress, answers_of
from zsu_fast.evaluate.probe import ProbeResult, features_and_logits
from zsu_fast.unlearn import ForgetResult, forget

PROBES: dict[str, Callable[..., ProbeResult]] = {
    "linear probe": linear_probe,
    "nearest prototype": nearest_prototype,
    "10 neighbours": neighbour_probe,
    "MLP probe": mlp_probe,
}
SEEDED = ("linear probe", "MLP probe")
ATTACK_SEED = 0  # of attackers: not the method's, so that all cells of a class meet the same ones


def known_of(
    model: nn.Module, case: Case, target: int, measures: Measures, progress: Progress | None = None
) -> dict[str, Any]:
    """{"attacks": name -> {"forget", "retain"}: accuracy on the class and on the others, "images", "relearning",
    "membership"}; all on `case.test`."""
    (shown, known), (judging, truth) = case.lessons, case.test
    batch = measures.batch_size
    lessons, lesson_logits = features_and_logits(model, shown, None, batch, progress)
    values, logits = features_and_logits(model, judging, None, batch, progress)
    right = (answers_of(logits) == truth).double()
    found = {"answers": ProbeResult.of(right, truth, [target])}
    given = (lessons, known, values, truth, target)
    for name in measures.attacks:
        if name == "prototype row":
            most = int((known == target).sum())
            for images in sorted({min(count, most) for count in measures.prototypes}):
                found[f"prototype row, {images} images"] = prototype_row(
                    lessons, known, lesson_logits, values, truth, logits, target, images=images, seed=ATTACK_SEED
                )
        else:
            extra: dict[str, int] = {"seed": ATTACK_SEED} if name in SEEDED else {}
            if name == "10 neighbours":
                extra["k"] = min(10, len(known))
            found[name] = PROBES[name](*given, **extra)
    result: dict[str, Any] = {
        "attacks": {
            name: {"forget": probe.forget_accuracy, "retain": probe.retain_accuracy} for name, probe in found.items()
        },
        "images": int((truth == target).sum()),
    }
    if measures.relearn_steps:
        curves = {"relearning": known >= 0}
        if measures.from_others:
            curves["relearning from the others"] = known != target
        result["relearning"] = {}
        for name, kept in curves.items():
            curve = _relearned(model, (shown[kept.to(shown.device)], known[kept]), case, target, measures, progress)
            forgotten, retained = curve.forget_accuracy, curve.retain_accuracy
            result["relearning"][name] = {"steps": list(curve.steps), "forget": forgotten, "retain": retained}
            result["attacks"][name] = {"forget": forgotten[-1], "retain": retained[-1]}
    if measures.membership:
        result["membership"] = _membership(model, case, target, batch)
    return result


def _relearned(
    model: nn.Module,
    lessons: tuple[Tensor, Tensor],
    case: Case,
    target: int,
    measures: Measures,
    progress: Progress | None,
) -> Relearning:
    """From the class's own row or, with lessons of it, a fresh one: what ends with the better mean over the classes."""
    found = [
        relearn(
            model, *lessons, target, test=case.test, steps=measures.relearn_steps, fresh_row=fresh,
            learning_rate=measures.learning_rate, batch_size=measures.batch_size, seed=ATTACK_SEED, progress=progress,
        )
        for fresh in (False, True)
        if not fresh or (bool((lessons[1] == target).any()) and classifier_of(model, lessons[0][:1]) is not None)
    ]  # fmt: skip
    others = len(case.test[1].unique()) - 1
    return max(found, key=lambda curve: curve.forget_accuracy[-1] + others * (curve.retain_accuracy[-1] or 0.0))


def _membership(model: nn.Module, case: Case, target: int, batch_size: int) -> dict[str, Any]:
    """Training images of the class against unseen ones of it; those that judge are among them, they train nothing."""
    assert case.train is not None
    unseen = [torch.cat(parts) for parts in zip(case.lessons, case.test, strict=True)]
    sides = ((x[(y == target).to(x.device)], y[y == target]) for x, y in (case.train, unseen))
    return membership(model, *sides, batch_size=batch_size, seed=ATTACK_SEED).to_dict()


def edited(
    case: Case,
    target: int,
    entry: Entry,
    seed: int,
    few: Few,
    measures: Measures,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """One `forget` on a copy of the model, what it cost, and what is known of the class after it.

    The images that judge have no part in it: `forget` does not get them.
    """
    probes, retain = case.given(target, entry.data, few, seed)
    model = copy.deepcopy(case.model)
    wall, cpu = time.perf_counter(), time.process_time()
    result = forget(
        model, target, probes, method=entry.method, retain_probes=retain, progress=progress, **entry.arguments(seed)
    )  # fmt: skip
    seconds = {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - cpu}
    return {
        "verdict": result.verdict.level,
        "sentence": result.verdict.sentence,
        "reached": result.reached,
        "edited": bool(result.patch.entries),
        "budget": result.budget,
        "given_images": len(probes) + (0 if retain is None else len(retain[0])),
        **seconds,
        **_size(result),
        **known_of(model, case, target, measures, progress),
    }


def _size(result: ForgetResult) -> dict[str, int]:
    """How many values the edit replaced, and the bytes of the undo file's tensors."""
    tensors: list[Tensor] = []
    for entry in result.patch.entries:
        tensors += [entry.old, entry.new] + ([] if entry.indices is None else [entry.indices])
    return {
        "values": sum(entry.new.numel() for entry in result.patch.entries),
        "patch_bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
    }
