"""Masking in place: elements of a weight by a score, and slices (neurons) of many tensors in one call."""

import math
from collections.abc import Sequence
from typing import Literal, TypeVar, overload

import torch
from torch import Tensor

from ..reference import masking as reference
from ..reference.layout import accumulate_dtype
from ..reference.masking import ADD, SCALE, SET
from ._library import define
from .memory import first_overlap, has_addresses, overlaps_itself, same_elements
from .neuron_indices import Indices, index_per_tensor
from .selection import check_float, check_k

Mode = Literal["zero", "value", "scale", "gaussian", "laplace"]
Given = TypeVar("Given", Tensor, Sequence[Tensor])

define(
    "topk_mask_(Tensor(a!) weight, Tensor scores, int k, bool absolute, float value, Tensor(b!)? saved_indices, "
    "Tensor(c!)? saved_values) -> ()",
    reference.topk_mask_,
    lambda *arguments: None,
    mutates=(0, 5, 6),
)
define(
    "mask_neurons_(Tensor(a!)[] tensors, Tensor[] indices, int[] dims, Tensor(b!)[] saved, Tensor[] noise, "
    "int operation, float value) -> ()",
    reference.mask_neurons_,
    lambda *arguments: None,
    mutates=(0, 3),
)


@overload
def topk_mask_(
    weight: Tensor,
    scores: Tensor,
    k: int,
    value: float = 0.0,
    *,
    absolute: bool = False,
    record: Literal[False] = False,
) -> Tensor: ...
@overload
def topk_mask_(
    weight: Tensor, scores: Tensor, k: int, value: float = 0.0, *, absolute: bool = False, record: Literal[True]
) -> tuple[Tensor, Tensor, Tensor]: ...
def topk_mask_(
    weight: Tensor, scores: Tensor, k: int, value: float = 0.0, *, absolute: bool = False, record: bool = False
) -> Tensor | tuple[Tensor, Tensor, Tensor]:
    """Set the elements of `weight` that have the k largest scores to `value`, in place.

    Ties go to the element of the lowest row-major index whatever the memory format, -0.0 equals +0.0, and NaN comes
    after every number: the result is the same on every device.

    Args:
        weight: float32, float64, float16 or bfloat16, any shape and strides without overlap.
        scores: Of the shape and device of `weight`, any of the same dtypes, any strides. May be `weight` itself.
        k: How many elements, 0 to weight.numel().
        value: What they become.
        absolute: Rank by |scores|.
        record: Return what was there, too, collected in the same pass.

    Returns:
        `weight`; with `record` (weight, indices, values): int64 [k] row-major indices, ascending, and [k] old values,
        so that `weight.view(-1)[indices] = values` undoes it bit for bit (for a contiguous weight).

    Raises:
        TypeError: a dtype that is not supported, `k` not an int.
        ValueError: shapes or devices differ; `k` out of range; `value` not representable in the dtype of `weight`;
            `weight` requires grad while grad mode is on, or its elements share memory. Nothing is changed then.
    """
    check_float("weight", weight)
    check_float("scores", scores)
    if scores.shape != weight.shape:
        raise ValueError(f"scores must have the shape of weight, {tuple(weight.shape)}, got {tuple(scores.shape)}")
    if scores.device != weight.device:
        raise ValueError(f"scores must be on the device of weight, {weight.device}, got {scores.device}")
    check_k(k, weight.numel(), "elements")
    value = _check_value("value", value, weight)
    _check_writable("weight", weight)
    if (
        has_addresses(weight)
        and has_addresses(scores)
        and not same_elements(weight, scores)
        and first_overlap([weight, scores])
    ):
        raise ValueError("scores must be weight itself or share no memory with it, got a partly overlapping view")
    indices = weight.new_empty(k, dtype=torch.int64) if record else None
    values = weight.new_empty(k) if record else None
    with torch.no_grad():
        torch.ops.zsu_fast.topk_mask_(weight, scores, k, bool(absolute), value, indices, values)
    if indices is None or values is None:
        return weight
    return weight, indices, values


