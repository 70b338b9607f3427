"""`estimate_patterns`: one pass over unlabelled images, running moments per layer, nothing kept of the images.

With y the output of a unit and x its input (for a convolution: a patch), the pattern is a = C / (w^T C), where

    linear:         C = E[x y] - E[x] E[y]           (S_a)
    two-component:  C = E+[x y] - E+[x] E[y]         (S_a+-; E+ over the inputs for which the unit fires)

C is the same for y shifted by a constant, so y is counted from its mean over the first batch (no cancellation), and the
bias does not matter. Sums over a batch are weight gradients of the layer: no patches are ever written out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zsu_fast.ops.lrp import LinearMap
from zsu_fast.reference.layout import per_unit, widen

from .collector import Collector, Unit
from .composites import Composite
from .eager import compiled_parts_as_written, function_modes_as_found
from .engine import Engine
from .functions import LayerCall
from .graph import nodes_behind
from .models import checked_model, logits_of
from .names import Names
from .patterns import Estimator, Patterns
from .rules import Flat

_RELU_LIKE = (1, 5)


@torch.no_grad()
def estimate_patterns(
    model: Callable[[Tensor], Any],
    batches: Iterable[Any],
    *,
    estimator: Estimator = "two-component",
    progress: Callable[[int], None] | None = None,
) -> Patterns:
    """The patterns of every linear and convolution layer of a model (Kindermans et al. 2017), for `pattern_net` and
    `pattern_attribution`.

    Args:
        model: As for `relevance`, in eval mode.
        batches: Images as the model takes them, [N, ...], any number of batches of any sizes; or sequences whose first
            entry that is (a `DataLoader` with labels, which are not looked at). The more, the better: each unit needs
            many inputs on which it fires. They are moved to the device of the model's parameters.
        estimator: "two-component" takes the moments of the inputs for which a unit fires; only layers that directly
            feed a ReLU (through BatchNorm at most) have these, the others are estimated as by "linear".
        progress: Called with the number of images seen, after each batch.

    Returns:
        `Patterns`, float32 (float64 for a float64 model), on the model's device. The pattern of a unit that never
        fires, or that is constant, is zero. Memory: the activations of one batch, and per layer twice its weight in
        float64.

    Raises:
        ValueError, TypeError: An argument is not as described, or the model is in training mode.
    """
    if estimator not in ("linear", "two-component"):
        raise ValueError(f'estimator must be "linear" or "two-component", got {estimator!r}')
    run = checked_model(model)
    moments: dict[Unit, Moments] = {}
    seen = 0
    for batch in batches:
        inputs = _images(batch, model)
        for call, input, output in _layers(run, inputs):
            if call.unit not in moments:
                moments[call.unit] = Moments(call, estimator)
            moments[call.unit].add(input, output)
        seen += len(inputs)
        if progress is not None:
            progress(seen)
    if not seen:
        raise ValueError("batches: there are no images in them")
    tensors: dict[str, Tensor] = {}
    for unit, moment in moments.items():
        pattern = moment.pattern()
        if unit.count != unit.total:  # some rows of a parameter
            whole = tensors.setdefault(unit.name, pattern.new_zeros(unit.total, *pattern.shape[1:]))
            whole[unit.start : unit.start + unit.count] = pattern
        else:
            tensors[unit.name] = pattern
    return Patterns(tensors, estimator)


def _images(batch: Any, model: Any) -> Tensor:
    images = batch[0] if isinstance(batch, list | tuple) and batch else batch
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.dim() < 2:
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"batches must be floating-point tensors [N, ...], or sequences that begin with one, got {got}")
    parameter = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    return images if parameter is None else images.to(parameter.device)


def _layers(model: Callable[[Tensor], Any], inputs: Tensor) -> Iterator[tuple[LayerCall, Tensor, Tensor]]:
    """(layer, its input, its output before the activation) for every layer that the logits come from, in order."""
    # Under an input rule everywhere, layers keep just these.
    rules = Composite(Flat(), Flat())
    collector = Collector(len(inputs), None)
    with function_modes_as_found(), torch.inference_mode(False), torch.enable_grad():
        leaf = (inputs.clone() if inputs.is_inference() else inputs.detach()).requires_grad_()
        engine = Engine(rules, Names(model), collector, leaf, None)
        with compiled_parts_as_written(), engine:
            output = model(leaf)
        logits = engine.renewals.latest(logits_of(output, len(inputs)))
    found: dict[int, Any] = {}
    for node in nodes_behind(logits):
        call = getattr(node, "call", None)
        if isinstance(call, LayerCall):
            # A layer may be there twice, if its output is used both as it is and behind its activation.
            known = found.setdefault(call.choice.position, node)
            if call.activation > known.call.activation:
                found[call.choice.position] = node
    for _, node in sorted(found.items()):
        yield node.call, *node.saved_tensors


class Moments:
    """Sums over all inputs of one layer so far."""

    def __init__(self, call: LayerCall, estimator: Estimator) -> None:
        self.map, self.weight = call.map, call.weight
        self.firing = estimator == "two-component" and call.activation in _RELU_LIKE
        self.shift: Tensor | None = None
        self.count = 0
        self.sum_y: Tensor | float = 0.0
        self.counts: Tensor | float = 0.0
        self.sum_x: Tensor | float = 0.0
        self.sum_xy: Tensor | float = 0.0

    def add(self, input: Tensor, output: Tensor) -> None:
        """Take in one batch: the layer's input and output. Sums are float32 within the batch, float64 beyond."""
        unit_dim = output.dim() - 1 if self.map.kind == "linear" else 1
        others = [d for d in range(output.dim()) if d != unit_dim]
        input, output = widen(input), widen(output)
        if not output.numel():
            return
        if self.shift is None:
            self.shift = output.mean(others)
        y = output - per_unit(self.shift, unit_dim, output)
        mask = (output > 0).to(y.dtype) if self.firing else torch.ones_like(y)
        self.count += y.numel() // y.shape[unit_dim]
        self.sum_y = self.sum_y + y.sum(others, dtype=torch.float64)
        self.counts = self.counts + mask.sum(others, dtype=torch.float64)
        self.sum_x = self.sum_x + weight_gradient(self.map, mask, input, self.weight.shape).double()
        self.sum_xy = self.sum_xy + weight_gradient(self.map, mask * y, input, self.weight.shape).double()

    def pattern(self) -> Tensor:
        """a = C / (w^T C), of the shape of the weight; 0 for units for which that is 0 / 0."""
        weight = self.weight.double()
        if self.shift is None:
            return torch.zeros_like(widen(self.weight))
        assert isinstance(self.counts, Tensor) and isinstance(self.sum_x, Tensor) and isinstance(self.sum_xy, Tensor)
        fraction = torch.where(self.counts > 0, 1 / self.counts, 0.0)
        covariance = self.map.fold(self.sum_xy, fraction) - self.map.fold(
            self.sum_x, fraction * self.sum_y / self.count
        )
        scale = _unit_sums(self.map, weight * covariance)
        pattern = self.map.fold(covariance, torch.where(scale == 0, 0.0, 1 / scale))
        return pattern.to(widen(self.weight).dtype)


def weight_gradient(map: LinearMap, s: Tensor, input: Tensor, weight_shape: torch.Size) -> Tensor:
    """Sum over samples and positions of s (of the shape of the output) times the input that the weight meets there."""
    if map.kind == "linear":
        return s.flatten(0, -2).t() @ input.flatten(0, -2)
    if any(map.end_padding):
        input = nn.functional.pad(input, [p for end in reversed(map.end_padding) for p in (0, end)])
    geometry = (map.stride, map.padding, map.dilation, map.transposed, map.output_padding, map.groups)
    weight = s.new_empty(1).expand(weight_shape)
    return torch.ops.aten.convolution_backward(s, input, weight, None, *geometry, [False, True, False])[1]


def _unit_sums(map: LinearMap, values: Tensor) -> Tensor:
    """[units]: sums of `values`, of the shape of a weight, over what belongs to each unit."""
    if not map.transposed:
        return values.flatten(1).sum(1)
    return values.unflatten(0, (map.groups, -1)).flatten(3).sum((1, 3)).flatten()
