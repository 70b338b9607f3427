"""A model's structure, found by watching it run.

One forward pass under a `TorchFunctionMode` notes every linear and convolution layer in execution order, and carries
beside each of their outputs its *origin*: a tensor of the same shape that holds, at every position, the number of the
unit that the value came from (-1: of none alone). The origin follows views, concatenations, activations, norms and
pooling, so that no knowledge of the architecture is needed for these facts: which norms stand on a unit (their weight
and bias belong to it), which rows of a value projection make an attention head, and which unit feeds each input of the
classifier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, _get_current_function_mode_stack
from torch.utils.weak import WeakIdKeyDictionary

from zsu_fast.evaluate.inference import logits_of
from zsu_fast.evaluate.rows import Rows
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.model.aten import as_written
from zsu_fast.model.computed import computed_weights
from zsu_fast.model.shards import is_sharded, sharded_part
from zsu_fast.model.tensors import Tensors
from zsu_fast.unlearn.structure import Head, Heads, Layer, Norm, Structure

_VIEWS = {
    "view", "reshape", "permute", "transpose", "swapaxes", "movedim", "flatten", "unflatten", "squeeze", "unsqueeze",
    "contiguous", "clone", "detach", "chunk", "split", "tensor_split", "unbind", "__getitem__", "select", "narrow",
    "expand", "view_as", "reshape_as", "index_select", "repeat_interleave", "repeat", "adjoint", "mT",
}  # fmt: skip
_JOINING = {"cat", "concat", "concatenate", "stack"}
# Zero stays zero: a masked unit is still silent behind them.
_ACTIVATIONS = {
    "relu", "relu_", "relu6", "gelu", "silu", "silu_", "hardswish", "tanh", "leaky_relu", "elu", "mish", "hardtanh",
    "selu", "celu", "prelu", "softsign", "hardshrink", "softshrink",
}  # fmt: skip
_CASTS = {"to", "float", "half", "bfloat16", "double", "type_as"}
_ZERO_PRESERVING = _ACTIVATIONS | _CASTS | {"dropout", "dropout2d", "feature_dropout", "abs", "neg", "square"}
_PRODUCTS = {"mul", "mul_", "multiply", "__mul__", "__rmul__", "__imul__", "div", "div_", "__truediv__", "__itruediv__"}
_SUMS = {"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "subtract", "__sub__", "__isub__"}
_NORMS = {"batch_norm", "group_norm", "instance_norm", "layer_norm"}
_SOFTMAX = {"softmax", "log_softmax"}
# What may stand between the classifier and the model's output, for the order of the classes is still the classifier's.
_READOUT = _CASTS | {"mul"} | _SOFTMAX
_POOLING = {
    "max_pool1d", "max_pool2d", "max_pool3d", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d", "adaptive_max_pool3d",
    "boolean_dispatch", "fn",
}  # fmt: skip
_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}


@dataclass(frozen=True)
class _Origin:
    units: Tensor  # int64, same shape as the tensor it describes: number of the unit in the whole model, or -1
    layers: tuple[str, ...]  # that the units belong to
    passed: tuple[str, ...]  # functions since the layers


@dataclass(frozen=True)
class Leak:
    """A unit that should be silent and is not."""

    layer: str
    function: str
    largest: float


class _Mode(TorchFunctionMode):
    """Takes only itself off the stack: an interrupt may have come while torch had set it aside."""

    def __exit__(self, *exception: Any) -> None:
        if self in _get_current_function_mode_stack():
            super().__exit__(*exception)


class Watch(_Mode):
    """Notes the structure of the model that runs inside; with `silent`, also where units of it are not zero.

    silent: layer name -> units that were masked, in a second run of a model whose structure is known.
    """

    def __init__(self, model: nn.Module, silent: Mapping[str, Sequence[int]] | None = None) -> None:
        super().__init__()
        self.model = model
        self.tensors = Tensors(model)
        self.names = self.tensors.by_identity()
        self._in_parts = sharded_part(model) is not None
        self.structure = Structure()
        self.origins: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self.constants: WeakIdKeyDictionary = WeakIdKeyDictionary()  # made of the model's tensors alone: their names
        self.attended: WeakIdKeyDictionary = WeakIdKeyDictionary()  # outputs of attention: number of the head, and name
        self.inputs: dict[str, Tensor] = {}
        self.unnamed = 0  # linear layers and convolutions whose weight is no tensor of the model
        self.leaks: list[Leak] = []
        self._silent = silent or {}
        self._first: dict[str, int] = {}  # layer -> number of its first unit
        self._units = 0

    def __torch_function__(self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        func, args, kwargs = as_written(func, args, kwargs or {})
        if self._in_parts and any(
            type(t) is nn.Parameter and id(t) not in self.names for t in (*args, *kwargs.values())
        ):
            self.names |= Tensors(self.model).by_identity()  # whole, while its module runs
        name = getattr(func, "__name__", "")
        source = self.origins.get(args[0]) if args and isinstance(args[0], Tensor) else None
        attended = self.attended.get(args[0]) if args and isinstance(args[0], Tensor) else None
        out = func(*args, **kwargs)
        self._note_constant(args, kwargs, out)
        if attended is not None and name in _VIEWS:
            for tensor, numbers in zip(_tensors(out), _tensors(func(attended[1], *args[1:], **kwargs)), strict=True):
                self.attended[tensor] = (attended[0], numbers)
        if func is F.linear or name in _CONVOLUTIONS:
            self._layer(name, out, *_operands(args, kwargs))
        elif func is F.multi_head_attention_forward:
            self._multihead(args, kwargs, out)
        elif func is F.scaled_dot_product_attention:
            self._attention(args[2] if len(args) > 2 else kwargs["value"], out)
        elif name in _JOINING:
            self._join(func, args, kwargs, out)
        elif name in _PRODUCTS | _SUMS and isinstance(out, Tensor):
            self._arithmetic(name, args, out)
        elif source is not None:
            self._follow(func, name, source, args, kwargs, out)
        if source is not None and name.endswith("_") and out is args[0] and self.origins.get(out) is source:
            del self.origins[out]  # written to in place (`x += shortcut`), it no longer holds these units alone
        return out

    def _follow(
        self, func: Callable, name: str, source: _Origin, args: Sequence, kwargs: dict[str, Any], out: Any
    ) -> None:
        if name in _NORMS:
            self._norm(name, source, args, kwargs, out)
        elif name in _VIEWS:
            for tensor, units in zip(_tensors(out), _tensors(func(source.units, *args[1:], **kwargs)), strict=True):
                self._set(tensor, units, source.layers, source.passed, name)
        elif name in _ZERO_PRESERVING and isinstance(out, Tensor) and out.shape == source.units.shape:
            self._set(out, source.units, source.layers, (*source.passed, name), name)
            if name in _ACTIVATIONS:
                for layer in source.layers:
                    self.structure.layers[layer].activated = True
        elif name in _SOFTMAX and isinstance(out, Tensor):
            self._set(out, source.units, source.layers, (*source.passed, name), None)
        elif name in _POOLING and isinstance(out, Tensor):
            self._reduced(source, out, tuple(range(2, source.units.dim())), True, name)
        elif name in ("mean", "amax", "sum") and isinstance(out, Tensor):
            dims = args[1] if len(args) > 1 else kwargs.get("dim")
            if dims is not None:
                self._reduced(source, out, dims, kwargs.get("keepdim", args[2] if len(args) > 2 else False), name)

    # --- origins

    def _set(
        self, tensor: Tensor, units: Tensor, layers: tuple[str, ...], passed: tuple[str, ...], function: str | None
    ) -> None:
        """`tensor` holds these units; `function` made it (None: zero need not stay zero there)."""
        self.origins[tensor] = _Origin(units, layers, passed)
        if function is None:
            return
        for layer in map(self.structure.layers.__getitem__, layers):
            if function not in _VIEWS and function not in layer.behind:
                layer.behind.append(function)
            silent = self._silent.get(layer.name)
            if silent is None:
                continue
            numbers = torch.tensor([self._first[layer.name] + unit for unit in silent], device=units.device)
            loud = tensor.detach()[torch.isin(units, numbers)].abs()
            if loud.numel() and not bool((loud == 0).all()):
                self.leaks.append(Leak(layer.name, function, float(loud.max())))

    def _reduced(self, source: _Origin, out: Tensor, dims: Any, keepdim: bool, name: str) -> None:
        low, high = source.units.amin(dims, keepdim), source.units.amax(dims, keepdim)
        if bool((low == high).any()):  # else values of several units were mixed
            units = torch.where(low == high, low, -1).expand(out.shape)
            self._set(out, units, source.layers, (*source.passed, name), name)

    def _join(self, func: Callable, args: Sequence, kwargs: dict[str, Any], out: Any) -> None:
        parts = args[0] if args else kwargs.get("tensors", ())
        origins = [self.origins.get(part) for part in parts]
        if isinstance(out, Tensor) and any(origin is not None for origin in origins):
            units = [
                torch.full(part.shape, -1, dtype=torch.int64, device=part.device) if origin is None else origin.units
                for part, origin in zip(parts, origins, strict=True)
            ]
            known = [origin for origin in origins if origin is not None]
            layers = tuple(dict.fromkeys(name for origin in known for name in origin.layers))
            passed = tuple(dict.fromkeys(name for origin in known for name in origin.passed))
            self._set(out, func(units, *args[1:], **kwargs), layers, (*passed, "cat"), "cat")

    # --- layers and what stands on them

    def _layer(self, function: str, out: Tensor, source: Tensor, weight: Tensor, bias: Tensor | None) -> None:
        parameter = self.names.get(id(weight))
        if parameter is None:  # a weight that is computed on the fly has no row that could be masked
            refuse_transformed()
            self.unnamed += 1
            return
        name = parameter.removesuffix(".weight")
        kind = "linear" if function == "linear" else "conv"
        layer = self._add_layer(name, parameter, self.names.get(id(bias)) if bias is not None else None, weight, kind)
        layer.runs += 1
        if bias is not None and layer.bias is None:
            layer.refusal = "its bias is no tensor of the model (it is computed)"
        self.inputs[name] = source
        self._head_columns(source, parameter, kind)
        shape = [1] * out.dim()
        shape[-1 if kind == "linear" else out.dim() - (weight.dim() - 1)] = layer.units
        units = (torch.arange(layer.units, device=out.device) + self._first[name]).view(shape).expand(out.shape)
        self._set(out, units, (name,), (), function)

    def _add_layer(self, name: str, weight: str, bias: str | None, value: Tensor, kind: str) -> Layer:
        if name not in self.structure.layers:
            layer = self.structure.layers[name] = Layer(name, weight, bias, value.shape[0], kind)
            self._first[name] = self._units
            self._units += layer.units
            shared = [n for t in (weight, bias) if t is not None for n in self.tensors.sharing(t)]
            if shared:
                layer.refusal = f"its weight or bias is shared with {', '.join(shared)}, which would change too"
        return self.structure.layers[name]

    def _norm(self, name: str, source: _Origin, args: Sequence, kwargs: dict[str, Any], out: Tensor) -> None:
        order = {
            "batch_norm": ("input", "running_mean", "running_var", "weight", "bias"),
            "instance_norm": ("input", "running_mean", "running_var", "weight", "bias"),
            "group_norm": ("input", "num_groups", "weight", "bias"),
            "layer_norm": ("input", "normalized_shape", "weight", "bias"),
        }[name]
        given = dict(zip(order, args, strict=False)) | kwargs
        channels = _per_channel(source.units, source.units.dim() - 1 if name == "layer_norm" else 1)
        layers = [self.structure.layers[layer] for layer in source.layers]
        if channels is None or (name == "layer_norm" and len(given["normalized_shape"]) != 1):
            return
        shifts = [given.get("weight"), given.get("bias")]
        if shifts[1] is None and name == "batch_norm":
            # Without affine parameters (0 - mean) / sigma would leak: the mean of a masked unit must be zero instead.
            shifts = [given.get("running_mean")]
        elif shifts[1] is None:
            for layer in layers:
                layer.refusal = f"a {name} without weight and bias stands on it, which gives a silent unit a value"
        for tensor in shifts:
            if tensor is not None:
                self._stands_on(tensor, channels, layers, name)
        self._set(out, source.units, source.layers, (*source.passed, name), name)

    def _stands_on(self, tensor: Tensor, channels: Tensor, layers: list[Layer], function: str) -> None:
        """A tensor of the model with one element for each channel belongs to the units that the channels hold."""
        found = self.constants.get(tensor, ()) if id(tensor) not in self.names else (self.names[id(tensor)],)
        for layer in layers:
            first = self._first[layer.name]
            places: dict[int, list[int]] = {}
            for channel, number in enumerate(channels.tolist()):
                if first <= number < first + layer.units:
                    places.setdefault(number - first, []).append(channel)
            for name in found:
                held = self.tensors.held(name)
                if held.dim() != 1 or held.numel() != channels.numel():
                    continue
                norm = Norm(name, {unit: tuple(at) for unit, at in places.items()})
                if norm not in layer.norms:
                    layer.norms.append(norm)
                if shared := self.tensors.sharing(name):
                    layer.refusal = f"{name}, of the {function} that stands on it, is shared with {', '.join(shared)}"
            if not found:
                layer.refusal = f"the {function} that stands on it has parameters that are no tensors of the model"

    def _arithmetic(self, name: str, args: Sequence, out: Tensor) -> None:
        """Scales, and shifts by constants with an element for each unit (a norm written out), keep the origin."""
        if len(args) < 2:
            return
        one, other = args[0], args[1]
        source = self.origins.get(one) if isinstance(one, Tensor) else None
        if source is None and isinstance(other, Tensor) and not name.startswith(("div", "__true", "__itrue", "sub")):
            one, other = other, one
            source = self.origins.get(one)
        if source is None or out.shape != source.units.shape:
            return
        constant = not isinstance(other, Tensor) or other in self.constants or id(other) in self.names
        if name in _PRODUCTS:
            # A factor that depends on the input (a gate) may be anything finite: zero stays zero all the same.
            if constant or (isinstance(other, Tensor) and self.origins.get(other) is None):
                self._set(out, source.units, source.layers, (*source.passed, "mul" if constant else "gate"), name)
        elif constant and isinstance(other, Tensor):
            wide = [d for d, size in enumerate(other.shape) if size > 1]
            names = self.constants.get(other, ()) or (self.names.get(id(other)),)
            if len(wide) != 1 or not any(n and self.tensors.held(n).dim() == 1 for n in names):
                return  # no shift of units (a position embedding, say): something else is added
            dim = wide[0] + out.dim() - other.dim()
            channels = _per_channel(source.units, dim)
            if channels is not None:
                layers = [self.structure.layers[layer] for layer in source.layers]
                self._stands_on(other, channels, layers, "shift")
                self._set(out, source.units, source.layers, (*source.passed, "shift"), name)

    def _note_constant(self, args: Sequence, kwargs: dict[str, Any], out: Any) -> None:
        given = [t for t in (*args, *kwargs.values()) if isinstance(t, Tensor)]
        known = [(self.names[id(t)],) if id(t) in self.names else self.constants.get(t) for t in given]
        if given and all(k is not None for k in known):
            names = tuple(dict.fromkeys(n for k in known if k is not None for n in k))
            for tensor in _tensors(out):
                if id(tensor) not in self.names:
                    self.constants[tensor] = names

    # --- attention

    def _attention(self, value: Tensor, out: Tensor) -> None:
        source = self.origins.get(value)
        if source is None or value.dim() != 4 or bool((source.units < 0).any()):
            return
        if len(source.layers) != 1:
            return
        layer = source.layers[0]
        first = self._first[layer]
        own = [source.units[0, head].unique() - first for head in range(value.shape[1])]
        alone = sum(map(len, own)) == len(torch.cat(own).unique()) and value.shape[1] == out.shape[1]
        name = self._add_heads(layer, out.shape[1], [rows.cpu() for rows in own] if alone else None)
        shape = [1, out.shape[1], 1, 1]
        self.attended[out] = (name, torch.arange(out.shape[1], device=out.device).view(shape).expand(out.shape))

    def _head_columns(self, source: Tensor, projection: str, kind: str) -> None:
        """The output projection of an attention: which of its inputs each head feeds."""
        attended = self.attended.get(source)
        if attended is None or kind != "linear":
            return
        group = self.structure.heads[attended[0]]
        number = _per_channel(attended[1], source.dim() - 1)
        if group.rows is None and number is not None and not self.tensors.sharing(projection):
            group.projection = projection
            group.columns = [(number == head).nonzero()[:, 0].cpu() for head in range(group.count)]

    def _add_heads(self, layer: str, count: int, rows: list[Tensor] | None) -> str:
        name = layer.rpartition(".")[0]
        name = f"{name}.heads" if name else "heads"
        self.structure.heads[name] = Heads(name, layer, count, rows)
        return name

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
            bias_name = self.names.get(id(bias)) if bias is not None else None
            self._add_layer(name, parameter, bias_name, weight, "linear").runs += 1
            rows = list((torch.arange(width) + offset).chunk(given["num_heads"]))
            self._add_heads(name, len(rows), rows)
        if out_weight is not None and id(out_weight) in self.names:
            self._layer("linear", out[0], given["query"], out_weight, out_bias)


def refuse_transformed() -> None:
    """ValueError where a layer whose weight is none of the model's runs inside of `torch.func.vmap` and the like."""
    if torch._C._are_functorch_transforms_active():
        raise ValueError(
            "model: it runs layers inside of torch.func (vmap ...), where no layer has a weight of its own: "
            "pass the models that it is made of, one by one"
        )


