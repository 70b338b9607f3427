"""Relevance for the report, taken from a model before and after the edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.inference import Progress, forward_batches, inference_mode, logits_of
from zsu_fast.evaluate.probe import features
from zsu_fast.lrp import relevance
from zsu_fast.plot.colours import as_maps, sum_cells
from zsu_fast.unlearn.requests import Request
from zsu_fast.unlearn.structure import Head
from zsu_fast.unlearn.watch import trace_structure

Kind = TypeVar("Kind", bound=Request)


@dataclass(frozen=True)
class Analysis:
    """What the target classes' logits rest on, for some probes.

    Attributes:
        units: layer -> mean relevance of each unit, float32 [U], in execution order; the classifier's inputs come
            last, under "<classifier>.input".
        heat: relevance of the input, summed over channels: float64 [n, H, W] of the first n probes; None if the
            inputs are no images.
        heat_rules: name of the composite that gave ``heat``.
        missing: why there is nothing, or less, to show; empty if all went well.
    """

    units: dict[str, Tensor] = field(default_factory=dict)
    heat: Tensor | None = None
    heat_rules: str = ""
    missing: str = ""


def analyse(
    model: nn.Module,
    probes: Tensor,
    labels: Sequence[int] | Tensor,
    *,
    composite: Any = "epsilon",
    heatmaps: int = 6,
    most: int = 32,
    batch_size: int = 16,
    progress: Progress | None = None,
) -> Analysis:
    """Relevance of units and of the input for the logit of each probe's own target class.

    Where relevance cannot be computed, the Analysis says why, and it is no error: the report is about an edit that is
    already made.

    Args:
        model: unchanged by this.
        probes: [N, ...] model-ready images of the target classes.
        labels: [N] the target class of each.
        composite: as in `zsu_fast.relevance`.
        heatmaps: number of probes whose input relevance is kept.
        most: number of probes looked at.
    """
    probes = probes[:most]
    truth = torch.as_tensor(labels)[:most].to(probes.device)
    units: dict[str, Tensor] = {}
    heat: Tensor | None = None
    rules = missing = ""
    try:
        for start in range(0, len(probes), batch_size):
            batch = slice(start, start + batch_size)
            found = relevance(model, probes[batch], truth[batch], composite=composite)
            for name, values in found.neurons.items():
                mean = values.float().sum(0).cpu() / len(probes)
                units[name] = units[name] + mean if name in units else mean
            if progress is not None:
                progress(min(start + batch_size, len(probes)), len(probes), "relevance")
        # The rules that rank units best (epsilon: exact contributions) draw noise on the input of a deep net.
        rules = "attnlrp" if any(name.endswith(".heads") for name in units) else "epsilon_plus"
        heat = _heat(model, probes[:heatmaps], truth[:heatmaps], rules)
    except (ValueError, TypeError, RuntimeError) as error:
        missing = _why(error)
    with inference_mode(model):
        head = trace_structure(model, probes[:1]).head
    if head is not None:
        units.pop(head.name, None)  # its units are the logits: all relevance lies on the target's, by definition
        units |= _classifier_inputs(model, head, probes, truth.cpu())
    return Analysis(units, heat, rules, missing)


def heat_of(model: nn.Module, probes: Tensor, outputs: Sequence[int], rules: str) -> Analysis:
    """Relevance of the input alone, for an output of each probe's own; or why there is none."""
    try:
        wanted = torch.as_tensor(outputs, device=probes.device)
        return Analysis(heat=_heat(model, probes, wanted, rules), heat_rules=rules)
    except (ValueError, TypeError, RuntimeError) as error:
        return Analysis(missing=_why(error))


def run(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    """float32 [N, ...] of everything that the model makes of the images, or of a request's view of them."""
    with inference_mode(model):
        return torch.cat([logits_of(one).float() for one in forward_batches(model, images, batch_size)])


def begun(model: nn.Module, request: Kind, batch_size: int) -> Kind:
    """The request with what it takes from the unedited model."""
    view = request.view(model)
    found: Any = request.started(lambda images: run(view, images, batch_size), view)
    return found


def _heat(model: nn.Module, probes: Tensor, outputs: Tensor, rules: str) -> Tensor | None:
    shown = relevance(model, probes, outputs, composite=rules).input.detach().float().cpu()
    if shown.dim() != 4:
        return None
    return torch.from_numpy(sum_cells(as_maps(shown), max(1, min(shown.shape[2:]) // 56)))  # about 56 cells a side


def _why(error: Exception) -> str:
    return f"Relevance could not be computed ({type(error).__name__}): {' '.join(str(error).split())}"


def _classifier_inputs(model: nn.Module, head: Head, probes: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """Mean of a_j * w_cj over the probes: the relevance of the classifier's inputs under every rule for them."""
    weight = model.state_dict()[head.weight].detach().flatten(1).float().cpu()
    inputs = features(model, probes)
    if inputs.shape[1] != weight.shape[1]:
        return {}
    return {f"{head.name}.input": (inputs * weight[labels]).mean(0)}
