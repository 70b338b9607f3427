"""One request carried through: analyse, search, edit, check, judge, record. Runs inside a transaction."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from zsu_fast.evaluate.inference import answers_of, logits_of
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.model.tensors import model_digest
from zsu_fast.unlearn import search
from zsu_fast.unlearn.certificate import certify
from zsu_fast.unlearn.door import check_runs
from zsu_fast.unlearn.methods import Given, Method, Proposal
from zsu_fast.unlearn.methods.base import Progress
from zsu_fast.unlearn.patch import Patch, patch_of
from zsu_fast.unlearn.picks import Picks
from zsu_fast.unlearn.plan import Slice, describe
from zsu_fast.unlearn.requests import Request
from zsu_fast.unlearn.result import ForgetResult, described, jsonable, provenance
from zsu_fast.unlearn.transaction import Transaction
from zsu_fast.unlearn.verdict import Verdict, judge

DEFAULT_DROP = 0.02  # of retain accuracy: a hundred probes cannot tell less
FOLDS = 4
MARGIN = 0.25
"""How far below the best other logit the class must fall in the median, as a share of the median lead it had before."""
KNOWN = 0.15
"""A model that answers with the class on fewer of its probes, or on less than a third as many as with another class,
does not know it, as far as can be seen. Probes from another source, or a weak net, lie well above."""

Pair = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class _Found:
    """An edit that was chosen: what the record says of it."""

    proposal: Proposal
    budget: int
    picks: Picks
    slices: list[Slice]
    held_out: Tensor  # [N] margins of the probes, each under an edit chosen without it
    retain_accuracy: float | None


@dataclass
class _Cost:
    images_forwarded: int = 0
    relevance_images: int = 0
    steps: int = 0


@dataclass
class Task:
    """One request: the transaction, the images, and the steps from analysis to record."""

    transaction: Transaction
    request: Request
    method: Method
    retain_given: Tensor | Pair | None = None
    evaluate_on: Pair | None = None
    progress: Progress = lambda done, total, text: None
    trace: list[dict[str, Any]] = field(default_factory=list)
    cost: _Cost = field(default_factory=_Cost)

    def __post_init__(self) -> None:
        self.model = self.transaction.model
        self.options = self.method.asked
        self.probes, self.labels = self.request.probes, self.request.probe_labels
        self.targets = self.request.classes
        self.name = "class " + ", ".join(map(str, self.targets))
        self.method.check_images(self.retain_given is not None)
        if self.options.utility_floor is not None and self.retain_given is None:
            raise ValueError("utility_floor: needs retain_probes to measure it on")
        self._check_strength()
        self.structure = check_runs(self.model, self.probes, "probes")
        self.method.check_model(self.structure)

    @property
    def until(self) -> float:
        return self.method.until if self.options.until is None else self.options.until

    def run(self) -> ForgetResult:
        logits = self._forward(self.probes)
        self._check_targets(logits.shape[1])
        self.retain = self._retain_images()
        self.before_margins = search.margins(logits, self.labels)
        judged_before = self._judge_images()
        before = self._metrics(self.before_margins, self._retain_right(0))
        digest = model_digest(self.model)
        unknown = self._unknown(logits)
        if unknown is not None:
            return self._result(None, Verdict("invalid", unknown), before, digest, judged_before)
        lead = self.before_margins[self.before_margins > 0]
        self.allowance = MARGIN * (float(lead.median()) if lead.numel() else 0.0)
        floor = self.options.utility_floor
        if floor is None and before["retain_accuracy"] is not None and self._fixed is None:
            floor = before["retain_accuracy"] - DEFAULT_DROP
        found, reason = self._look(floor)
        if found is None:
            sentence = f"{self.name}: not forgotten, the model is as it was. {reason}"
            return self._result(None, Verdict("not reached", sentence), before, digest, judged_before)
        verdict = self._verdict(found)
        if verdict.level == "not reached":
            self.transaction.undo()
            return self._result(None, verdict, before, digest, judged_before)
        return self._result(found, verdict, before, digest, judged_before)

    def select(self, budget: int | float) -> Picks:
        """What the first proposal would perturb at `budget`."""
        self._check_targets(self._forward(self.probes[:2]).shape[1])
        self.retain = self._retain_images()
        proposal = next(iter(self.method.propose(self._given())))
        return proposal.rank(None).take(_count(budget, proposal))

    # --- search

    @property
    def _fixed(self) -> int | float | None:
        completed = getattr(self.method, "completed", None)
        options = self.options if completed is None or self.structure.head is None else completed(self.structure)
        return options.budget

    def _look(self, floor: float | None) -> tuple[_Found | None, str]:
        """The first proposal that reaches the aim, carried out; or None and why there is none."""
        reason = "No neuron speaks for the class on these probes."
        parts = search.folds(self.labels, FOLDS, self.options.seed)
        self.held_out = len(parts) > 1
        for proposal in self.method.propose(self._given()):
            trial = _Trial(self, proposal, parts)
            if not trial.largest:
                continue
            if self._fixed is not None:
                budget = min(_count(self._fixed, proposal), trial.largest)
                if self.options.until is not None and not trial.meets(budget, margin=False):
                    reason = f"A budget of {budget} leaves more than {self.until:.3f} of the probes with the class."
                    continue
                return self._carry_out(trial, budget, None), ""
            aimed = trial.largest if proposal.free else trial.smallest()
            if aimed is None or (proposal.free and not trial.meets(aimed)):
                reason = f"No budget brings the accuracy on the class to {self.until:.3f}."
                continue
            found = self._carry_out(trial, aimed, floor)
            if found is not None:
                return found, ""
            reason = f"It would take the retain probes below {floor:.3f}."
        return None, reason

    def _carry_out(self, trial: _Trial, budget: int, floor: float | None) -> _Found | None:
        """The edit in place: at `budget`, or, as it has a price, as far beyond as the floor allows."""
        searched = self._fixed is None and not trial.proposal.free
        while searched and budget < trial.largest and not trial.meets_as_chosen(budget):
            budget = min(2 * budget, trial.largest)
        kept: tuple[int, float | None] | None = None
        for candidate in self._larger(budget, trial.largest) if searched and self.retain is not None else [budget]:
            mark = self.transaction.mark()
            self.transaction.edit(trial.slices(candidate), self.options.strength, self.options.seed)
            wrong = None if floor is None or self.retain is None else int((1 - floor) * len(self.retain[0]) + 1e-6)
            accuracy = self._retain_right(wrong)
            self.transaction.undo(mark)
            if floor is not None and accuracy is not None and accuracy < floor:
                break
            kept = (candidate, accuracy)
        if kept is None:
            return None
        slices = trial.slices(kept[0])
        self.transaction.edit(slices, self.options.strength, self.options.seed)
        mark = self.transaction.mark()
        held_out = trial.held_out(kept[0])
        assert self.transaction.mark() == mark
        return _Found(trial.proposal, kept[0], trial.ranking.take(kept[0]), slices, held_out, kept[1])

    @staticmethod
    def _larger(budget: int, largest: int) -> list[int]:
        return sorted({budget, min(2 * budget, largest), min(4 * budget, largest)})

    # --- measuring

    def _given(self) -> Given:
        def count(images: int) -> None:
            self.cost.relevance_images += images

        return Given(
            self.model, self.structure, self.targets, self.probes, self.labels, self.retain, self._forward, count,
            self.progress,
        )  # fmt: skip

    def _forward(self, images: Tensor, stop: Callable[[Tensor], bool] | None = None) -> Tensor:
        """Logits, batch by batch, until `stop(logits so far)`."""
        found: list[Tensor] = []
        with torch.no_grad(), compiled_parts_as_written():
            for batch in self.options.batches(images):
                found.append(logits_of(self.model(batch)))
                self.cost.images_forwarded += len(batch)
                if stop is not None and stop(torch.cat(found)):
                    break
        return torch.cat(found)

    def _retain_right(self, allowed: int | None) -> float | None:
        """Accuracy on the retain images; with `allowed` wrong ones above 0, the pass stops when there are more."""
        if self.retain is None:
            return None
        images, labels = self.retain

        def too_many(logits: Tensor) -> bool:
            wrong = int((logits.argmax(1) != labels[: len(logits)]).sum())
            return bool(allowed) and allowed is not None and wrong > allowed

        logits = self._forward(images, too_many)
        right = int((logits.argmax(1) == labels[: len(logits)]).sum())
        return right / len(images)

    def _metrics(self, margins: Tensor, retain_accuracy: float | None) -> dict[str, float | None]:
        return {
            "forget_accuracy": search.accuracy_per_target(margins >= 0, self.labels, self.targets),
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

    def _judge_images(self) -> dict[str, Any] | None:
        """Accuracy on `evaluate_on` under what is in place: of the worst target, and of all other classes."""
        if self.evaluate_on is None:
            return None
        images, labels = self.evaluate_on
        found = []
        with torch.no_grad(), compiled_parts_as_written():
            for batch in self.options.batches(images):
                found.append(answers_of(logits_of(self.model(batch))))
        answers = torch.cat(found)
        right = answers == labels.cpu()
        own = {t: (int(right[labels.cpu() == t].sum()), int((labels.cpu() == t).sum())) for t in self.targets}
        others = ~torch.isin(labels.cpu(), torch.tensor(self.targets))
        worst = max(own.values(), key=lambda pair: pair[0] / max(1, pair[1]))
        kept = float(right[others].float().mean()) if bool(others.any()) else None
        return {"right": worst[0], "images": worst[1], "others_accuracy": kept, "others": int(others.sum())}

    def _verdict(self, found: _Found) -> Verdict:
        """By `evaluate_on`, which has the last word, or else by the held-out probes."""
        fixed = self._fixed is not None
        self.judged_after = self._judge_images()
        if self.judged_after is not None:
            right, images = self.judged_after["right"], self.judged_after["images"]
            return judge(self.name, right, images, self.until, "evaluation images", fixed)
        worst = max(
            (int((found.held_out[self.labels == t] >= 0).sum()), int((self.labels == t).sum())) for t in self.targets
        )
        if not self.held_out:
            return Verdict(
                "not judged",
                f"{self.name} was perturbed; a single probe chose the edit, so no image is left to judge it by.",
                *worst,
            )
        return judge(self.name, *worst, self.until, "held-out probes", fixed)

    # --- checks

    def _check_strength(self) -> None:
        strength = self.options.strength
        dtypes = {p.dtype for p in self.model.parameters() if p.is_floating_point()}
        for dtype in dtypes if strength is not None else ():
            assert strength is not None
            if abs(strength) > torch.finfo(dtype).max:
                raise ValueError(f"strength: {strength} overflows the model's {dtype}")

    def _check_targets(self, classes: int) -> None:
        if classes < 2:
            raise ValueError("model: it has one output: there is no other class that it could answer with")
        for target in self.targets:
            if not 0 <= target < classes:
                raise ValueError(f"target: the model has classes 0..{classes - 1}, got {target}")
        if self.evaluate_on is not None:
            labels = self.evaluate_on[1]
            if int(labels.min()) < 0 or int(labels.max()) >= classes:
                raise ValueError(f"evaluate_on: labels must be classes 0..{classes - 1}")
            for target in self.targets:
                if not bool((labels == target).any()):
                    raise ValueError(f"evaluate_on: holds no image of class {target}, so it cannot judge")

    def _retain_images(self) -> Pair | None:
        """Images and labels of other classes; without labels, the model's own answers."""
        if self.retain_given is None:
            return None
        if isinstance(self.retain_given, Tensor):
            images = self.retain_given
            labels = self._forward(images).argmax(1)
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
        found: _Found | None,
        verdict: Verdict,
        before: dict[str, float | None],
        digest: str,
        judged_before: dict[str, Any] | None,
    ) -> ForgetResult:
        picks = Picks() if found is None else found.picks
        after = before if found is None else self._metrics(found.held_out, found.retain_accuracy)
        certificate = None
        if found is not None:
            path = self.method.described(self._given()).get("path", "neuron")
            certificate = certify(self.model, self.structure, found.slices, path, self.probes[:2])
            self._check_finite(found)
        reached = (
            found is not None and (after["forget_accuracy"] or 0.0) <= self.until and verdict.level != "not reached"
        )
        key = secrets.token_hex(32)
        by_layer = picks.by_layer(self.structure.head.name if self.structure.head else None)
        asked = asdict(self.options) | self.method.described(self._given())
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
                "before": before,
                "after": after,
                "held_out": getattr(self, "held_out", False),
                "probes": len(self.probes),
            },
            "evaluation": None
            if judged_before is None
            else {"before": judged_before, "after": getattr(self, "judged_after", judged_before)},
            "certificate": certificate,
            "search": self.trace,
            "cost": asdict(self.cost),
            "model": {"before": digest, "after": model_digest(self.model)},
            "probes": described(self.probes, key),
            "retain_probes": None if self.retain is None else described(self.retain[0], key),
            **provenance(),
        })  # fmt: skip
        patch = Patch((), record, {}, key) if found is None else patch_of(self.transaction, record, key)
        budget = 0 if found is None else found.budget
        return ForgetResult(
            patch, verdict, reached, by_layer, budget, dict(before), dict(after), self.trace, certificate, record
        )

    def _check_finite(self, found: _Found) -> None:
        for name in {piece.tensor for piece in found.slices}:
            if not bool(self.transaction.tensors[name].isfinite().all()):
                raise ValueError(f"strength: {self.options.strength} makes values of {name} infinite or NaN")