def _operands(args: Sequence, kwargs: dict) -> tuple[Tensor, Tensor, Tensor | None]:
    given = dict(zip(("input", "weight", "bias"), args, strict=False)) | kwargs
    return given["input"], given["weight"], given.get("bias")


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [v for v in value if isinstance(v, Tensor)] if isinstance(value, (tuple, list)) else []


def _per_channel(units: Tensor, dim: int) -> Tensor | None:
    """[channels] the number that stands at each place of dimension `dim`, if it is one each."""
    others = tuple(d for d in range(units.dim()) if d != dim)
    if not others:
        return units
    low, high = units.amin(others), units.amax(others)
    return low if torch.equal(low, high) else None


def trace_structure(model: nn.Module, sample: Tensor, view: nn.Module | None = None) -> Structure:
    """Run `model` on `sample` ([N, ...], one image is enough) and note its layers, heads and classifier.

    view: what runs instead, with the model inside: its own layers are none of the model's.
    The model runs as it is: in evaluation mode, by the caller's care, it is not changed. Raises ValueError if it does
    not return logits of shape [N, classes].
    """
    watch = Watch(model)
    with torch.no_grad(), compiled_parts_as_written(), watch:
        logits = logits_of((model if view is None else view)(sample))
    structure = watch.structure
    structure.classes = logits.shape[1]
    structure.computed = computed_weights(model)
    for name, layer in structure.layers.items():
        around = name.rpartition(".base_layer")[0] or name.rpartition(".lora_")[0]
        if around in structure.computed:
            layer.refusal = f"it is part of {structure.computed[around]}"
    structure.head, reason = _classifier(watch, logits)
    structure.no_head = reason or structure.no_head
    return structure


