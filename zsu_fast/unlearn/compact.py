"""`compact`: masked units taken out of a model, which then is smaller and faster and answers the same."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from zsu_fast.evaluate.inference import inference_mode, logits_of
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.model.tensors import Tensors
from zsu_fast.model.wrapped import bare_model
from zsu_fast.safetensors_file import save_atomically
from zsu_fast.unlearn.coupling import Attention, Coupling, Group
from zsu_fast.unlearn.door import check_model, check_taken
from zsu_fast.unlearn.requests import check_finite

_FORMAT = "zsu_fast compact 1"


@dataclass(frozen=True, eq=False)
class Compact:
    """A model without its masked units.

    model: in evaluation mode, independent of the one that it was made from.
    removed: layer -> units that were taken out, as they were numbered.
    left: layer -> why masked units of it are still there.
    parameters: how many numbers the parameters were, and are.
    difference: the largest difference of any logit, in the model's own dtype and (None: it does not run in it) float64.
    """

    model: nn.Module
    removed: dict[str, list[int]]
    left: dict[str, str]
    parameters: tuple[int, int]
    difference: float
    difference_float64: float | None
    attributes: dict[str, int]  # numbers of heads and the like, which the code of attentions reads

    def save(self, path: str | os.PathLike[str]) -> None:
        """Weights and numbers of heads, for `load_compact`: a safetensors file."""
        tensors = Tensors(self.model)
        kept = {name: tensors[name].contiguous().clone() for name in sorted(tensors.persistent)}
        save_atomically(kept, path, {"format": _FORMAT, "attributes": json.dumps(self.attributes)})


def compact(model: nn.Module, sample: Tensor) -> Compact:
    """Take out of a copy of `model` the units that are masked, and whatever only they are used by.

        zsu_fast.forget(model, 3, probes, method="channels")
        small = zsu_fast.compact(model, probes[:4])
        small.model(images)  # the same logits

    Units are channels of convolutions, units of linear layers, and attention heads; masked are those that are zero for
    every input (weights, bias and norms), or whose outgoing weights are all zero. A unit that a sum or a product binds
    to others goes with them or not at all: a channel of a residual stream only where each layer that writes it is
    masked there. What cannot go stays, and `left` says why.

    Args:
        model: any module that returns logits [N, classes], or a wrapper of one; it is not changed.
        sample: model-ready inputs [N, ...]: the model runs on the first to see how its layers are connected. On all of
            them, and on as many drawn at random, the result is compared with the model.

    Raises:
        ValueError, TypeError: naming the argument; no unit is masked, or none that is can be taken out (with the
            reasons), also if the smaller model would have other logits.
    """
    bare = check_model(model)
    check_finite("sample", sample)
    coupling = Coupling(bare)
    with inference_mode(bare), compiled_parts_as_written():
        few = check_taken(bare, sample, "sample")
        with coupling:
            output = bare(few)
            coupling.returned(output, logits_of(output))
        groups, check = coupling.groups(), _Check(bare, sample)
        left = {name: group.why for group in groups if group.why for name, _ in group.silent}
        going = _never_all([group for group in groups if group.why is None], coupling, left)
        if not going:
            reasons = "; ".join(f"{name}: {why}" for name, why in left.items())
            raise ValueError(
                f"model: none of its masked units can be taken out: {reasons}" if left else "model: no unit is masked"
            )
        attentions = coupling.attentions()
        small, attributes, going = _largest_that_runs(bare, going, attentions, check, left)
        difference, exact = check.differences(small)
    before, after = (sum(p.numel() for p in net.parameters()) for net in (bare, small))
    removed: dict[str, list[int]] = {}
    for name, unit in sorted(unit for group in going for unit in group.units):
        removed.setdefault(name, []).append(unit)
    return Compact(small, removed, left, (before, after), difference, exact, attributes)


def load_compact(model: nn.Module, path: str | os.PathLike[str]) -> nn.Module:
    """The model that `Compact.save` wrote, as a copy of `model`: one as it was before, of any weights.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no such file, or of a model with other layers.
    """
    values, attributes = _read(path)
    small = copy.deepcopy(bare_model(model))
    tensors = Tensors(small)
    if wrong := tensors.persistent ^ values.keys():
        raise ValueError(f"model: it and the file do not have the same tensors: {', '.join(sorted(wrong)[:4])} ..")
    for name, value in values.items():
        if value.dim() != tensors[name].dim() or value.dtype != tensors[name].dtype:
            raise ValueError(f"model: {name} is {tuple(tensors[name].shape)}, in the file {tuple(value.shape)}")
        values[name] = value.to(tensors[name].device)
    _replace(small, values)
    for name, value in attributes.items():
        owner, _, attribute = name.rpartition(".")
        if type(vars(small.get_submodule(owner)).get(attribute)) is not int or type(value) is not int:
            raise ValueError(f"model: it has no number {name}, which the file sets")
        setattr(small.get_submodule(owner), attribute, value)
    return small.eval()


def _read(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and attributes of a file of `Compact.save`."""
    try:
        place = Path(path)
    except TypeError:
        raise TypeError(f"path: expected a path, got {type(path).__name__}") from None
    if not place.is_file():
        raise FileNotFoundError(f"path: no such file: {place}")
    try:
        with safe_open(place, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != _FORMAT:
                raise ValueError("it has another format")
            attributes = json.loads(metadata["attributes"])
            if not isinstance(attributes, dict):
                raise ValueError("its attributes are no mapping")
            return {name: file.get_tensor(name) for name in file.keys()}, attributes  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, KeyError, RecursionError) as error:
        raise ValueError(f"path: {place} was not written by Compact.save, or is damaged ({error})") from None


