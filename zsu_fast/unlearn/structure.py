"""Which parameters make a neuron's activation: found by watching the model run once.

One forward pass under a `TorchFunctionMode` notes every linear and convolution layer in execution order, and carries
beside each of their outputs an *origin*: a tensor of the same shape that holds, at every position, the index of the
unit that the value came from. The origin follows views, activations and pooling, so that three facts need no knowledge
of the architecture: which BatchNorm stands on a layer (its weight and bias belong to the neuron), which rows of a value
projection make an attention head, and which unit feeds each input of the classifier.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

_VIEWS = {
    "view", "reshape", "permute", "transpose", "swapaxes", "movedim", "flatten", "unflatten", "squeeze", "unsqueeze",
    "contiguous", "clone", "detach", "chunk", "split", "tensor_split", "unbind", "__getitem__", "select", "narrow",
    "expand", "view_as", "reshape_as", "index_select",
}  # fmt: skip
# Zero stays zero: a masked unit is still silent behind them.
_ACTIVATIONS = {
    "relu", "relu_", "relu6", "gelu", "silu", "silu_", "hardswish", "tanh", "leaky_relu", "elu", "mish", "hardtanh",
}  # fmt: skip
_ZERO_PRESERVING = _ACTIVATIONS | {
    "dropout", "dropout2d", "feature_dropout", "to", "float", "half", "bfloat16", "double", "type_as",
}  # fmt: skip
_POOLING = {
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "boolean_dispatch",
}  # fmt: skip
_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}


@dataclass
class Layer:
    """A linear or convolution layer as it ran. `rows` are the units of its weight, along dimension 0."""

    name: str
    weight: str
    bias: str | None
    units: int
    kind: str  # "linear" | "conv"
    norm: tuple[str, ...] = ()  # names of the BatchNorm tensors that must be zero too: weight, bias (or running_mean)
    activated: bool = False  # an activation function stands on it: its units are the hidden neurons of the net


@dataclass
class Heads:
    """Attention heads: `rows[h]` are the units of `layer` (the value projection) that make head h."""

    name: str
    layer: str
    rows: list[Tensor]


@dataclass
class Head:
    """The classifier: the last linear layer, whose units are the logits."""

    name: str
    weight: str
    bias: str | None
    classes: int
    features: int
    producer: str | None  # layer whose units feed the classifier one to one, if any
    producer_units: Tensor | None  # [features]: the unit of the producer behind each feature


@dataclass
class Structure:
    """What was seen: layers in execution order, attention heads, and the classifier (None if it is not linear)."""

    layers: dict[str, Layer] = field(default_factory=dict)
    heads: dict[str, Heads] = field(default_factory=dict)
    head: Head | None = None

    def maskable(self) -> dict[str, int]:
        """Units of each layer or group of heads that can be masked, in execution order, without the classifier."""
        heads = {group.layer: group for group in self.heads.values()}
        sizes = {}
        for name, layer in self.layers.items():
            if self.head is None or name != self.head.name:
                sizes[name] = layer.units
            if name in heads:
                sizes[heads[name].name] = len(heads[name].rows)
        return sizes

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
            if names not in stages:
                stages.append(names)
        return stages


def _late(names: list[str]) -> list[str]:
    return names[-max(2, math.ceil(len(names) / 4)) :]


@dataclass
class _Origin:
    layer: str
    unit: Tensor  # int64, same shape as the tensor it describes
    direct: bool  # nothing but the layer itself has touched the values


def logits_of(output: Any) -> Tensor:
    """The logits of a model's output: the tensor itself or its `.logits`."""
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"model: expected logits of shape [N, classes], got {got}")
    return logits