def _classifier(watch: Watch, logits: Tensor) -> tuple[Head | None, str | None]:
    """The layer whose units are the logits, or why there is none."""
    structure = watch.structure
    if logits.shape[1] < 2:
        return None, "the model has one output, so there is no other class that it could answer with"
    origin = watch.origins.get(logits)
    if origin is None or bool((origin.units < 0).any()):
        if structure.computed:
            name, how = list(structure.computed.items())[-1]
            return None, f"the weight of {name!r} is computed, by {how}"
        return None, None
    rows = _per_channel(origin.units, 1)
    if len(origin.layers) != 1 or rows is None or rows.unique().numel() != rows.numel():
        return None, "this model's logits come from several layers"
    layer, inputs = structure.layers[origin.layers[0]], watch.inputs.get(origin.layers[0])
    if inputs is None or inputs.flatten(1).shape[1] != inputs.shape[1] or not set(origin.passed) <= _READOUT:
        return None, None
    if watch.tensors.held(layer.weight).shape[1:].numel() != inputs.shape[1]:
        return None, f"the layer {layer.name!r} is no linear map of all its inputs: a grouped or a larger convolution"
    if layer.runs > 1:
        return None, f"the layer {layer.name!r} runs {layer.runs} times: its weights make more than the logits"
    if layer.refusal is not None:
        return None, f"the classifier {layer.name!r} cannot be edited alone: {layer.refusal}"
    feeding = watch.origins.get(inputs)
    producer, units = None, None
    if feeding is not None and len(feeding.layers) == 1 and bool((feeding.units >= 0).all()):
        producer = structure.layers[feeding.layers[0]]
        units = (feeding.units.flatten(1)[0] - watch._first[producer.name]).cpu()
    first = watch._first[layer.name]
    return Head(
        layer.name,
        layer.weight,
        layer.bias,
        [int(row) - first for row in rows.tolist()],
        inputs.shape[1],
        producer.name if producer is not None else None,
        units,
        list(origin.passed),
    ), None


