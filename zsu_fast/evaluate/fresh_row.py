"""A new row for a class in a copy of a model: what an attacker begins with who does not trust the one that is there.

An edit may leave a row from which it takes many steps to come back, however much the features know.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.attacks import row_from
from zsu_fast.evaluate.inference import Progress, inference_mode, logits_of, model_device
from zsu_fast.evaluate.probe import LastLinear, features_and_logits


def classifier_of(model: nn.Module, image: Tensor) -> tuple[str, str] | None:
    """Names of weight [classes, D] and bias of the linear layer whose output the logits are; None without such a one.

    image: [1, ...]. Not found are classifiers without a bias, those of models that pool afterwards, and those whose
    weights are computed from others.
    """
    with inference_mode(model), LastLinear() as last:
        logits = logits_of(model(image.to(model_device(model, image.device))))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = names.get(id(last.weight)), names.get(id(last.bias))
    if last.output is None or last.output.dim() != 2 or not torch.equal(last.output, logits) or None in found:
        return None
    return found  # type: ignore[return-value]


def row_for(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    target: int,
    batch_size: int = 256,
    progress: Progress | None = None,
) -> Callable[[nn.Module], None] | None:
    """What puts the prototype row of the class into a copy of the model; None if it has no classifier to put it in.

    Args:
        images, labels: lessons of the class and of others, checked; see `zsu_fast.evaluate.prototype_row`.
    """
    names = classifier_of(model, images[:1])
    if names is None:
        return None
    features, logits = features_and_logits(model, images, None, batch_size, progress)
    row, bias = row_from(features, labels, logits, target, (labels == target).nonzero()[:, 0])

    def put(student: nn.Module) -> None:
        with torch.no_grad():
            student.get_parameter(names[0])[target] = row.to(student.get_parameter(names[0]))
            student.get_parameter(names[1])[target] = bias

    return put
