"""`forget`: analyse, select, perturb, verify and record, in one call."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from zsu_fast.evaluate.images import held, is_read_once
from zsu_fast.evaluate.inference import model_device
from zsu_fast.extras import require
from zsu_fast.model.shards import group_of_parts
from zsu_fast.model.tensors import tensor_digest
from zsu_fast.unlearn.checkpoint import Checkpoint, kept_in
from zsu_fast.unlearn.collective import check_alike, shared_images, shared_request
from zsu_fast.unlearn.door import check_model
from zsu_fast.unlearn.fitted import Room, with_room
from zsu_fast.unlearn.group import ALONE, Group, together
from zsu_fast.unlearn.methods import RESUMABLE, Method, find_method, methods_for
from zsu_fast.unlearn.methods.base import Progress
from zsu_fast.unlearn.options import check_progress
from zsu_fast.unlearn.picks import Picks
from zsu_fast.unlearn.read import read_labelled, read_probes, read_retained
from zsu_fast.unlearn.replicas import agreed, check_replicas, processes_of
from zsu_fast.unlearn.requests import ForgetClass, Request
from zsu_fast.unlearn.result import ForgetResult
from zsu_fast.unlearn.synthetic import SyntheticProbes, synthesise
from zsu_fast.unlearn.task import Task
from zsu_fast.unlearn.transaction import Transaction, roll_back, transact


def forget(
    model: nn.Module,
    target: Request | int | str | Sequence[int | str],
    probes: Any = None,
    *,
    method: str = "lra-npp",
    probe_labels: Tensor | Sequence[int] | None = None,
    class_names: Mapping[int, str] | Sequence[str] | None = None,
    retain_probes: Any = None,
    evaluate_on: Any = None,
    front: Any = None,
    progress: Progress | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    checkpoint_every: float = 30.0,
    group: dist.ProcessGroup | None = None,
    **options: Any,
) -> ForgetResult:
    """Make a trained classifier forget, in place, from a few images that it was not trained on.

        result = forget(model, 3, probes)                          # the same as
        result = forget(model, ForgetClass(3, probes))
        result = forget(model, ForgetInstances(x, y), method="margin")  # images that it was trained on

    Args:
        model: any module that returns logits [N, classes] (or an object with `.logits`), or a wrapper of one (DDP,
            DataParallel, torch.compile, AveragedModel); edited in place.
        target: the class index to forget, or several, with `probes` (and `probe_labels`, unless the probes come with
            labels); or its name, with `class_names`; or a request that has all.
        probes: images of it [N, ...]; or `SyntheticProbes`, where there are none: then they are synthesised from the
            model, those of other classes too, and nothing is judged on real images but by `evaluate_on`. Here and
            below: tensors, arrays, lists, Datasets, loaders, see `zsu_fast.evaluate.images_of`. "lra-npp" and
            "channels" read a Dataset or a loader batch by batch, with the same result as from a tensor; methods that
            train hold all images in memory.
        method: "lra-npp" ranks the inputs of the classifier by relevance for the class and cuts the paths that speak
            for it (arXiv 2410.23693); it changes what the model says, hardly what its features know. "channels" masks
            units of any layers, exactly. "deep" teaches late layers to carry only what tells the other classes apart:
            the features forget too. "poison" learns the class as others, from labelled training images. Of a
            `ForgetConcept`: "concept". The baselines of the field ("retrain", "scrub", "ssd" ..) are in
            `zsu_fast.unlearn.methods.BASELINES`. Other packages add methods, see `zsu_fast.unlearn.methods`.
        class_names: names of the model's classes, in order, or index -> name; names with synonyms, other case and
            spacing find the class, too. Those of the targets stand in verdict, summary and record.
        retain_probes: images of other classes (or than the instances), with labels or without (then the model's own
            answers count).
        evaluate_on: (images, labels) that have the last word: the verdict is theirs, and an edit that does not hold
            on them is taken back. None of the probes should be among them. Instances judge themselves: then these show
            what the edit costs, and one that costs more than `utility_floor` allows is taken back.
        front: (images, labels) of the class and of others, on which edits of other sizes are measured too: see
            `result.front`. They have no part in the choice. Needs scikit-learn.
        progress: called as progress(done, total, text).
        checkpoint: a folder in which a method that trains (`zsu_fast.unlearn.methods.RESUMABLE`) keeps what it has come
            to; it is empty again when the call returns. One that was killed is called again with the same arguments and
            `resume`: the edit has the same bits. Each process needs a folder of its own.
        resume: go on from what is in that folder, or begin, where nothing is. What was kept of another model, other
            images, options, versions, or another number of threads is refused.
        checkpoint_every: seconds; more where writing takes more than a twentieth of the time. 0: after every step.
        group: processes that forget together (docs/scale.md), each with a model of its own with the same tensors, and
            with images of its own, or none (`images[:0]`): one decision, the same edit, record and patch in all, on the
            same bits however many there are. All of them must call. For classes, by "lra-npp" and "channels".
        options: of the method; `method_options(method)` has them all, with their defaults. Common to all: `budget`,
            `until`, `utility_floor`, `mode`, `strength`, `seed`, `batch_size`.

    Without a budget, an edit that costs the other classes nothing (path "target" of "lra-npp") is taken in full; one
    that has a price is taken as far as `utility_floor` allows (by default two points of retain accuracy), or, without
    retain probes, only until the class has fallen behind with a margin on held-out probes.

    Returns:
        ForgetResult. `result.verdict` says what may be said; if nothing was reached the model is as it was.

    Raises:
        ValueError, TypeError: naming the argument; the model is as it was. So it is after any other exception. With
            `group`, and of a DDP model without it, what one process raises is raised in all.
    """
    opened: list[Transaction] = []

    def work() -> ForgetResult:
        with kept_in(checkpoint, resume, checkpoint_every) as kept:
            result: ForgetResult = _carry_out(
                model, target, probes, probe_labels, class_names, retain_probes, evaluate_on, progress, method, options,
                Task.run, processes, group is not None, front, opened, kept,
            )  # fmt: skip
            return result

    processes = processes_of(model, group)
    try:
        return together(processes, work)
    except BaseException:
        roll_back(opened)
        raise


def select(
    model: nn.Module,
    target: Request | int | str | Sequence[int | str],
    probes: Any = None,
    *,
    budget: int | float,
    method: str = "lra-npp",
    probe_labels: Tensor | Sequence[int] | None = None,
    class_names: Mapping[int, str] | Sequence[str] | None = None,
    retain_probes: Any = None,
    group: dist.ProcessGroup | None = None,
    **options: Any,
) -> Picks:
    """The neurons that `forget` would perturb at a given budget; the model is not changed. Arguments as in `forget`."""

    def work() -> Picks:
        if budget is None:
            raise TypeError("budget: expected a count or a fraction, got None")
        picks: Picks = _carry_out(
            model, target, probes, probe_labels, class_names, retain_probes, None, None, method,
            options | {"budget": budget}, lambda task: task.select(task.options.budget), processes, group is not None,
        )  # fmt: skip
        return picks

    processes = processes_of(model, group)
    return together(processes, work)


def method_options(method: str) -> dict[str, str]:
    """Name -> explanation and default of every option of a method."""
    found = {}
    for f in fields(find_method(method).options):
        shown = f.metadata["shown"] or f.default
        found[f.name] = f.metadata["help"] + ("" if shown is None else f" Default: {shown}.")
    return found


def _carry_out(
    model: Any,
    request: Any,
    probes: Any,
    probe_labels: Any,
    class_names: Any,
    retain_probes: Any,
    evaluate_on: Any,
    progress: Any,
    method: str,
    options: dict[str, Any],
    run: Any,
    processes: Group,
    shared: bool,
    front: Any = None,
    opened: list[Transaction] | None = None,
    checkpoint: Checkpoint | None = None,
) -> Any:
    """Everything checked at the door, then one transaction around all the rest. shared: each of the processes brings
    images of its own; otherwise they are to do the same."""
    bare = check_model(model, find_method(method).in_parts and not isinstance(probes, SyntheticProbes))
    if shared and group_of_parts(bare) is not None:
        raise ValueError("group: the processes of a model in parts run it together, on the same images; leave it out")
    device = model_device(bare, torch.device("cpu"))
    check_progress(progress)
    asked = request.targets if isinstance(request, ForgetClass) else request
    if isinstance(request, _REQUESTS) and (probes is not None or probe_labels is not None or class_names is not None):
        raise TypeError("probes: part of the request already, as labels and names are")
    if shared:
        request = shared_request(processes, request, probes, probe_labels, class_names, device)
    elif isinstance(probes, SyntheticProbes):
        if probe_labels is not None:
            raise TypeError("probe_labels: synthesised probes have their own")
    elif not isinstance(request, _REQUESTS):
        request = ForgetClass(request, probes, probe_labels, class_names)
    chosen = configured(method, options)
    _check_kind(type(request) if isinstance(request, _REQUESTS) else ForgetClass, chosen)
    if checkpoint is not None and not chosen.resumable:
        raise ValueError(f"checkpoint: method {method!r} cannot go on from one; these can: {', '.join(RESUMABLE)}")
    if shared:
        if front is not None:
            raise ValueError("front: is drawn by one process, without group")
        retain_probes = shared_images("retain_probes", retain_probes, device)
        evaluate_on = shared_images("evaluate_on", evaluate_on, device)
        check_alike(processes, bare, chosen, request, {"retain_probes": retain_probes, "evaluate_on": evaluate_on})
    else:
        if isinstance(request, ForgetClass):
            request = read_probes(request, chosen, device)
        if retain_probes is not None:
            retain_probes = read_retained(retain_probes, chosen, device)
        if evaluate_on is not None:
            evaluate_on = read_labelled("evaluate_on", evaluate_on, device)
        if processes is not ALONE:
            read = request.probes if isinstance(request, ForgetClass) else probes
            same = {"target": asked, "probes": read, "probe_labels": probe_labels, "retain_probes": retain_probes}
            check_replicas(processes, same | {"evaluate_on": evaluate_on, "method": method, "options": options})
    if front is not None:
        images, labels = read_labelled("front", front, device)
        front = held(images), labels
        require("sklearn", "evaluate")
    if isinstance(probes, SyntheticProbes):
        request = synthesise(bare, request, probes, progress, class_names)

    given = {"front": front, "checkpoint": checkpoint, "group": processes if shared else ALONE, "processes": processes}
    given |= {} if progress is None else {"progress": progress}

    def work(transaction: Transaction, room: Room) -> Any:
        return agreed(
            processes,
            lambda: run(Task(transaction, request, chosen, retain_probes, evaluate_on, room=room, **given)),
            lambda result: _decision(result) if isinstance(result, ForgetResult) else None,
        )

    retained = retain_probes[0] if isinstance(retain_probes, tuple) else retain_probes
    gone = is_read_once(retained) or (isinstance(request, ForgetClass) and is_read_once(request.probes))
    repeatable = processes is ALONE and checkpoint is None and not gone
    return with_room(
        lambda room: transact(bare, partial(work, room=room), request.view(bare), opened), repeatable, device
    )


# The first is looked at first: the protocol asks for every property of a request, which reads images.
_REQUESTS = (ForgetClass, Request)


def _decision(result: ForgetResult) -> object:
    """Where was edited, and what stands there now: what replicas must have in common."""
    return result.record["edits"], [tensor_digest(entry.new) for entry in result.patch.entries]


def _check_kind(request: type[Request], method: Method) -> None:
    """ValueError, naming both and what would fit, for a method that cannot carry out such a request."""
    if request.kind not in method.takes:
        raise ValueError(
            f"method: {method.name!r} takes requests to forget {', '.join(sorted(method.takes))}, got "
            f"{request.__name__}; of that kind: {', '.join(methods_for(request.kind))}"
        )


def configured(method: str, options: dict[str, Any]) -> Method:
    """The method with its options checked. TypeError for an option that it does not have."""
    kind = find_method(method)
    known = [f.name for f in fields(kind.options)]
    for name in options:
        if name not in known:
            raise TypeError(f"{name}: method {method!r} has no such option; it has {', '.join(known)}")
    return kind(kind.options(**options))