class _Capture(_Mode):
    def __init__(self, model: nn.Module, weight: Tensor) -> None:
        super().__init__()
        self.weight = weight
        self.seen: Tensor | None = None
        # Of a weight in parts: where in the model the whole of it will stand while its module runs.
        held = [(m._parameters, key) for m in model.modules() for key, t in m._parameters.items() if t is weight]
        self._place = held[0] if held and is_sharded(weight) else None

    def __torch_function__(self, func: Callable, types: Any, args: Sequence = (), kwargs: dict | None = None) -> Any:
        func, args, kwargs = as_written(func, args, kwargs or {})
        if getattr(func, "__name__", "") in _CONVOLUTIONS | {"linear"}:
            source, weight, _ = _operands(args, kwargs)
            if weight is (self.weight if self._place is None else self._place[0][self._place[1]]):
                self.seen = source
        return func(*args, **kwargs)


def classifier_inputs(
    model: nn.Module, weight: Tensor, batches: Iterable[Tensor], expected: int | None = None
) -> tuple[Tensor, Tensor]:
    """Features [N, D] that enter the classifier whose weight (the very object) is `weight`, and logits [N, classes].

    expected: N, if it is known.
    """
    features, logits = Rows(expected), Rows(expected)
    for batch in batches:
        with torch.no_grad(), compiled_parts_as_written():
            found = classifier_input(model, weight, batch)
        features.add(found[0])
        logits.add(found[1])
    return features.tensor(), logits.tensor()


def classifier_input(model: nn.Module, weight: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """The same for one batch, with the graph of gradients where these are enabled."""
    with _Capture(model, weight) as capture:
        logits = logits_of(model(batch))
    if capture.seen is None:
        raise RuntimeError("model: its classifier did not run on these images")
    return capture.seen.flatten(1), logits
