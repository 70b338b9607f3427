"""Which weights should be free to change when single images are forgotten: those that matter for them, or any?"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.unlearn import ForgetInstances
from zsu_fast.unlearn.methods.base import Given
from zsu_fast.unlearn.methods.baselines.relabel import largest
from zsu_fast.unlearn.methods.instances.importance import synapse_importance
from zsu_fast.unlearn.methods.instances.margin import Margin, MarginOptions
from zsu_fast.unlearn.methods.training import student_of
from zsu_fast.unlearn.structure import Structure

Score = Callable[[nn.Module, Tensor, Tensor, list[nn.Parameter]], list[Tensor]]


def relevance(net: nn.Module, x: Tensor, y: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """Sum of abs(w ds/dw), s the lead of the label over the mean of the other logits: LRP's epsilon rule."""
    found = [torch.zeros_like(parameter) for parameter in parameters]
    for image, label in zip(x, y, strict=True):
        logits = net(image[None])[0]
        lead = logits[label] - (logits.sum() - logits[label]) / (len(logits) - 1)
        for total, parameter, gradient in zip(found, parameters, torch.autograd.grad(lead, parameters), strict=True):
            total += (parameter.detach() * gradient).abs()
    return found


def gradient(net: nn.Module, x: Tensor, y: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    """abs of the gradient of the loss, as in SalUn's masks (arXiv 2310.12508)."""
    return [found.abs() for found in torch.autograd.grad(F.cross_entropy(net(x), y), parameters)]


def synapses(net: nn.Module, x: Tensor, y: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    return synapse_importance(net, x, parameters)


def chance(net: nn.Module, x: Tensor, y: Tensor, parameters: list[nn.Parameter]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(parameter.shape, generator=generator) for parameter in parameters]


SCORES: dict[str, Score] = {"relevance": relevance, "MAS": synapses, "gradient": gradient, "random": chance}


def masked(net: nn.Module, request: ForgetInstances, seed: int, score: Score, share: float) -> tuple[nn.Module, int]:
    """What method "margin" makes of `net` where only the `share` of the weights with the largest scores is free; steps.

    Loss, rate, anchors and their draws do not depend on the mask.
    """
    steps: list[int] = []
    given = Given(
        net, Structure(), (), request.probes, request.probe_labels, None, net, lambda images: None,
        lambda done, total, text: steps.append(done), request,
    )  # fmt: skip
    student = student_of(net)
    parameters = [parameter for parameter in student.parameters() if parameter.requires_grad]
    masks = largest(score(student, request.probes, request.probe_labels, parameters), share)
    for parameter, mask in zip(parameters, masks, strict=True):  # Adam leaves alone what never had a gradient
        parameter.register_hook(lambda found, mask=mask: found * mask)
    options = MarginOptions(
        seed=seed, learning_rate=1e-4, growth=0.005, anchor_weight=10.0
    )  # half as many steps as by default
    Margin(options).learn(student, given, request.probes, request.probe_labels)
    return student, len(steps)
