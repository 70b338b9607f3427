"""One request carried through: analyse, search, edit, check, judge, record. Runs inside a transaction."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from zsu_fast.evaluate.accuracy import Evaluation
from zsu_fast.evaluate.given import check_classes, check_targets
from zsu_fast.model.tensors import model_digest
from zsu_fast.unlearn import search
from zsu_fast.unlearn.certificate import certify
from zsu_fast.unlearn.door import check_runs, check_taken
from zsu_fast.unlearn.edits import Edits
from zsu_fast.unlearn.measure import Measurement, Pair, largest_share
from zsu_fast.unlearn.methods import Given, Method, Proposal
from zsu_fast.unlearn.methods.base import Progress
from zsu_fast.unlearn.patch import Patch, patch_of
from zsu_fast.unlearn.picks import Picks
from zsu_fast.unlearn.plan import describe
from zsu_fast.unlearn.requests import Request
from zsu_fast.unlearn.result import ForgetResult, described, jsonable, provenance
from zsu_fast.unlearn.transaction import Transaction
from zsu_fast.unlearn.trial import Trial
from zsu_fast.unlearn.verdict import Verdict, judge

DEFAULT_DROP = 0.02  # of retain accuracy: a hundred probes cannot tell less
MARGIN = 0.25
"""How far below the best other logit the class must fall in the median, as a share of the median lead it had before."""
KNOWN = 0.15
"""A model that answers with the class on fewer of its probes, or on less than a third as many as with another class,
does not know it, as far as can be seen. Probes from another source, or a weak net, lie well above."""


@dataclass(frozen=True)
class _Before:
    """The model before any edit."""

    metrics: dict[str, float | None]
    evaluation: Evaluation | None
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
    ) -> None:
        self.transaction, self.request, self.method = transaction, request, method
        self.retain_given, self.evaluate_on = retain_given, evaluate_on
        self.model = transaction.model
        self.probes, self.labels, self.targets = request.probes, request.probe_labels, request.classes
        self.name = "class " + ", ".join(map(str, self.targets))
        asked = method.asked
        method.check_images(retain_given is not None)
        if asked.utility_floor is not None and retain_given is None:
            raise ValueError("utility_floor: needs retain_probes to measure it on")
        self._check_strength(asked.strength)
        self.structure = check_runs(self.model, self.probes, "probes")
        if retain_given is not None:
            images = retain_given if isinstance(retain_given, Tensor) else retain_given[0]
            check_taken(self.model, images, "retain_probes")
        if evaluate_on is not None:
            check_taken(self.model, evaluate_on[0], "evaluate_on")
        method.check_model(self.structure)
        self.options = method.completed(self.structure)
        self.until = method.until if asked.until is None else asked.until
        self.measurement = Measurement(transaction, request, self.options, self.until, progress)
        self.parts = search.folds(self.labels, method.folds, asked.seed)

    def run(self) -> ForgetResult:
        measurement = self.measurement
        logits = measurement.forward(self.probes)
        self._check_targets(logits.shape[1])
        measurement.retain = self._retain_images()
        margins = search.margins(logits, self.labels)
        evaluation = measurement.evaluation(self.evaluate_on)
        metrics = self._metrics(margins, measurement.retain_accuracy())
        before = _Before(metrics, evaluation, model_digest(self.model))
        unknown = self._unknown(logits)
        if unknown is not None:
            return self._result(before, Verdict("invalid", unknown))
        lead = margins[margins > 0]
        measurement.allowance = MARGIN * (float(lead.median()) if lead.numel() else 0.0)
        floor = self.options.utility_floor
        if floor is None and metrics["retain_accuracy"] is not None and self.options.budget is None:
            floor = metrics["retain_accuracy"] - DEFAULT_DROP
        found, reason = self._look(floor)
        if found is None:
            sentence = f"{self.name}: not forgotten, the model is as it was. {reason}"
            return self._result(before, Verdict("not reached", sentence))
        after = measurement.evaluation(self.evaluate_on)
        verdict = self._verdict(found, after)
        if verdict.level == "not reached":
            self.transaction.undo()
            return self._result(before, verdict, evaluation=after)
        return self._result(before, verdict, found, after)

    def select(self, budget: int | float) -> Picks:
        """What the first proposal would perturb at `budget`."""
        self._check_targets(self.measurement.forward(self.probes[:2]).shape[1])
        self.measurement.retain = self._retain_images()
        proposal = next(iter(self.method.propose(self._given())))
        return proposal.choose(None, None).picks(_count(budget, proposal))

    # --- search

    def _look(self, floor: float | None) -> tuple[_Found | None, str]:
        """The first proposal that reaches the aim, carried out; or None and why there is none."""
        reason = "No neuron speaks for the class on these probes."
        fixed = self.options.budget
        for proposal in self.method.propose(self._given()):
            trial = Trial(self.measurement, proposal, self.parts, self._parts_of_retain())
            if not trial.largest:
                continue
            if fixed is not None:
                budget = min(_count(fixed, proposal), trial.largest)
                if self.options.until is not None and not trial.meets(budget, by_margin=False):
                    reason = f"A budget of {budget} leaves more than {self.until:.3f} of the probes with the class."
                    continue
                return self._carry_out(trial, [budget], None), ""
            if proposal.free:
                budgets = [trial.largest] if trial.meets(trial.largest) else []
            else:
                budgets = self._budgets(trial)
            if not budgets:
                reason = f"No budget brings the accuracy on the class to {self.until:.3f}."
                continue
            found = self._carry_out(trial, budgets, floor)
            if found is not None:
                return found, ""
            reason = f"It would take the retain probes below {floor:.3f}."
        return None, reason

    def _budgets(self, trial: Trial) -> list[int]:
        """Of an edit with a price: the smallest that meets the aim and, where retain images can tell, larger ones."""
        budget = trial.smallest()
        if budget is None:
            return []
        while budget < trial.largest and not trial.meets_as_chosen(budget):
            budget = min(2 * budget, trial.largest)
        if self.measurement.retain is None:
            return [budget]
        return sorted({budget, min(2 * budget, trial.largest), min(4 * budget, trial.largest)})

    def _carry_out(self, trial: Trial, budgets: list[int], floor: float | None) -> _Found | None:
        """The edit in place, at the largest of the budgets (ascending) up to which the floor holds; None if none."""
        measurement = self.measurement
        wrong = None
        if floor is not None and measurement.retain is not None:
            wrong = int((1 - floor) * len(measurement.retain[0]) + 1e-6)
        kept: tuple[int, float | None] | None = None
        for budget in budgets:
            accuracy = trial.retain_accuracy(budget, wrong)
            if floor is not None and accuracy is not None and accuracy < floor:
                break
            kept = (budget, accuracy)
        if kept is None:
            return None
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

        return Given(
            self.model, self.structure, self.targets, self.probes, self.labels, measurement.retain, measurement.forward,
            count, measurement.progress,
        )  # fmt: skip

    def _metrics(self, margins: Tensor, retain_accuracy: float | None) -> dict[str, float | None]:
        return {
            "forget_accuracy": largest_share(self.measurement.answered(margins)),
            "margin": float(margins.median()),
            "retain_accuracy": retain_accuracy,
        }

    def _unknown(self, logits: Tensor) -> str | None:
        """Why the model cannot be said to know a class, if so."""
        if bool(logits.isnan().any()):
            return f"{self.name}: nothing was done, the model gives NaN on the probes (is the preprocessing right?)."
        for target in self.targets:
            answers = logits[self.labels == target].argmax(1)
            counts = torch.bincount(answers, minlength=logits.shape[1]).tolist()
            share = counts[target] / len(answers)
            other = max((count, index) for index, count in enumerate(counts) if index != target)
            instead = other[0] / len(answers)
            if share < KNOWN or share < instead / 3:
                return (
                    f"class {target}: nothing was done, the model does not know it: it recognises "
                    f"{100 * share:.1f} % of the {len(answers)} probes and answers class {other[1]} on "
                    f"{100 * instead:.1f} % (are the class index and the preprocessing right?)."
                )
        return None

    def _verdict(self, found: _Found, evaluation: Evaluation | None) -> Verdict:
        """By `evaluate_on`, which has the last word, or else by the held-out probes."""
        fixed = self.options.budget is not None
        if evaluation is not None:
            nan = evaluation.taken_for.get(-1, 0)  # no answer, which is not the same as another answer
            counts = [
                (min(count, round(evaluation.per_class[t] * count) + nan), count)
                for t, count in ((t, evaluation.counts[t]) for t in self.targets)
            ]
            return judge(self.name, counts, self.until, "evaluation images", fixed)
        counts = self.measurement.answered(found.margins)
        if len(self.parts) < 2:
            sentence = f"{self.name} was edited; all the probes chose the edit, so no image is left to judge it by."
            return Verdict("not judged", sentence, *max(counts))
        return judge(self.name, counts, self.until, "held-out probes", fixed)

    # --- checks

    def _check_strength(self, strength: float | None) -> None:
        for dtype in {p.dtype for p in self.model.parameters() if p.is_floating_point()}:
            if strength is not None and abs(strength) > torch.finfo(dtype).max:
                raise ValueError(f"strength: {strength} overflows the model's {dtype}")

    def _check_targets(self, classes: int) -> None:
        if classes < 2:
            raise ValueError("model: it has one output: there is no other class that it could answer with")
        check_targets(self.targets, classes)
        if isinstance(self.retain_given, tuple):
            check_classes("retain_probes labels", self.retain_given[1], classes)
        if self.evaluate_on is not None:
            labels = self.evaluate_on[1]
            check_classes("evaluate_on labels", labels, classes)
            for target in self.targets:
                if not bool((labels == target).any()):
                    raise ValueError(f"evaluate_on: holds no image of class {target}, so it cannot judge")

    def _retain_images(self) -> Pair | None:
        """Images and labels of other classes; without labels, the model's own answers."""
        if self.retain_given is None:
            return None
        if isinstance(self.retain_given, Tensor):
            images = self.retain_given
            labels = self.measurement.forward(images).argmax(1)
            keep = ~torch.isin(labels, torch.tensor(self.targets, device=labels.device))
            images, labels = images[keep], labels[keep]
            if len(images) == 0:
                raise ValueError(f"retain_probes: the model answers {list(self.targets)} on every one of them")
            return images, labels
        images, labels = self.retain_given
        if bool(torch.isin(labels, torch.tensor(self.targets, device=labels.device)).any()):
            raise ValueError(f"retain_probes: hold images of the classes to forget, {list(self.targets)}")
        return images, labels

    # --- record

    def _result(
        self,
        before: _Before,
        verdict: Verdict,
        found: _Found | None = None,
        evaluation: Evaluation | None = None,
    ) -> ForgetResult:
        picks = Picks() if found is None else found.picks
        after = before.metrics if found is None else self._metrics(found.margins, found.retain_accuracy)
        certificate = None
        if found is not None:
            path = self.method.described(self._given()).get("path", "neuron")
            certificate = certify(self.model, self.structure, found.edits, path, self.probes[:2], self.targets)
            self._check_finite(found)
        reached = (
            found is not None and (after["forget_accuracy"] or 0.0) <= self.until and verdict.level != "not reached"
        )
        retain = self.measurement.retain
        key = secrets.token_hex(32)
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
                "before": before.metrics,
                "after": after,
                "held_out": len(self.parts) > 1,
                "probes": len(self.probes),
            },
            "evaluation": None
            if before.evaluation is None
            else {"before": before.evaluation.to_dict(), "after": (evaluation or before.evaluation).to_dict()},
            "certificate": certificate,
            "search": self.measurement.trace,
            "cost": asdict(self.measurement.cost),
            "model": {"before": before.digest, "after": model_digest(self.model)},
            "probes": described(self.probes, key),
            "retain_probes": None if retain is None else described(retain[0], key),
            **provenance(),
        })  # fmt: skip
        patch = Patch((), record, {}, key) if found is None else patch_of(self.transaction, record, key)
        budget = 0 if found is None else found.budget
        return ForgetResult(
            patch, verdict, reached, by_layer, budget, dict(before.metrics), dict(after), self.measurement.trace,
            certificate, record,
        )  # fmt: skip

    def _check_finite(self, found: _Found) -> None:
        for name in {piece.tensor for piece in found.edits}:
            if not bool(self.transaction.tensors[name].isfinite().all()):
                raise ValueError(f"method: {self.method.name!r} makes values of {name} infinite or NaN")


def _count(budget: int | float, proposal: Proposal) -> int:
    """A budget as a number of neurons: a fraction counts the candidates."""
    return budget if isinstance(budget, int) else max(1, round(budget * proposal.candidates))
