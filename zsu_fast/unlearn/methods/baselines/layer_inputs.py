"""What goes into the linear and convolution layers of a model, for methods that project it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zsu_fast.evaluate.inference import model_device

Layer = nn.Linear | nn.Conv2d


def layers_of(model: nn.Module) -> dict[str, Layer]:
    """Linear layers and 2-d convolutions without groups, by name."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)
    }


@torch.no_grad()
def watch_inputs(model: nn.Module, batches: Iterable[Tensor], take: Callable[[str, Layer, Tensor], None]) -> None:
    """Run the model on batches of images and call `take(name, layer, input)` for each layer that it calls."""

    def hook(name: str, layer: Layer) -> torch.utils.hooks.RemovableHandle:
        return layer.register_forward_pre_hook(lambda module, given: take(name, layer, given[0]))

    handles = [hook(name, layer) for name, layer in layers_of(model).items()]
    try:
        for batch in batches:
            model(batch.to(model_device(model, batch.device)))
    finally:
        for handle in handles:
            handle.remove()


def features(layer: Layer, given: Tensor) -> Tensor:
    """[N, inputs]: the mean over all positions, or tokens, of a layer's input [N, ...]."""
    if isinstance(layer, nn.Conv2d):
        return given.flatten(2).mean(2)
    return given.reshape(len(given), -1, given.shape[-1]).mean(1)


def patches(layer: Layer, given: Tensor) -> Tensor:
    """[vectors, inputs]: all that the layer's weight, flattened to [units, inputs], is multiplied with."""
    if not isinstance(layer, nn.Conv2d):
        return given.reshape(-1, given.shape[-1])
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(given, layer._reversed_padding_repeated_twice, mode)
    unfolded = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return unfolded.transpose(1, 2).flatten(0, 1)