@overload
def mask_neurons_(
    tensors: Given,
    indices: Indices | Sequence[Indices],
    dim: int | Sequence[int] = 0,
    *,
    mode: Mode = "zero",
    value: float | None = None,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
    record: Literal[False] = False,
    check: bool = True,
) -> Given: ...
@overload
def mask_neurons_(
    tensors: Tensor,
    indices: Indices | Sequence[Indices],
    dim: int | Sequence[int] = 0,
    *,
    mode: Mode = "zero",
    value: float | None = None,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
    record: Literal[True],
    check: bool = True,
) -> tuple[Tensor, Tensor]: ...
@overload
def mask_neurons_(
    tensors: Sequence[Tensor],
    indices: Indices | Sequence[Indices],
    dim: int | Sequence[int] = 0,
    *,
    mode: Mode = "zero",
    value: float | None = None,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
    record: Literal[True],
    check: bool = True,
) -> tuple[Sequence[Tensor], list[Tensor]]: ...
def mask_neurons_(
    tensors: Tensor | Sequence[Tensor],
    indices: Indices | Sequence[Indices],
    dim: int | Sequence[int] = 0,
    *,
    mode: Mode = "zero",
    value: float | None = None,
    scale: float = 1.0,
    generator: torch.Generator | None = None,
    record: bool = False,
    check: bool = True,
) -> Tensor | Sequence[Tensor] | tuple[Tensor, Tensor] | tuple[Sequence[Tensor], list[Tensor]]:
    """Overwrite, scale or disturb slices of many tensors in place, in one call: the weights that make up neurons.

    A neuron of a convolution or linear layer is a row (dim 0) of its weight and an entry of its bias and of the vectors
    of the BatchNorm that follows; its outgoing path is a column (dim 1) of the next layer's weight.

    Args:
        tensors: A tensor or a sequence of them, all on one device; float32, float64, float16 or bfloat16, any shape
            (a scalar counts as a vector of one), any strides without overlap, sharing no memory with each other.
        indices: Which slices: unique ints in 0..size-1 (a sequence, an int64 or int32 tensor) or a bool mask tensor
            [size]; one for all tensors, or a sequence of one per tensor. A mask in CUDA memory is waited for: how many
            slices it picks is for the host to know.
        dim: The dimension that is indexed, for all tensors or one per tensor. Negative counts from the back.
        mode: "zero": 0; "value": `value`; "scale": multiplied by `value`; "gaussian", "laplace": noise is added.
        value: The new value, or the factor of "scale"; only with these modes.
        scale: Of the noise: the standard deviation of "gaussian", b of "laplace" (density exp(-|x| / b) / (2 b)).
        generator: Source of the noise, on the device of the tensors; torch's default generator otherwise.
        record: Return the old values, too, collected in the same pass.
        check: Look at the values of index tensors in CUDA memory first, which waits for the GPU once. False trusts them
            (from `topk_indices`, they are right): nothing is waited for, and a kernel that meets an index out of range
            stops with a CUDA error. Off in any case while a CUDA graph is captured. Indices on the host are always
            checked.

    Returns:
        `tensors` as given; with `record` (tensors, old), old[i] = tensors[i].index_select(dim, indices[i]) as it was
        (a tensor for a tensor, a list for a sequence), so that tensors[i].index_copy_(dim, indices[i], old[i]) undoes
        it bit for bit.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: indices out of range or not unique; wrong number of indices or dims; tensors on different devices,
            sharing memory, overlapping themselves, or requiring grad while grad mode is on; an unknown mode, a missing
            or superfluous value, or one that the dtype cannot hold. Nothing is changed then.
    """
    single = isinstance(tensors, Tensor)
    given = [tensors] if isinstance(tensors, Tensor) else _check_sequence(tensors)
    labels = ["tensors"] if single else [f"tensors[{i}]" for i in range(len(given))]
    device = given[0].device if given and isinstance(given[0], Tensor) else None
    for label, tensor in zip(labels, given, strict=True):
        check_float(label, tensor)
        if tensor.device != device:
            raise ValueError(f"tensors must be on one device, got {device} and, for {label}, {tensor.device}")
        _check_writable(label, tensor)
    if pair := first_overlap(given):
        raise ValueError(
            f"tensors must not share memory with each other, but {labels[pair[0]]} and {labels[pair[1]]} do"
        )
    code, number = _check_mode(mode, value, scale, given, labels)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator is not None and device is not None and generator.device.type != device.type:
        raise ValueError(f"generator must be on the device of the tensors, {device}, got {generator.device}")

    # A scalar is masked as a vector of one: a view, which shares memory and version counter.
    targets = [tensor if tensor.dim() else tensor.unsqueeze(0) for tensor in given]
    dims = _check_dims(dim, targets, labels)
    sizes = [tensor.size(d) for tensor, d in zip(targets, dims, strict=True)]
    chosen = index_per_tensor(indices, sizes, device, single, check)
    with torch.no_grad():
        shapes = _slice_shapes(targets, chosen, dims) if record or code == ADD else []
        old = [tensor.new_empty(shape) for tensor, shape in zip(targets, shapes, strict=True)] if record else []
        noise = (
            [_noise(mode, scale, shape, tensor, generator) for tensor, shape in zip(targets, shapes, strict=True)]
            if code == ADD
            else []
        )
        if given:
            torch.ops.zsu_fast.mask_neurons_(targets, chosen, dims, old, noise, code, number)
    if not record:
        return tensors
    return (tensors, old[0]) if isinstance(tensors, Tensor) else (tensors, old)