class _Check:
    """What a model answers on the sample and on random inputs like it, in its own dtype and in float64."""

    def __init__(self, model: nn.Module, sample: Tensor) -> None:
        self.inputs = sample
        if sample.is_floating_point():
            generator = torch.Generator(sample.device).manual_seed(0)
            noise = torch.randn(sample.shape, generator=generator, device=sample.device, dtype=torch.float32)
            spread = sample.float().std() if sample.numel() > 1 else 1.0
            self.inputs = torch.cat([sample, (sample.float().mean() + spread * noise).to(sample.dtype)])
        self.own = logits_of(model(self.inputs))
        self.exact: Tensor | None = None
        try:
            self.exact = self._in_float64(model)
        except RuntimeError:  # its code casts to a dtype of its own
            self.tolerance = 64 * torch.finfo(self.own.dtype).eps
        else:
            self.tolerance = 1e-12

    def _in_float64(self, model: nn.Module) -> Tensor:
        inputs = self.inputs.double() if self.inputs.is_floating_point() else self.inputs
        return logits_of(copy.deepcopy(model).double()(inputs))

    def differences(self, model: nn.Module) -> tuple[float, float | None]:
        """(own dtype, float64); RuntimeError if the logits are not the same but for rounding."""
        own = float((logits_of(model(self.inputs)).double() - self.own.double()).abs().max())
        exact = None if self.exact is None else float((self._in_float64(model) - self.exact).abs().max())
        scale = max(1.0, float(self.own.double().abs().max()))
        if not (own if exact is None else exact) <= self.tolerance * scale:  # NaN is a difference
            raise RuntimeError(f"the logits differ by {own if exact is None else exact:.3g} without them")
        return own, exact


def _never_all(going: list[Group], coupling: Coupling, left: dict[str, str]) -> list[Group]:
    """Without those that would leave a tensor empty: of each, one stays."""
    while True:
        gone: dict[tuple[str, int], int] = {}
        for group in going:
            for name, dim, _ in group.slots:
                gone[name, dim] = gone.get((name, dim), 0) + 1
        empty = {(name, dim) for (name, dim), n in gone.items() if n == coupling.tensors[name].shape[dim]}
        if not empty:
            return going
        stays = next(group for group in going if any(slot[:2] in empty for slot in group.slots))
        going = [group for group in going if group is not stays]
        left |= {name: "the last unit stays" for name, _ in stays.units}


