"""What is checked of a model and its images before anything else: kinds, devices, dtypes, that they fit together."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from zsu_fast.evaluate.inference import logits_of
from zsu_fast.lrp.eager import compiled_parts_as_written
from zsu_fast.model.carriers import is_packed, why_unreachable
from zsu_fast.model.forward_errors import may_be_the_inputs, not_taken
from zsu_fast.model.shards import group_of_parts, reshard, sharded_part
from zsu_fast.model.wrapped import bare_model, check_module, instead_of
from zsu_fast.unlearn.structure import Structure
from zsu_fast.unlearn.watch import trace_structure


def check_model(model: nn.Module, in_parts: bool = False) -> nn.Module:
    """The bare model. TypeError for what cannot be edited, with the reason.

    in_parts: whether it may be an FSDP2 model, of which each process holds slices.
    """
    check_module(model)
    bare = bare_model(model)
    for name, module in bare.named_modules():
        where = f"module {name!r}" if name else "it"
        if why := why_unreachable(module):
            raise TypeError(f"model: {where} {why}")
        if "_fsdp_wrapped_module" in module._modules:
            raise TypeError(
                f"model: {where} is FullyShardedDataParallel, each of whose processes holds a part of the weights, "
                "flattened: forget on the whole model, then shard"
            )
    # Of torch itself or of Lightning: it raises.
    owner = next(kind for kind in type(bare).__mro__ if "forward" in vars(kind))
    if owner.__name__ in ("Module", "LightningModule") and "forward" not in vars(bare):
        raise TypeError(f"model: {type(bare).__name__} has no forward of its own{instead_of(bare._modules)}")
    if (part := sharded_part(bare)) is not None:
        reshard(bare)
        if not in_parts or group_of_parts(bare) is None:
            raise TypeError(
                f"model: {part}, each process holds a part of the weights, which this method cannot edit: forget on "
                "the whole model, then shard it, or apply the patch to the parts (Patch.apply_)"
            )
    for name, parameter in bare.named_parameters():
        if is_packed(parameter, but=""):
            raise TypeError(
                f"model: {name} is a torchao {type(parameter.data).__name__}: forget before you quantise, and take the "
                "masked units out then (zsu_fast.compact): it makes NaN of rows of zeros"
            )
        if parameter.is_meta:
            raise TypeError(f"model: {name} is on the meta device, it has no values (offloaded?); load it first")
    return bare


def check_runs(model: nn.Module, images: Tensor, argument: str, view: nn.Module | None = None) -> Structure:
    """The structure, seen on one image. ValueError naming `argument` if the model does not take such images.

    view: what runs, with the model inside; by default the model itself.
    """
    view = model if view is None else view
    return trace_structure(model, check_taken(view, images, argument), view)


def check_taken(model: nn.Module, images: Tensor, argument: str) -> Tensor:
    """The first image, or two where the model normalises by the batch; ValueError if it makes no logits of them."""
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is not None and images.device != parameter.device:
        raise ValueError(f"{argument}: on {images.device}, the model is on {parameter.device}")
    few = images[:1]
    try:
        try:
            output = _run(model, few)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            # A norm without running statistics takes them from the batch: one image has none.
            few = images[:2]
            few = few if len(few) > 1 else few.repeat(2, *[1] * (few.dim() - 1))
            output = _run(model, few)
    except Exception as error:
        if not may_be_the_inputs(error):
            raise
        seen = images if isinstance(images, Tensor) else few  # a stream would be read through for its shape
        raise not_taken(argument, model, seen, error) from error
    try:
        logits_of(output)
    except TypeError as error:  # the argument is of the right type: what it does is wrong
        raise ValueError(str(error)) from None
    return few


def _run(model: nn.Module, images: Tensor) -> object:
    with torch.no_grad(), compiled_parts_as_written():
        return model(images)
