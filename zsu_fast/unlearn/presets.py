"""The settings of the method's authors, by experiment (arXiv 2410.23693 and its official code of March 2026)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """k neurons of the classifier's input per sample, the `budget` most frequent of them perturbed along `path`.

    features: width of the classifier's input in the authors' model; another width scales k and budget with it.
    """

    features: int
    k: int
    budget: int
    path: str
    absolute: bool = False

    def scaled(self, features: int) -> tuple[int, int]:
        """(k, budget) for a classifier with `features` inputs, at least 1 each."""
        share = features / self.features
        return max(1, round(self.k * share)), max(1, round(self.budget * share))


AUTHORS_PRESETS = {
    "mnist_cnn": Preset(512, 50, 80, "rows"),
    "cifar10_resnet50": Preset(2048, 200, 400, "all"),
    "cifar100_resnet50": Preset(2048, 150, 250, "all"),
    "imagenet_vgg16": Preset(4096, 150, 400, "rows"),
    "mufac_vit_b16": Preset(768, 400, 500, "target", absolute=True),
}


def preset_for(has_attention: bool, has_hidden_layer: bool, features: int) -> str:
    """The preset whose architecture is nearest: attention, a hidden linear layer before the head, or pooling."""
    if has_attention:
        return "mufac_vit_b16"
    if has_hidden_layer:
        return "mnist_cnn" if features <= 1024 else "imagenet_vgg16"
    return "cifar10_resnet50"
