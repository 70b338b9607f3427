"""One request carried through: analyse, search, edit, check, judge, record. Runs inside a transaction."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor

from zsu_fast.evaluate.given import check_classes, check_labels
from zsu_fast.evaluate.images import ImageStream, is_read_once
from zsu_fast.model.tensors import model_digest
from zsu_fast.unlearn import search
from zsu_fast.unlearn.certificate import certify
from zsu_fast.unlearn.checkpoint import Checkpoint, Stretch, fingerprint
from zsu_fast.unlearn.door import check_taken
from zsu_fast.unlearn.edits import Edits
from zsu_fast.unlearn.fitted import Room, fitted
from zsu_fast.unlearn.front import Front
from zsu_fast.unlearn.group import ALONE, Group
from zsu_fast.unlearn.measure import Measurement, answering, largest_share
from zsu_fast.unlearn.methods import Given, Method, Proposal
from zsu_fast.unlearn.methods.base import Progress
from zsu_fast.unlearn.patch import Patch, patch_of
from zsu_fast.unlearn.picks import Picks
from zsu_fast.unlearn.plan import describe
from zsu_fast.unlearn.requests import Pair, Request, counted
from zsu_fast.unlearn.result import ForgetResult, described, jsonable, provenance
from zsu_fast.unlearn.shard import Shard
from zsu_fast.unlearn.transaction import Transaction
from zsu_fast.unlearn.trial import Trial
from zsu_fast.unlearn.verdict import Evaluated, Evidence, Verdict
from zsu_fast.unlearn.watch import classifier_inputs, trace_structure

LOG = logging.getLogger(__name__)
DEFAULT_DROP = 0.02  # of retain accuracy: a hundred probes cannot tell less


@dataclass(frozen=True)
class _Before:
    """The model before any edit."""

    metrics: dict[str, float | None]
    evaluation: Evaluated | None
    digest: str


@dataclass(frozen=True)
class _Found:
    """An edit that is in place: what the record says of it."""

    proposal: Proposal
    budget: int
    picks: Picks
    edits: Edits
    margins: Tensor  # [N] of the probes, each under an edit chosen without it where there are folds
    retain_accuracy: float | None


class Task:
    """One request: the transaction, the images, and the steps from analysis to record."""

    def __init__(
        self,
        transaction: Transaction,
        request: Request,
        method: Method,
        retain_given: Tensor | Pair | None = None,
        evaluate_on: Pair | None = None,
        progress: Progress = lambda done, total, text: None,
        front: Pair | None = None,
        checkpoint: Checkpoint | None = None,
        group: Group = ALONE,
        room: Room | None = None,
        processes: Group = ALONE,
    ) -> None:
        """group: processes that bring images of their own; processes: all that are to do the same."""
        self.group = group
        self.transaction, self.request, self.method, self.checkpoint = transaction, request, method, checkpoint
        self.retain_given = retain_given
        self.evaluate_on = evaluate_on if evaluate_on is None or group is ALONE else self._judging(*evaluate_on)
        self.model, self.view = transaction.model, transaction.view
        self.targets = request.classes
        asked = method.asked
        has_retain = retain_given is not None or request.retain is not None
        method.check_images(has_retain)
        if asked.utility_floor is not None and not has_retain:
            if not request.is_its_images:
                raise ValueError("utility_floor: needs retain_probes to measure it on")
            if evaluate_on is None:
                raise ValueError("utility_floor: needs retain_probes or evaluate_on to measure it on")
        self._check_strength(asked.strength)
        probes = self._shard(request.probes, request.argument)
        few = check_taken(self.view, probes.some, request.argument)
        self.structure = trace_structure(self.model, few, self.view)
        others = None
        if retain_given is not None:
            images = retain_given[0] if isinstance(retain_given, tuple) else retain_given
            others = self._shard(images, "retain_probes")
            check_taken(self.view, others.some, "retain_probes")
        for name, given in (("evaluate_on", evaluate_on), ("front", front)):
            if given is not None and (group is ALONE or len(given[0])):
                check_taken(self.view, given[0], name)
        method.check_model(self.structure)
        self._check_targets(self.structure.classes)
        room = Room() if room is None else room
        self.method = method = fitted(method, self.model, self.structure, self.view, few, room, processes)
        size = method.asked.batch_size
        probes, others = replace(probes, size=size), None if others is None else replace(others, size=size)
        if group is not ALONE and self.evaluate_on is not None:
            judging, labels = self.evaluate_on
            assert isinstance(judging, Shard)
            self.evaluate_on = replace(judging, size=size), labels
        self.options = method.completed(self.structure)
        self.until = method.until if asked.until is None else asked.until
        self.measurement = Measurement(transaction, request, self.options, self.until, progress)
        self.front = None
        if front is not None:
            self.front = Front(self.measurement, front)
            self.front.check(self.targets, self.structure.classes)
        self.request = self.measurement.request = request.started(self.measurement.forward, self.view)
        self.probes = probes if group is not ALONE else self._shard(self.request.probes, request.argument)
        self.measurement.probes = self.probes
        self._classified: Pair | None = None
        self._retain_classified: Pair | None = None
        if is_read_once(self.request.probes):
            self._first_look()  # before anything else is asked of them
        self.labels = self.request.probe_labels
        self.parts = search.folds(self.labels, method.folds, asked.seed)
        self.measurement.retain = self._retain_images(others)

    def run(self) -> ForgetResult:
        measurement = self.measurement
        logits = self.group.gather(self._first_look())
        margins = self.request.margins(logits, torch.ones_like(self.labels, dtype=torch.bool))
        evaluation = measurement.evaluation(self.evaluate_on)
        digest, unknown = model_digest(self.model), self.request.unknown(logits)
        if self.checkpoint is not None:
            given = {"request": (self.request, self.request.probes, self.labels), "retain images": measurement.retain}
            decides = fingerprint(self.model, digest, self.method.name, self.method.asked, given)
            self.checkpoint.begin(self.model, decides, measurement.cost)
        proposals = iter(()) if unknown is not None else self.method.propose(self._given())
        first = next(proposals, None)  # the analysis, which may know more than the images
        metrics = self._metrics(margins, measurement.retain_accuracy_before())
        before = _Before(metrics, evaluation, digest)
        LOG.info("%s, by %s, on %d images: before %s", self.request.name, self.method.name, self.probes.total, metrics)
        if unknown is not None:
            return self._result(before, Verdict("invalid", unknown))
        lead = margins[margins > 0]
        measurement.allowance = self.request.behind * (float(lead.median()) if lead.numel() else 0.0)
        floor = self.options.utility_floor
        if floor is None and metrics["retain_accuracy"] is not None and self.options.budget is None:
            floor = metrics["retain_accuracy"] - DEFAULT_DROP
        found, reason = self._look(() if first is None else chain([first], proposals), floor)
        if found is None:
            sentence = f"{self.request.name}: not forgotten, the model is as it was. {reason}"
            return self._result(before, Verdict("not reached", sentence))
        after = measurement.evaluation(self.evaluate_on)
        verdict = self._verdict(found, evaluation, after)
        if verdict.level == "not reached":
            self.transaction.undo()
            return self._result(before, verdict, evaluation=after)
        return self._result(before, verdict, found, after)

    def select(self, budget: int | float) -> Picks:
        """What the first proposal would perturb at `budget`."""
        proposal = next(iter(self.method.propose(self._given())))
        return proposal.choose(None, None).picks(_count(budget, proposal))

    # --- search

    def _look(self, proposals: Iterable[Proposal], floor: float | None) -> tuple[_Found | None, str]:
        """The first proposal that reaches the aim, carried out; or None and why there is none."""
        reason = "Nothing that this method edits speaks for it on these images."
        fixed = self.options.budget
        for proposal in proposals:
            trial = Trial(self.measurement, proposal, self.parts, self._parts_of_retain())
            if not trial.largest:
                LOG.info("skipped: %s: nothing to edit", _told(proposal))
                continue
            if fixed is not None:
                budget = min(_count(fixed, proposal), trial.largest)
                if self.options.until is not None and not trial.meets(budget, by_margin=False):
                    left = counted(self.request)
                    reason = f"A budget of {budget} leaves more than {self.until:.3f} of the {left}."
                    continue
                return self._carry_out(trial, [budget], None), ""
            if proposal.free:
                budgets = [trial.largest] if trial.meets(trial.largest) else []
            else:
                budgets = self._budgets(trial)
            if not budgets:
                if self.front is not None:
                    self.front.draw(trial, None)
                reason = f"No budget leaves at most {self.until:.3f} of the {counted(self.request)}."
                LOG.info("skipped: %s: %s", _told(proposal), reason)
                continue
            found = self._carry_out(trial, budgets, floor)
            if found is not None:
                return found, ""
            reason = f"It would take the retain probes below {floor:.3f}."
            LOG.info("skipped: %s: %s", _told(proposal), reason)
        return None, reason

    def _budgets(self, trial: Trial) -> list[int]:
        """Of an edit with a price: the smallest that meets the aim and, where retain images can tell, larger ones."""
        budget = trial.smallest()
        if budget is None:
            return []
        while budget < trial.largest and not trial.meets_as_chosen(budget):
            budget = min(2 * budget, trial.largest)
        if self.measurement.retain is None or trial.proposal.smallest:
            return [budget]
        return sorted({budget, min(2 * budget, trial.largest), min(4 * budget, trial.largest)})

    def _carry_out(self, trial: Trial, budgets: list[int], floor: float | None) -> _Found | None:
        """The edit in place, at the largest of the budgets (ascending) up to which the floor holds; None if none."""
        measurement = self.measurement
        wrong = None
        if floor is not None and measurement.retain is not None:
            assert measurement.others is not None
            wrong = int((1 - floor) * measurement.others.total + 1e-6)
        kept: tuple[int, float | None] | None = None
        for budget in budgets:
            accuracy = trial.retain_accuracy(budget, wrong)
            if floor is not None and accuracy is not None and accuracy < floor:
                break
            kept = (budget, accuracy)
        if self.front is not None:
            self.front.draw(trial, None if kept is None else kept[0])
        if kept is None:
            return None
        LOG.info("selected: %d of %d, %s", kept[0], trial.largest, _told(trial.proposal))
        margins, edits = trial.held_out(kept[0]), trial.choice.edits(kept[0])
        measurement.edit(edits)
        return _Found(trial.proposal, kept[0], trial.choice.picks(kept[0]), edits, margins, kept[1])

    # --- measuring

    def _parts_of_retain(self) -> list[Tensor]:
        """Parts of the retain images, to be held out with those of the probes where the method learns from them."""
        retain = self.measurement.retain
        if not self.method.learns or retain is None or not 1 < len(self.parts) <= len(retain[0]):
            return []
        return search.folds(torch.zeros(len(retain[0]), dtype=torch.int64), len(self.parts), self.options.seed)

    def _given(self) -> Given:
        measurement = self.measurement

        def count(images: int) -> None:
            measurement.cost.relevance_images += images

        def note(logits: Tensor) -> None:
            measurement.known = logits

        def stretch(things: Sequence[Any]) -> Stretch:
            return Stretch() if self.checkpoint is None else self.checkpoint.stretch(things)

        return Given(
            self.model, self.structure, self.targets, self.probes.images, self.probes.own(self.labels),
            measurement.retain, measurement.forward, count, measurement.progress, self.request, note, self._classified,
            self.request.view, stretch, self.probes, measurement.others, self._retain_classified,
        )  # fmt: skip

    def _first_look(self) -> Tensor:
        """Logits of the probes; what enters the classifier is kept from the same pass for a method that reads it."""
        if self._classified is not None:
            return self._classified[1]
        if self.structure.head is None or not self.method.reads_classifier:
            return self.measurement.run(self.probes)
        self._classified = self._classify(self.probes)
        return self._classified[1]

    def _classify(self, shard: Shard) -> Pair:
        """What enters the classifier, [n, D], and logits [n, classes]."""
        assert self.structure.head is not None
        weight = self.transaction.tensors.held(self.structure.head.weight)
        features, logits = classifier_inputs(self.transaction.view, weight, shard.batches(), shard.expected)
        self.measurement.cost.images_forwarded += shard.rows
        return shard.outcome(features), shard.outcome(logits)

    def _metrics(self, margins: Tensor, retain_accuracy: float | None) -> dict[str, float | None]:
        return {
            "forget_accuracy": largest_share(self.measurement.answered(margins)),
            "margin": float(margins.median()),
            "retain_accuracy": retain_accuracy,
        }

    def _verdict(self, found: _Found, before: Evaluated | None, after: Evaluated | None) -> Verdict:
        fixed, floor = self.options.budget is not None, self.options.utility_floor
        if floor is None and not fixed and before is not None and before.accuracy is not None:
            floor = before.accuracy - DEFAULT_DROP
        counts = self.measurement.answered(found.margins)
        verdict = self.request.verdict(Evidence(counts, len(self.parts) > 1, self.until, fixed, before, after, floor))
        remark = self.method.remark(found.edits, self.structure) if verdict.level != "not reached" else ""
        return replace(verdict, sentence=f"{verdict.sentence} {remark}".strip())

    # --- checks

    def _check_strength(self, strength: float | None) -> None:
        for dtype in {p.dtype for p in self.model.parameters() if p.is_floating_point()}:
            if strength is not None and abs(strength) > torch.finfo(dtype).max:
                raise ValueError(f"strength: {strength} overflows the model's {dtype}")

    def _check_targets(self, classes: int) -> None:
        if classes < 2:
            raise ValueError("model: it has one output: there is no other class that it could answer with")
        self.request.check(classes, None if self.evaluate_on is None else self.evaluate_on[1])
        if isinstance(self.retain_given, tuple) and not is_read_once(self.retain_given[0]):
            check_classes("retain_probes labels", self.retain_given[1], classes)
        if self.evaluate_on is not None:
            check_classes("evaluate_on labels", self.evaluate_on[1], classes)

    def _shard(self, images: Tensor, argument: str) -> Shard:
        return Shard.of(images, self.method.asked.batch(images), self.group, argument)

    def _judging(self, images: Tensor, labels: Tensor) -> tuple[Shard, Tensor]:
        """Images here, and the labels of all."""
        return self._shard(images, "evaluate_on"), self.group.gather(labels)

    def _retain_images(self, given: Shard | None) -> Pair | None:
        """Images and labels of other classes; without labels, the model's own answers. They are numbered, too."""
        measurement = self.measurement
        if given is None:
            retain = self.request.retain
            measurement.others = None if retain is None else self._shard(retain[0], "retain_probes")
            return retain
        measurement.others = given
        if not isinstance(self.retain_given, tuple):
            logits = measurement.run(given)
            labels = answering(self.view, logits).argmax(1)
            keep = ~torch.isin(labels, torch.tensor(self.targets, device=labels.device, dtype=labels.dtype))
            if not int(self.group.sum(keep.sum())):
                raise ValueError(f"retain_probes: the model answers {list(self.targets)} on every one of them")
            measurement.known = logits[keep]
            measurement.others = self._shard(given.images[keep], "retain_probes")
            return measurement.others.images, labels[keep]
        images, labels = self.retain_given
        if is_read_once(images):  # what is kept of them takes the place of further readings
            self._retain_classified = self._classify(given)
            measurement.known = self._retain_classified[1]
            labels = cast(ImageStream, images).labels if labels is None else labels
            labels = check_labels("retain_probes labels", labels, len(images), images.device)
            check_classes("retain_probes labels", labels, self.structure.classes)
        if bool(torch.isin(labels, torch.tensor(self.targets, device=labels.device, dtype=labels.dtype)).any()):
            raise ValueError(f"retain_probes: hold images of the classes to forget, {list(self.targets)}")
        return images, labels

    # --- record

    def _result(
        self,
        before: _Before,
        verdict: Verdict,
        found: _Found | None = None,
        evaluation: Evaluated | None = None,
    ) -> ForgetResult:
        picks = Picks() if found is None else found.picks
        after = before.metrics if found is None else self._metrics(found.margins, found.retain_accuracy)
        certificate = None
        if found is not None:
            path = self.method.described(self._given()).get("path", "neuron")
            certificate = certify(
                self.model, self.structure, found.edits, path, self.probes.some, self.targets, self.view
            )
            self._check_finite(found)
        reached = (
            found is not None and (after["forget_accuracy"] or 0.0) <= self.until and verdict.level != "not reached"
        )
        LOG.info("verdict: %s: %s", verdict.level, verdict.sentence)
        retain = self.measurement.others
        key = self.group.first(secrets.token_hex(32))
        by_layer = picks.by_layer(self.structure.head.name if self.structure.head else None)
        asked = asdict(self.method.asked) | self.method.described(self._given())
        record = jsonable({
            "request": self.request.describe() | {"method": self.method.name} | asked,
            "verdict": verdict.to_dict(),
            "reached": reached,
            "reason": "" if found is not None else verdict.sentence,
            "mode": None if found is None else found.proposal.mode,
            "budget": 0 if found is None else found.budget,
            "until": self.until,
            "picks": describe(picks),
            "edits": [
                {"tensor": w.tensor, "row": w.row, "dim": w.dim, "indices": w.index.tolist()}
                for w in self.transaction.journal
            ],
            "metrics": {
                "counted": counted(self.request),
                "before": before.metrics,
                "after": after,
                "held_out": len(self.parts) > 1,
                "probes": self.probes.total,
            },
            "evaluation": None
            if before.evaluation is None
            else {"before": before.evaluation.to_dict(), "after": (evaluation or before.evaluation).to_dict()},
            "certificate": certificate,
            "findings": self.method.findings(),
            "search": self.measurement.trace,
            **({} if self.front is None else {"front": self.front.finished(found is not None)}),
            "cost": self._cost(),
            "model": {"before": before.digest, "after": model_digest(self.model)},
            "probes": described(self.probes, key),
            "retain_probes": None if retain is None else described(retain, key),
            **({} if self.group is ALONE else {"processes": self.group.size}),
            **provenance(),
        })  # fmt: skip
        record = self.group.first(record)  # the time is not the same
        patch = Patch((), record, {}, key) if found is None else patch_of(self.transaction, record, key)
        budget = 0 if found is None else found.budget
        return ForgetResult(
            patch, verdict, reached, by_layer, budget, dict(before.metrics), dict(after), self.measurement.trace,
            certificate, record,
        )  # fmt: skip

    def _cost(self) -> dict[str, int]:
        """Of all processes together; they look at edits in step."""
        cost = asdict(self.measurement.cost)
        images = [name for name in cost if name != "steps"]
        return cost | dict(zip(images, self.group.sum(torch.tensor([cost[n] for n in images])).tolist(), strict=True))

    def _check_finite(self, found: _Found) -> None:
        for name in {piece.tensor for piece in found.edits}:
            if not bool(self.transaction.tensors[name].isfinite().all()):
                raise ValueError(f"method: {self.method.name!r} makes values of {name} infinite or NaN")


def _told(proposal: Proposal) -> str:
    return " ".join([proposal.mode, *proposal.layers])


def _count(budget: int | float, proposal: Proposal) -> int:
    """A budget as a number of neurons: a fraction counts the candidates."""
    return budget if isinstance(budget, int) else max(1, round(budget * proposal.candidates))
