"""`forget`: analyse, select, perturb, verify and record, in one call."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.unlearn import perturb, search
from zsu_fast.unlearn.hashing import model_digest, tensor_digest
from zsu_fast.unlearn.patch import Patch
from zsu_fast.unlearn.picks import Picks, Ranking, rank_edges, rank_edges_as_authors, rank_units, unit_relevance
from zsu_fast.unlearn.presets import AUTHORS_PRESETS
from zsu_fast.unlearn.request import Settings, check_settings, complete, probe_classes, retain_images, target_classes
from zsu_fast.unlearn.structure import Head, classifier_inputs, logits_of, trace_structure
from zsu_fast.version import __version__

DEFAULT_UNTIL = {"lra-npp": 0.02, "channels": 0.05}  # paths to one class cost the others nothing, neurons do
DEFAULT_DROP = 0.02  # of retain accuracy: a hundred probes cannot tell less
FOLDS = 4
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class ForgetResult:
    """What `forget` did.

    patch: undoes it (`patch.revert(model)`) and can be saved; without entries if nothing was changed.
    reached: False if no budget met `until` above the utility floor; the model is then as it was.
    picks: layer name -> indices; inputs of the classifier stand under "<classifier>.input".
    budget: number of neurons (per target class for "lra-npp", in all for "channels").
    before, after: "forget_accuracy" on the probes ("after": each judged by an edit chosen without it) and
        "retain_accuracy" on the retain probes (None without them).
    trace: what the search tried, [{"layers", "mode", "budget", "forget_accuracy"}].
    record: JSON-able, also in the patch.
    """

    patch: Patch
    reached: bool
    picks: dict[str, list[int]]
    budget: int
    before: dict[str, float | None]
    after: dict[str, float | None]
    trace: list[dict[str, Any]]
    record: dict[str, Any]

    def summary(self) -> str:
        """A few lines for people."""
        request = self.record["request"]
        name = "class " + ", ".join(map(str, request["targets"]))
        if not self.reached:
            return f"{name}: not forgotten, the model is as it was. {self.record['reason']}"
        count = sum(map(len, self.picks.values()))
        lines = [f"{name} forgotten by {request['method']}: {count} neurons in {len(self.picks)} layer(s)"]
        for key, what in (("forget_accuracy", "on the class (held-out probes)"), ("retain_accuracy", "on the others")):
            if self.before[key] is not None:
                lines.append(f"  accuracy {what}: {self.before[key]:.3f} -> {self.after[key]:.3f}")
        return "\n".join(lines)


def forget(
    model: nn.Module,
    target: int | Sequence[int],
    probes: Tensor,
    *,
    method: str = "lra-npp",
    k: int | float | None = None,
    budget: int | float | None = None,
    retain_probes: Tensor | tuple[Tensor, Tensor] | None = None,
    probe_labels: Tensor | Sequence[int] | None = None,
    until: float | None = None,
    utility_floor: float | None = None,
    seed: int = 0,
    mode: str | None = None,
    strength: float | None = None,
    path: str | None = None,
    score: str | None = None,
    scope: str = "layer",
    layers: Sequence[str] | None = None,
    composite: Any = "epsilon",
    preset: str | None = None,
    authors_compat: bool = False,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> ForgetResult:
    """Make a trained classifier forget classes, in place, from a few images of them that it was not trained on.

    Args:
        model: any module that returns logits [N, classes] (or an object with `.logits`); edited in place.
        target: the class to forget, or several.
        probes: model-ready images [N, ...] of the class(es); a few dozen of each are enough.
        method: "lra-npp" ranks the inputs of the classifier by relevance for the class and cuts the paths of the most
            relevant ones (arXiv 2410.23693); it changes what the model says, hardly what its features know. "channels"
            does the same at any layers: conv channels, hidden units, attention heads, masked exactly.
        k: neurons that each probe may name as most relevant: a count ("lra-npp") or a share of the layer. Default 1/4.
        budget: neurons to perturb: a count (per class for "lra-npp", in all for "channels"), or a fraction in (0, 1).
            Default: the smallest that reaches `until`.
        retain_probes: images of other classes, with labels or without (then the model's own answers count). Needed for
            score "contrastive" and for `utility_floor`.
        probe_labels: int [N], the target that each probe belongs to; needed when there are several targets.
        until: accuracy on the class to get down to, judged on probes that had no part in the choice. Default 0.02
            for "lra-npp" and 0.05 for "channels" when no budget is given.
        utility_floor: accuracy on the retain probes that must be kept. Default with retain probes and no budget: two
            points less than before.
        mode: "zero", "invert", "scale", "gaussian" or "laplace", see `perturb_`. Default: "zero", and "invert" if
            masking every neuron that speaks for the class is not enough.
        strength: of "scale", "gaussian" and "laplace".
        path: for "lra-npp": "target" (default), "all", "rows" or "neuron", see `zsu_fast.unlearn.perturb.plan`.
        score: "frequency", "mean" or "contrastive". Default: contrastive with retain probes, else frequency.
        scope: "layer" (the same share of each) or "global" (shares of relevance compared across layers).
        layers: names for "channels". Default: late hidden layers and attention heads, then all late layers, then every
            hidden layer, whichever first reaches the target.
        composite: rules of the relevance pass, see `zsu_fast.relevance`; "lra-npp" needs none (every rule gives the
            same order at the classifier's input).
        preset, authors_compat: the authors' settings for one of their experiments (a name of `AUTHORS_PRESETS`), and
            their code's quirks: relevance of the arg-max, insertion-order ties, eps = 0.1, biases kept, no search.
        seed: of the split of the probes and of noise. batch_size: images per pass.
        progress: called as progress(done, total, text).

    Returns:
        ForgetResult. If the target cannot be reached the result says so and the model is as it was.

    Raises:
        ValueError, TypeError: naming the argument; the model is as it was.
    """
    targets = target_classes(target)
    settings = Settings(
        targets=targets,
        method=method,
        k=k,
        budget=budget,
        until=until,
        utility_floor=utility_floor,
        mode=mode,
        strength=strength,
        path=path or "target",
        score=score or ("contrastive" if retain_probes is not None else "frequency"),
        scope=scope,
        layers=None if layers is None else tuple(layers),
        composite=composite,
        preset=preset,
        authors_compat=authors_compat,
        seed=seed,
        batch_size=batch_size,
    )
    check_settings(settings, retain_probes is not None)
    labels = probe_classes(probes, probe_labels, targets)
    with _evaluating(model):
        task = _Task(
            model, probes, labels, retain_images(model, retain_probes, targets, batch_size), settings, path, progress
        )
        return task.run()


class _Task:
    """One request: the model, the images, and the steps from analysis to record."""

    def __init__(
        self,
        model: nn.Module,
        probes: Tensor,
        labels: Tensor,
        retain: tuple[Tensor, Tensor] | None,
        settings: Settings,
        path: str | None,
        progress: Progress | None,
    ) -> None:
        self.model, self.probes, self.labels, self.retain = model, probes, labels, retain
        self.structure = trace_structure(model, probes[:1])
        self.settings = complete(settings, self.structure, path)
        self.progress = progress or (lambda done, total, text: None)
        self.trace: list[dict[str, Any]] = []

    @property
    def head(self) -> Head:
        assert self.structure.head is not None
        return self.structure.head

    def run(self) -> ForgetResult:
        self._check_against_model()
        self._analyse()
        digest = model_digest(self.model)
        before = {"forget_accuracy": self._forget_accuracy(self.logits), "retain_accuracy": self._retain_accuracy()}
        floor = self.settings.utility_floor
        if floor is None and before["retain_accuracy"] is not None and self.settings.budget is None:
            floor = before["retain_accuracy"] - DEFAULT_DROP
        parts = search.folds(self.labels, FOLDS, self.settings.seed)
        reason = "No neuron speaks for the class on these probes."
        for layers, mode in self._attempts():
            rankings = [self._rank(~part if len(parts) > 1 else part, layers) for part in parts]
            ranking = self._rank(torch.ones_like(parts[0]), layers)
            if not ranking.largest_budget:
                continue
            budget, held_out = self._choose_budget(layers, mode, ranking, rankings, parts)
            if budget is None:
                reason = f"No budget brings the accuracy on the class to {self._until:.3f}."
                continue
            budget, picks, patch = self._carry_out_from(budget, ranking, mode)
            try:
                after = {"forget_accuracy": held_out, "retain_accuracy": self._retain_accuracy()}
            except BaseException:
                patch.revert(self.model)
                raise
            if floor is not None and after["retain_accuracy"] is not None and after["retain_accuracy"] < floor:
                patch.revert(self.model)
                reason = f"It would take the retain probes to {after['retain_accuracy']:.3f}, below {floor:.3f}."
                continue
            return self._result(patch, True, picks, budget, before, after, mode, digest, "", len(parts) > 1)
        return self._result(Patch(()), False, Picks(), 0, before, before, None, digest, reason, len(parts) > 1)

    def _attempts(self) -> Iterator[tuple[list[str], str]]:
        """(layers, mode) to try in turn, until one reaches the target."""
        settings = self.settings
        if settings.method == "lra-npp":
            for mode in (settings.mode,) if settings.mode else ("zero", "invert"):
                yield [], mode
        else:
            for layers in [list(settings.layers)] if settings.layers else self.structure.stages():
                yield layers, settings.mode or "zero"

    # --- analysis

    def _check_against_model(self) -> None:
        classes = logits_of(self._forward(self.probes[:1])).shape[1]
        for target in self.settings.targets:
            if not 0 <= target < classes:
                raise ValueError(f"target: the model has classes 0..{classes - 1}, got {target}")
        if self.settings.method == "lra-npp" and self.structure.head is None:
            raise ValueError(
                'method: "lra-npp" needs logits that come straight from a linear layer, and this model\'s do not; '
                'use method="channels"'
            )
        known = self.structure.maskable()
        unknown = [name for name in self.settings.layers or () if name not in known]
        if unknown:
            raise ValueError(f"layers: the model has no maskable layer {unknown[0]!r}; it has {', '.join(known)}")
        if self.settings.method == "channels" and not self.structure.neurons():
            raise ValueError('method: "channels" found no linear or convolution layer with a weight of its own to mask')

    def _analyse(self) -> None:
        """Logits of the probes, and what rankings are made of: classifier inputs, or relevance per unit."""
        self.progress(0, 1, "analysing the probes")
        settings = self.settings
        if settings.method == "lra-npp":
            weight = self._state()[self.head.weight]
            parameter = dict(self.model.named_parameters())[self.head.weight]
            self.features, self.logits = classifier_inputs(self.model, parameter, self.probes, settings.batch_size)
            self.weight = weight
        else:
            self.logits = self._forward(self.probes)
            layers = settings.layers or sorted({name for stage in self.structure.stages() for name in stage})

            def analyse(images: Tensor, labels: Tensor) -> dict[str, Tensor]:
                return unit_relevance(self.model, images, labels, layers, settings.composite, settings.batch_size)

            self.relevance = analyse(self.probes, self.labels)
            self.retain_relevance = None
            if settings.score == "contrastive" and self.retain is not None:
                self.retain_relevance = (analyse(*self.retain), self.retain[1])
        self.progress(1, 1, "analysing the probes")

    def _rank(self, chosen: Tensor, layers: Sequence[str]) -> Ranking:
        """The order of the neurons (of `layers`, for "channels") by the probes that the mask `chosen` [N] admits."""
        settings = self.settings
        chosen = chosen.to(self.labels.device)
        labels = self.labels[chosen]
        if settings.method == "channels":
            relevance = {name: self.relevance[name][chosen] for name in layers}
            return rank_units(
                relevance,
                labels,
                settings.targets,
                score=settings.score,
                scope=settings.scope,
                k=0.25 if settings.k is None else settings.k,
                retain=self.retain_relevance,
            )
        width = self.head.features
        k = max(1, min(width, round(settings.k * width) if isinstance(settings.k, float) else int(settings.k or 1)))
        features = self.features[chosen]
        absolute = settings.preset is not None and AUTHORS_PRESETS[settings.preset].absolute
        if settings.authors_compat:
            bias = self._state()[self.head.bias] if self.head.bias else None
            return rank_edges_as_authors(features, self.weight, bias, k, settings.targets, labels, absolute)
        return rank_edges(features, self.weight, labels, settings.targets, k, absolute=absolute)

    # --- search

    @property
    def _until(self) -> float:
        return DEFAULT_UNTIL[self.settings.method] if self.settings.until is None else self.settings.until

    def _choose_budget(
        self, layers: Sequence[str], mode: str, ranking: Ranking, rankings: Sequence[Ranking], parts: Sequence[Tensor]
    ) -> tuple[int | None, float]:
        """(budget, accuracy on held-out probes), or (None, accuracy) if `until` cannot be reached."""

        def held_out(budget: int) -> float:
            logits = torch.empty_like(self.logits)
            for part_ranking, part in zip(rankings, parts, strict=True):
                where = part.to(logits.device)
                patch = self._carry_out(part_ranking.take(budget), mode)
                try:
                    logits[where] = self._edited_logits(where)
                finally:
                    patch.revert(self.model)
            accuracy = self._forget_accuracy(logits)
            self.trace.append({"layers": list(layers), "mode": mode, "budget": budget, "forget_accuracy": accuracy})
            return accuracy

        fixed = self.settings.budget
        if fixed is not None:
            count = fixed if isinstance(fixed, int) else max(1, round(fixed * self._candidates(layers)))
            count = min(count, ranking.largest_budget)
            accuracy = held_out(count)
            reached = self.settings.until is None or accuracy <= self.settings.until
            return (count if reached else None), accuracy
        found = search.smallest(
            held_out,
            ranking.largest_budget,
            self._until,
            lambda done, total: self.progress(done, total, f"budget ({mode})"),
        )
        return found.budget, dict(found.trace).get(found.budget or 0, 1.0)

    def _candidates(self, layers: Sequence[str]) -> int:
        if self.settings.method == "lra-npp":
            return self.head.features
        return sum(self.relevance[name].shape[1] for name in layers)

    def _edited_logits(self, where: Tensor) -> Tensor:
        """Logits of some probes under the edit in place: from cached features if only the classifier was touched."""
        if self.settings.method == "lra-npp" and self.settings.path in ("target", "all"):
            state = self._state()
            bias = state[self.head.bias] if self.head.bias else None
            return torch.nn.functional.linear(self.features[where], state[self.head.weight].flatten(1), bias)
        return self._forward(self.probes[where])

    def _carry_out_from(self, budget: int, ranking: Ranking, mode: str) -> tuple[int, Picks, Patch]:
        """Carry out the edit; a searched budget grows until the order made of all probes meets the target on them."""
        everything = torch.ones_like(self.labels, dtype=torch.bool)
        while True:
            picks = ranking.take(budget)
            patch = self._carry_out(picks, mode)
            searched = self.settings.budget is None and budget < ranking.largest_budget
            if not searched or self._forget_accuracy(self._edited_logits(everything)) <= self._until:
                return budget, picks, patch
            patch.revert(self.model)
            budget += 1

    def _carry_out(self, picks: Picks, mode: str) -> Patch:
        settings = self.settings
        slices = perturb.plan(self.structure, picks, settings.path, mode)
        return perturb.carry_out(self.model, slices, mode, settings.strength, settings.seed)

    # --- measuring

    def _state(self) -> dict[str, Tensor]:
        return self.model.state_dict()

    def _forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat([logits_of(self.model(batch)) for batch in images.split(self.settings.batch_size)])

    def _forget_accuracy(self, logits: Tensor) -> float:
        return search.accuracy_per_target(logits, self.labels, self.settings.targets)

    def _retain_accuracy(self) -> float | None:
        if self.retain is None:
            return None
        images, labels = self.retain
        return (self._forward(images).argmax(1) == labels).float().mean().item()

    # --- record

    def _result(
        self,
        patch: Patch,
        reached: bool,
        picks: Picks,
        budget: int,
        before: dict[str, float | None],
        after: dict[str, float | None],
        mode: str | None,
        digest: str,
        reason: str,
        held_out: bool,
    ) -> ForgetResult:
        by_layer = picks.by_layer(self.structure.head.name if self.structure.head else None)
        record = {
            "request": _jsonable(asdict(self.settings)),
            "reached": reached,
            "reason": reason,
            "mode": mode,
            "budget": budget,
            "picks": perturb.describe(picks),
            "edits": [
                {"tensor": e.tensor, "row": e.row, "dim": e.dim, "indices": e.indices.tolist()} for e in patch.entries
            ],
            "metrics": {"before": before, "after": after, "held_out": held_out, "probes": len(self.probes)},
            "search": self.trace,
            "model": {"before": digest, "after": model_digest(self.model)},
            "probes": _described(self.probes),
            "retain_probes": self.retain
            and {"sha256": tensor_digest(self.retain[0]), "shape": list(self.retain[0].shape)},
            "versions": {"zsu_fast": __version__, "torch": torch.__version__, "python": platform.python_version()},
            "time": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        }
        patch = replace(patch, record=record)
        return ForgetResult(patch, reached, by_layer, budget, dict(before), dict(after), self.trace, record)


def select(
    model: nn.Module,
    target: int | Sequence[int],
    probes: Tensor,
    *,
    budget: int | float,
    method: str = "lra-npp",
    k: int | float | None = None,
    retain_probes: Tensor | tuple[Tensor, Tensor] | None = None,
    probe_labels: Tensor | Sequence[int] | None = None,
    score: str | None = None,
    scope: str = "layer",
    layers: Sequence[str] | None = None,
    composite: Any = "epsilon",
    preset: str | None = None,
    authors_compat: bool = False,
    batch_size: int = 64,
) -> Picks:
    """The neurons that `forget` would perturb at a given budget; the model is not changed. Arguments as in `forget`."""
    targets = target_classes(target)
    settings = Settings(
        targets=targets,
        method=method,
        k=k,
        budget=budget,
        score=score or ("contrastive" if retain_probes is not None else "frequency"),
        scope=scope,
        layers=None if layers is None else tuple(layers),
        composite=composite,
        preset=preset,
        authors_compat=authors_compat,
        batch_size=batch_size,
    )
    check_settings(settings, retain_probes is not None)
    labels = probe_classes(probes, probe_labels, targets)
    with _evaluating(model):
        task = _Task(
            model, probes, labels, retain_images(model, retain_probes, targets, batch_size), settings, None, None
        )
        task._check_against_model()
        task._analyse()
        layers, _ = next(task._attempts())
        ranking = task._rank(torch.ones(len(probes), dtype=torch.bool), layers)
        count = budget if isinstance(budget, int) else max(1, round(budget * task._candidates(layers)))
        return ranking.take(count)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the duration; every module's own flag is put back."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, training in flags:
            module.training = training


def _described(images: Tensor) -> dict[str, Any]:
    return {"sha256": tensor_digest(images), "shape": list(images.shape)}


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    return value if isinstance(value, (str, int, float, bool, type(None))) else repr(value)
