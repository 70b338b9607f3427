"""`forget`: analyse, select, perturb, verify and record, in one call."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from zsu_fast.unlearn.picks import Picks
from zsu_fast.unlearn.request import Settings, check_settings, probe_classes, retain_images, target_classes
from zsu_fast.unlearn.result import ForgetResult
from zsu_fast.unlearn.task import Progress, Task


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
    with _task(
        model,
        target,
        probes,
        probe_labels,
        retain_probes,
        progress,
        method=method,
        k=k,
        budget=budget,
        until=until,
        utility_floor=utility_floor,
        mode=mode,
        strength=strength,
        path=path,
        score=score,
        scope=scope,
        layers=layers,
        composite=composite,
        preset=preset,
        authors_compat=authors_compat,
        seed=seed,
        batch_size=batch_size,
    ) as task:
        return task.run()


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
    with _task(
        model,
        target,
        probes,
        probe_labels,
        retain_probes,
        method=method,
        k=k,
        budget=budget,
        score=score,
        scope=scope,
        layers=layers,
        composite=composite,
        preset=preset,
        authors_compat=authors_compat,
        batch_size=batch_size,
    ) as task:
        return task.select(budget)


@contextmanager
def _task(
    model: nn.Module,
    target: int | Sequence[int],
    probes: Tensor,
    probe_labels: Tensor | Sequence[int] | None,
    retain_probes: Tensor | tuple[Tensor, Tensor] | None,
    progress: Progress | None = None,
    *,
    layers: Sequence[str] | None,
    **request: Any,
) -> Iterator[Task]:
    """A checked request, with the model in evaluation mode for the duration; every module's own flag is put back."""
    targets = target_classes(target)
    settings = Settings(targets, layers=None if layers is None else tuple(layers), **request)
    check_settings(settings, retain_probes is not None)
    labels = probe_classes(probes, probe_labels, targets)
    flags = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        retain = retain_images(model, retain_probes, targets, settings.batch_size)
        yield Task(model, probes, labels, retain, settings, progress)
    finally:
        for module, training in flags:
            module.training = training