class _Watch(TorchFunctionMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.names = {id(p): n for n, p in reversed(list(model.named_parameters(remove_duplicate=False)))}
        self.names |= {id(b): n for n, b in model.named_buffers()}
        self.modules = dict(model.named_modules())
        self.structure = Structure()
        self.origins: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.inputs: dict[str, Tensor] = {}

    def __torch_function__(self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        source = self.origins.get(args[0]) if args and isinstance(args[0], Tensor) else None
        out = func(*args, **kwargs)
        if func is F.linear or name in _CONVOLUTIONS:
            self._layer(name, out, *_operands(args, kwargs))
        elif func is F.multi_head_attention_forward:
            self._multihead(args, kwargs, out)
        elif func is F.scaled_dot_product_attention:
            self._heads(args[2] if len(args) > 2 else kwargs["value"])
        elif source is None:
            pass
        elif func is F.batch_norm:
            self._batch_norm(source, args, kwargs, out)
        elif name in _VIEWS:
            for tensor, unit in zip(_tensors(out), _tensors(func(source.unit, *args[1:], **kwargs)), strict=True):
                self.origins[tensor] = _Origin(source.layer, unit, source.direct)
        elif name in _ZERO_PRESERVING and isinstance(out, Tensor) and out.shape == source.unit.shape:
            self.origins[out] = _Origin(source.layer, source.unit, False)
            self.structure.layers[source.layer].activated |= name in _ACTIVATIONS
        elif name in _POOLING and isinstance(out, Tensor):
            spatial = tuple(range(2, source.unit.dim()))
            self._reduced(source, out, spatial, keepdim=True)
        elif name in ("mean", "amax") and isinstance(out, Tensor):
            dims = args[1] if len(args) > 1 else kwargs.get("dim")
            if dims is not None:
                self._reduced(source, out, dims, kwargs.get("keepdim", args[2] if len(args) > 2 else False))
        return out

    def _layer(self, function: str, out: Tensor, source: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        parameter = self.names.get(id(weight))
        if parameter is None:  # a weight that is computed on the fly has no row that could be masked
            return
        name = parameter.removesuffix(".weight")
        kind = "linear" if function == "linear" else "conv"
        units = weight.shape[0]
        if name not in self.structure.layers:
            bias_name = self.names.get(id(bias)) if bias is not None else None
            self.structure.layers[name] = Layer(name, parameter, bias_name, units, kind)
        self.inputs[name] = source
        shape = [1] * out.dim()
        unit_dim = -1 if kind == "linear" else out.dim() - (weight.dim() - 1)
        shape[unit_dim] = units
        unit = torch.arange(units, device=out.device).view(shape).expand(out.shape)
        self.origins[out] = _Origin(name, unit, True)

    def _batch_norm(self, source: _Origin, args: Sequence, kwargs: dict, out: Tensor) -> None:
        names = ("input", "running_mean", "running_var", "weight", "bias")
        given = dict(zip(names, args, strict=False)) | kwargs
        layer = self.structure.layers[source.layer]
        if source.direct and source.unit.unique().numel() == layer.units == source.unit.shape[1]:
            # Without affine parameters (0 - mean) / sigma would leak: the mean of a masked unit must be zero instead.
            owned = [given.get("weight"), given.get("bias")]
            if owned[1] is None:
                owned = [given.get("running_mean")]
            layer.norm = tuple(self.names[id(t)] for t in owned if t is not None and id(t) in self.names)
            self.origins[out] = _Origin(source.layer, source.unit, False)

    def _reduced(self, source: _Origin, out: Tensor, dims: Any, keepdim: bool) -> None:
        low, high = source.unit.amin(dims, keepdim), source.unit.amax(dims, keepdim)
        if torch.equal(low, high):  # else values of several units were mixed
            self.origins[out] = _Origin(source.layer, low.expand(out.shape), False)

    def _heads(self, value: Tensor) -> None:
        source = self.origins.get(value)
        if source is None or value.dim() != 4:
            return
        rows = [source.unit[0, head].unique() for head in range(value.shape[1])]
        self._add_heads(source.layer, rows)

    def _add_heads(self, layer: str, rows: list[Tensor]) -> None:
        name = layer.rpartition(".")[0]
        name = f"{name}.heads" if name else "heads"
        self.structure.heads[name] = Heads(name, layer, [r.cpu() for r in rows])

    def _multihead(self, args: Sequence, kwargs: dict, out: Any) -> None:
        """`nn.MultiheadAttention` runs as one function: its projections are noted from its arguments."""
        names = ("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias")
        given = dict(zip(names, args, strict=False)) | kwargs
        positional = list(args[11:13]) + [None, None]
        out_weight = kwargs.get("out_proj_weight", positional[0])
        out_bias = kwargs.get("out_proj_bias", positional[1])
        weight = given["in_proj_weight"]
        separate = weight is None
        weight = kwargs.get("v_proj_weight") if separate else weight
        if weight is None or id(weight) not in self.names:
            return
        parameter, bias = self.names[id(weight)], given["in_proj_bias"]
        width = weight.shape[0] if separate else weight.shape[0] // 3
        offset = 0 if separate else 2 * width
        name = parameter.removesuffix(".weight")
        # The packed bias of separate projections has other offsets than the weight: its heads are left alone.
        if not (separate and bias is not None):
            self.structure.layers[name] = Layer(
                name, parameter, self.names.get(id(bias)) if bias is not None else None, weight.shape[0], "linear"
            )
            self._add_heads(name, list((torch.arange(width) + offset).chunk(given["num_heads"])))
        if out_weight is not None and id(out_weight) in self.names:
            self._layer("linear", out[0], given["query"], out_weight, out_bias)


def _operands(args: Sequence, kwargs: dict) -> tuple[Tensor, Tensor, Tensor | None]:
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return given["input"], given["weight"], given.get("bias")


def _tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [v for v in value if isinstance(v, Tensor)]


def trace_structure(model: nn.Module, sample: Tensor) -> Structure:
    """Run `model` on `sample` ([N, ...], one image is enough) and note its layers, heads and classifier.

    The model is not changed. Raises ValueError if it does not return logits of shape [N, classes].
    """
    watch = _Watch(model)
    with torch.no_grad(), watch:
        logits = logits_of(model(sample))
    structure = watch.structure
    origin = watch.origins.get(logits)
    if origin is None:
        return structure
    layer = structure.layers[origin.layer]
    inputs = watch.inputs[layer.name]
    units = torch.arange(layer.units, device=logits.device).expand(logits.shape)
    if layer.norm or not torch.equal(origin.unit, units) or inputs.flatten(1).shape[1] != inputs.shape[1]:
        return structure
    feeding = watch.origins.get(inputs)
    producer_units = None if feeding is None else feeding.unit.flatten(1)[0].cpu()
    structure.head = Head(
        layer.name,
        layer.weight,
        layer.bias,
        layer.units,
        inputs.shape[1],
        feeding.layer if feeding is not None else None,
        producer_units,
    )
    return structure


class _Capture(TorchFunctionMode):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.seen: Tensor | None = None

    def __torch_function__(self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in _CONVOLUTIONS | {"linear"}:
            source, weight, _ = _operands(args, kwargs)
            if weight is self.weight:
                self.seen = source
        return func(*args, **kwargs)


def classifier_inputs(model: nn.Module, weight: Tensor, images: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Features [N, D] that enter the classifier whose weight tensor is `weight`, and logits [N, classes]."""
    features, logits = [], []
    for batch in images.split(batch_size):
        with torch.no_grad(), _Capture(weight) as capture:
            logits.append(logits_of(model(batch)))
        if capture.seen is None:
            raise RuntimeError("model: its classifier did not run on these images")
        features.append(capture.seen.flatten(1))
    return torch.cat(features), torch.cat(logits)