class _Trial:
    """One proposal under measurement: edits are put in place, looked at, and taken back; looks are remembered."""

    def __init__(self, task: Task, proposal: Proposal, parts: Sequence[Tensor]) -> None:
        self.task, self.proposal, self.parts = task, proposal, parts
        self.admitted = [~part if len(parts) > 1 else part for part in parts]
        self.rankings = [proposal.rank(admitted) for admitted in self.admitted]
        self.ranking = proposal.rank(None)
        self.largest = self.ranking.largest_budget
        self._remembered: dict[tuple[int, bool], bool] = {}

    def slices(self, budget: int) -> list[Slice]:
        return self.proposal.plan(self.ranking.take(budget), None)

    def smallest(self) -> int | None:
        return search.smallest(self.meets, self.largest)

    def meets(self, budget: int, margin: bool = True) -> bool:
        """Whether the held-out probes forget, in the median by a margin; stops as soon as too many do not."""
        if (budget, margin) not in self._remembered:
            margins = self._margins(budget, early=True)
            self._remembered[budget, margin] = self._forgotten(margins, margin)
        return self._remembered[budget, margin]

    def held_out(self, budget: int) -> Tensor:
        """[N] margins, each probe's under an edit chosen without it. What is in place is put back after."""
        in_place = self.task.transaction.mark()
        pieces = self.slices(budget)
        self.task.transaction.undo(0)
        try:
            return self._margins(budget, early=False)
        finally:
            if in_place:
                self.task.transaction.edit(pieces, self.task.options.strength, self.task.options.seed)

    def meets_as_chosen(self, budget: int) -> bool:
        """Whether the probes forget, with the margin, under the edit that all of them chose."""
        task = self.task
        mark = task.transaction.mark()
        task.transaction.edit(self.slices(budget), task.options.strength, task.options.seed)
        try:
            margins = search.margins(self._logits(torch.ones_like(task.labels, dtype=torch.bool)), task.labels)
        finally:
            task.transaction.undo(mark)
        return self._forgotten(margins, True)

    def _margins(self, budget: int, early: bool) -> Tensor:
        task = self.task
        task.cost.steps += 1
        margins = torch.full((len(task.labels),), -torch.inf, device=task.labels.device)
        for ranking, admitted, part in zip(self.rankings, self.admitted, self.parts, strict=True):
            where = part.to(task.labels.device)
            mark = task.transaction.mark()
            pieces = self.proposal.plan(ranking.take(budget), admitted)
            task.transaction.edit(pieces, task.options.strength, task.options.seed)
            try:
                margins[where] = search.margins(self._logits(where), task.labels[where])
            finally:
                task.transaction.undo(mark)
            if early and self._too_many(margins):
                break
        task.trace.append(
            {
                "layers": list(self.proposal.layers),
                "mode": self.proposal.mode,
                "budget": budget,
                # Where the look stopped early the images that it left out count as forgotten.
                "forget_accuracy": search.accuracy_per_target(margins >= 0, task.labels, task.targets),
                "complete": not bool((margins == -torch.inf).any()),
            }
        )
        task.progress(task.cost.steps, max(task.cost.steps, 2 * search.LEVELS), f"budget ({self.proposal.mode})")
        return margins

    def _logits(self, where: Tensor) -> Tensor:
        quick = self.proposal.quick
        return self.task._forward(self.task.probes[where]) if quick is None else quick(where)

    def _forgotten(self, margins: Tensor, margin: bool) -> bool:
        task = self.task
        far = not margin or all(float(margins[task.labels == t].median()) <= -task.allowance for t in task.targets)
        return far and not self._too_many(margins)

    def _too_many(self, margins: Tensor) -> bool:
        """Whether more probes of some class than `until` allows get it as answer, or give NaN."""
        task = self.task
        answered = ~(margins < 0)
        return any(
            int(answered[task.labels == t].sum()) > task.until * int((task.labels == t).sum()) for t in task.targets
        )


def _count(budget: int | float, proposal: Proposal) -> int:
    """A budget as a number of neurons: a fraction counts the candidates."""
    return budget if isinstance(budget, int) else max(1, round(budget * proposal.candidates))