def _check_sequence(tensors: Sequence[Tensor]) -> list[Tensor]:
    if not isinstance(tensors, Sequence) or isinstance(tensors, str):
        raise TypeError(f"tensors must be a Tensor or a sequence of Tensors, got {type(tensors).__name__}")
    return list(tensors)


def _slice_shapes(tensors: Sequence[Tensor], indices: Sequence[Tensor], dims: Sequence[int]) -> list[tuple[int, ...]]:
    return [
        (*tensor.shape[:d], index.shape[0], *tensor.shape[d + 1 :])
        for tensor, index, d in zip(tensors, indices, dims, strict=True)
    ]


def _check_writable(label: str, tensor: Tensor) -> None:
    if tensor.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{label} requires grad: masking in place is not differentiable, wrap it in torch.no_grad()")
    # Tracing cannot ask for inference mode.
    if not torch.compiler.is_compiling() and tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(f"{label} is an inference tensor: write to it under torch.inference_mode(), or clone it")
    if overlaps_itself(tensor):
        raise ValueError(
            f"{label} must have every element at an address of its own, got shape {tuple(tensor.shape)} with strides "
            f"{tensor.stride()} (expanded or overlapping): clone it first"
        )


def _number(label: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{label} must be a float, got {type(value).__name__}")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(f"{label} must be a float, got an integer beyond its range") from None


def _check_value(label: str, value: float, tensor: Tensor) -> float:
    value = _number(label, value)
    if math.isfinite(value) and abs(value) > torch.finfo(tensor.dtype).max:
        raise ValueError(f"{label} {value} cannot be held by {tensor.dtype}")
    return value


def _check_mode(
    mode: str, value: float | None, scale: float, tensors: Sequence[Tensor], labels: Sequence[str]
) -> tuple[int, float]:
    """Code and number for the op."""
    if mode in ("value", "scale"):
        if value is None:
            raise ValueError(f'mode "{mode}" needs a value')
        for label, tensor in zip(labels, tensors, strict=True):
            if mode == "value":
                _check_value(f"value for {label}", value, tensor)
        return (SET if mode == "value" else SCALE), _number("value", value)
    if mode not in ("zero", "gaussian", "laplace"):
        raise ValueError(f'mode must be "zero", "value", "scale", "gaussian" or "laplace", got {mode!r}')
    if value is not None:
        raise ValueError(f'mode "{mode}" takes no value, got {value}')
    if not 0 <= _number("scale", scale) < math.inf:
        raise ValueError(f"scale must be finite and not negative, got {scale}")
    return (SET if mode == "zero" else ADD), 0.0


def _check_dims(dim: int | Sequence[int], tensors: Sequence[Tensor], labels: Sequence[str]) -> list[int]:
    if not isinstance(dim, (int, Sequence)):
        raise TypeError(f"dim must be an int or a sequence of ints, got {type(dim).__name__}")
    dims = [dim] * len(tensors) if isinstance(dim, int) else list(dim)
    if len(dims) != len(tensors):
        raise ValueError(f"dim must be an int or one per tensor ({len(tensors)}), got {len(dims)}")
    positive = []
    for label, tensor, d in zip(labels, tensors, dims, strict=True):
        if isinstance(d, bool) or not isinstance(d, int):
            raise TypeError(f"dim for {label} must be an int, got {type(d).__name__}")
        rank = tensor.dim()
        if not -rank <= d < rank:
            raise ValueError(f"dim for {label} of shape {tuple(tensor.shape)} is out of range, got {d}")
        positive.append(d % rank)
    return positive


def _noise(mode: str, scale: float, shape: Sequence[int], tensor: Tensor, generator: torch.Generator | None) -> Tensor:
    """Drawn in the dtype of the arithmetic, so that the tails do not depend on the dtype of the weight."""
    dtype = accumulate_dtype(tensor.dtype)
    if mode == "gaussian":
        sample = torch.randn(shape, generator=generator, dtype=dtype, device=tensor.device)
    else:  # the difference of two exponentials is Laplace distributed, and finite where log of a uniform may not be
        first, second = (
            torch.empty(shape, dtype=dtype, device=tensor.device).exponential_(generator=generator) for _ in range(2)
        )
        sample = first - second
    return (sample * float(scale)).to(tensor.dtype)
