"""What a model is made of, as far as forgetting goes: layers, attention heads, the classifier. Found by `watch`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Norm:
    """A tensor of a norm (or of a written-out shift) behind a layer: `places[unit]` are its elements for that unit."""

    tensor: str
    places: dict[int, tuple[int, ...]]


@dataclass
class Layer:
    """A linear or convolution layer as it ran. `rows` are the units of its weight, along dimension 0."""

    name: str
    weight: str
    bias: str | None
    units: int
    kind: str  # "linear" | "conv"
    runs: int = 0
    norms: list[Norm] = field(default_factory=list)  # must be zero too, or the masked unit is not silent behind them
    activated: bool = False  # an activation function stands on it: its units are the hidden neurons of the net
    behind: list[str] = field(default_factory=list)  # functions that its units pass before they meet others
    refusal: str | None = None  # why its units cannot be masked exactly


@dataclass
class Heads:
    """Attention heads of one attention.

    `rows[h]` are the units of `layer` (the value projection) that make head h alone. Where heads share their values
    (grouped queries) there are none, and `columns[h]` are the inputs of the weight `projection` that head h feeds.
    """

    name: str
    layer: str
    count: int
    rows: list[Tensor] | None = None
    projection: str | None = None
    columns: list[Tensor] | None = None


@dataclass
class Head:
    """The classifier: the linear layer whose units are the logits. `rows[c]` is the unit that answers class c."""

    name: str
    weight: str
    bias: str | None
    rows: list[int]
    features: int
    producer: str | None  # layer whose units feed the classifier one to one, if any
    producer_units: Tensor | None  # [features]: the unit of the producer behind each feature
    readout: list[str]  # what follows it, up to the model's output: casts, scales, a softmax


@dataclass
class Structure:
    """What was seen: layers in execution order, attention heads, the classifier (or why there is none), and how many
    logits came out."""

    layers: dict[str, Layer] = field(default_factory=dict)
    heads: dict[str, Heads] = field(default_factory=dict)
    head: Head | None = None
    no_head: str = "this model's logits do not come straight from a linear layer"
    classes: int = 0
    computed: dict[str, str] = field(default_factory=dict)  # layers whose weight is computed: name -> how to fold it

    def maskable(self) -> dict[str, int]:
        """Units of each layer or group of heads that can be masked, in execution order, without the classifier."""
        heads = {group.layer: group for group in self.heads.values()}
        sizes = {}
        for name, layer in self.layers.items():
            if (self.head is None or name != self.head.name) and layer.refusal is None:
                sizes[name] = layer.units
            group = heads.get(name)
            if group is not None and (layer.refusal is None or group.columns is not None):
                sizes[group.name] = group.count
        return sizes

    def why_not(self, name: str) -> str:
        """Why `name` is not among the maskable layers."""
        layer = self.layers.get(name)
        if layer is not None and layer.refusal is not None:
            return f"layer {name!r} cannot be masked exactly: {layer.refusal}"
        if name in self.computed:
            return f"the weight of layer {name!r} is computed, by {self.computed[name]}"
        if self.head is not None and name == self.head.name:
            return f"layer {name!r} is the classifier: its units are the classes"
        return f"the model has no maskable layer {name!r}; it has {', '.join(self.maskable()) or 'none'}"

    def neurons(self) -> dict[str, int]:
        """The units that count as neurons by default: conv channels and hidden units under an activation, and heads."""
        sizes = self.maskable()
        hidden = {n: s for n, s in sizes.items() if n in self.heads or self.layers[n].activated}
        return hidden or sizes

    def stages(self) -> list[list[str]]:
        """Sets of layers to look for a class in, the most specific first.

        Late hidden layers tell classes apart, early ones serve all of them. In a transformer the class stands in the
        residual stream, which the late output projections write; only then does the whole net come into question.
        """
        hidden = list(self.neurons())
        projections = {group.layer for group in self.heads.values()}
        writing = [name for name in self.maskable() if name not in projections]
        stages: list[list[str]] = []
        for names in (_late(hidden), _late(writing), hidden):
            if names and names not in stages:
                stages.append(names)
        return stages


def _late(names: list[str]) -> list[str]:
    return names[-max(2, math.ceil(len(names) / 4)) :]