def _largest_that_runs(
    model: nn.Module, going: list[Group], attentions: Sequence[Attention], check: _Check, left: dict[str, str]
) -> tuple[nn.Module, dict[str, int], list[Group]]:
    """Without all of them; or without those that may go, where the model's code fails (it counts its units itself)."""

    def trial(groups: list[Group]) -> tuple[nn.Module, dict[str, int]]:
        small = copy.deepcopy(model)
        attributes = _take_out(small, groups, attentions)
        check.differences(small)
        return small, attributes

    try:
        return *trial(going), going
    except Exception as error:  # whatever the code of a model raises
        reasons = [error]
    by_layer: dict[str, list[Group]] = {}
    for group in going:
        by_layer.setdefault(group.units[0][0], []).append(group)
    runs: list[Group] = []
    for groups in by_layer.values():
        try:
            trial(groups)
            runs += groups
        except Exception as error:
            why = (str(error).strip() or type(error).__name__).splitlines()[0]
            left |= {name: f"without them the model's code fails: {why}" for group in groups for name, _ in group.units}
            reasons.append(error)
    if not runs:
        whys = "; ".join(f"{name}: {why}" for name, why in left.items())
        raise ValueError(f"model: none of its masked units can be taken out: {whys}") from reasons[-1]
    return *trial(runs), runs


def _take_out(model: nn.Module, groups: Sequence[Group], attentions: Sequence[Attention]) -> dict[str, int]:
    """Cut the slots of `groups` out of `model`. Returns the numbers that were set: module.attribute -> value."""
    cut: dict[str, dict[int, list[int]]] = {}
    gone = {slot for group in groups for slot in group.slots}
    for name, dim, index in gone:
        cut.setdefault(name, {}).setdefault(dim, []).append(index)
    tensors = Tensors(model)
    values = {}
    for name, dims in cut.items():
        value = tensors[name]
        for dim, indices in dims.items():
            keep = torch.ones(value.shape[dim], dtype=torch.bool, device=value.device)
            keep[indices] = False
            value = value[(slice(None),) * dim + (keep,)]
        values[name] = value
    _replace(model, values)
    attributes: dict[str, int] = {}
    for attention in attentions:
        heads = attention.heads - sum(slot in gone for slot in attention.slots)
        if heads == attention.heads:
            continue
        owner = attention.layer.rpartition(".")[0]
        module = model.get_submodule(owner)
        for attribute, value in list(vars(module).items()):
            new = (
                {attention.heads: heads, attention.heads * attention.width: heads * attention.width}.get(value)
                if type(value) is int
                else None
            )
            if new is not None and (value != attention.heads or "head" in attribute):
                setattr(module, attribute, new)
                attributes[f"{owner}.{attribute}" if owner else attribute] = new
    return attributes


def _replace(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Put tensors of other sizes in place, wherever a module holds one, and set what modules say of their widths."""
    tensors = Tensors(model)
    by_identity: dict[int, Tensor] = {}
    for name, value in values.items():
        held = tensors.held(name)
        new = nn.Parameter(value, requires_grad=held.requires_grad) if isinstance(held, nn.Parameter) else value
        by_identity.setdefault(id(held), new)
    for module in model.modules():
        for own in (module._parameters, module._buffers):
            for name, tensor in own.items():
                if tensor is not None and id(tensor) in by_identity:
                    own[name] = by_identity[id(tensor)]  # type: ignore[assignment]
        _set_widths(module)


def _set_widths(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        if module.groups > 1 and module.groups == module.in_channels:
            module.groups = module.in_channels = len(module.weight)  # depthwise
        else:
            module.in_channels = module.weight.shape[1] * module.groups
        module.out_channels = len(module.weight)
    elif isinstance(module, nn.modules.batchnorm._NormBase):
        held: Iterable[Any] = (module.weight, module.running_mean)
        module.num_features = next((len(tensor) for tensor in held if tensor is not None), module.num_features)
