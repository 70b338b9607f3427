"""Masking in place: slices (neurons) of many tensors in one call."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple, TypedDict, TypeVar, overload

import torch
from torch import Tensor

from ..model.shards import is_sharded, local_part, place_of
from ..reference import masking as reference
from ..reference.layout import accumulate_dtype
from ..reference.masking import ADD, SCALE, SET
from ._library import define
from .check import check_allowed, check_apart, check_number, check_value
from .memory import first_overlap
from .neuron_indices import Indices, index_per_tensor
from .selection import check_float

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor
    from typing_extensions import Unpack

Mode = Literal["zero", "value", "scale", "gaussian", "laplace"]
Given = TypeVar("Given", Tensor, Sequence[Tensor])

define(
    "mask_neurons_(Tensor(a!)[] tensors, Tensor[] indices, int[] dims, Tensor(b!)[] saved, Tensor[] noise, "
    "int operation, float value) -> ()",
    reference.mask_neurons_,
    lambda *arguments: None,
    mutates=(0, 3),
)


class Perturbation(TypedDict, total=False):
    """What is to become of slices, as `mask_neurons_` takes it."""

    mode: Mode
    value: float | None
    scale: float
    generator: torch.Generator | None


@overload
def mask_neurons_(
    tensors: Given,
    indices: Indices | Sequence[Indices],
    dim: int | Sequence[int] = 0,
    *,
    record: Literal[False] = False,
    check: bool = True,
    **how: "Unpack[Perturbation]",
) -> Given: ...
@overload
def mask_neurons_(
    tensors: Tensor,
    indices: Indices | Sequence[Indices],
    dim: int | Sequence[int] = 0,
    *,
    record: Literal[True],
    check: bool = True,
    **how: "Unpack[Perturbation]",
) -> tuple[Tensor, Tensor]: ...
@overload
def mask_neurons_(
    tensors: Sequence[Tensor],
    indices: Indices | Sequence[Indices],
    dim: int | Sequence[int] = 0,
    *,
    record: Literal[True],
    check: bool = True,
    **how: "Unpack[Perturbation]",
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
            (a scalar counts as a vector of one), any strides without overlap, sharing no memory with each other. Of a
            DTensor each process writes its own part, by indices that count in the whole; no noise is added to those.
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
        it bit for bit. Of a DTensor: what stood in this process's part (`to_local()`), at the indices that lie there.

    Raises:
        TypeError: an argument of the wrong type or dtype.
        ValueError: indices out of range or not unique; wrong number of indices or dims; tensors on different devices,
            sharing memory, overlapping themselves, or requiring grad while grad mode is on; an unknown mode, a missing
            or superfluous value, or one that the dtype cannot hold. Nothing is changed then.
    """
    slices = check_slices(tensors, indices, dim, check)
    old = write_slices(slices, mode, value, scale, generator, record)
    if not record:
        return tensors
    return (tensors, old[0]) if isinstance(tensors, Tensor) else (tensors, old)


class Slices(NamedTuple):
    """Slices that may be written to: all is checked but what is to become of them."""

    tensors: list[Tensor]
    """Of at least one dimension: a scalar as a vector of one, a view that shares its memory and version counter."""
    indices: list[Tensor]
    dims: list[int]
    single: bool
    """Whether a tensor was given, not a sequence."""
    in_parts: bool = False
    """Whether some are this process's parts of DTensors."""

    def label(self, position: int) -> str:
        return _label(position, self.single)


def check_slices(
    tensors: Tensor | Sequence[Tensor], indices: Indices | Sequence[Indices], dim: int | Sequence[int], check: bool
) -> Slices:
    """The arguments of `mask_neurons_` that say where it writes; raises as it does."""
    single = isinstance(tensors, Tensor)
    whole = [tensors] if isinstance(tensors, Tensor) else _check_sequence(tensors)
    in_parts = any(map(is_sharded, whole))
    given = [local_part(tensor) if is_sharded(tensor) else tensor for tensor in whole] if in_parts else whole
    device = given[0].device if given and isinstance(given[0], Tensor) else None
    for position, tensor in enumerate(given):
        label = "tensors" if single else f"tensors[{position}]"
        check_float(label, tensor)
        if tensor.device != device:
            raise ValueError(f"tensors must be on one device, got {device} and, for {label}, {tensor.device}")
        check_allowed(label, whole[position])
        check_apart(label, tensor)
    if pair := first_overlap(given):
        raise ValueError(
            "tensors must not share memory with each other, but "
            f"{_label(pair[0], single)} and {_label(pair[1], single)} do"
        )
    targets = [tensor if tensor.dim() else tensor.unsqueeze(0) for tensor in given]
    dims = _check_dims(dim, targets, single)
    sizes = [tensor.size(d) if tensor.dim() else 1 for tensor, d in zip(whole, dims, strict=True)]
    index = index_per_tensor(indices, sizes, device, single, check)
    for position, tensor in enumerate(whole if in_parts else ()):
        if is_sharded(tensor):
            index[position] = _in_part(_label(position, single), tensor, dims[position], index[position])
    return Slices(targets, index, dims, single, in_parts)


def _in_part(label: str, tensor: "DTensor", dim: int, index: Tensor) -> Tensor:
    """Where in this process's part of a DTensor those of the indices are that lie there."""
    try:
        first, end = place_of(tensor, dim)
    except ValueError as error:
        raise ValueError(f"{label}: {error}") from None
    return index[(index >= first) & (index < end)] - first


def write_slices(
    slices: Slices, mode: Mode, value: float | None, scale: float, generator: torch.Generator | None, record: bool
) -> list[Tensor]:
    """The old values, if they are to be recorded; raises as `mask_neurons_` does."""
    tensors, indices, dims, *_ = slices
    code, number = _check_mode(mode, value, scale, slices)
    if code == ADD and slices.in_parts:
        raise ValueError(f"mode {mode!r} adds noise, which would not be the same in all processes of a DTensor")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")
    if generator is not None and tensors and generator.device.type != tensors[0].device.type:
        raise ValueError(f"generator must be on the device of the tensors, {tensors[0].device}, got {generator.device}")
    with torch.no_grad():
        shapes = _slice_shapes(slices) if record or code == ADD else []
        old = [tensor.new_empty(shape) for tensor, shape in zip(tensors, shapes, strict=True)] if record else []
        noise = (
            [_noise(mode, scale, shape, tensor, generator) for tensor, shape in zip(tensors, shapes, strict=True)]
            if code == ADD
            else []
        )
        if tensors:
            torch.ops.zsu_fast.mask_neurons_(tensors, indices, dims, old, noise, code, number)
    return old


def _label(position: int, single: bool) -> str:
    return "tensors" if single else f"tensors[{position}]"


def _check_sequence(tensors: Sequence[Tensor]) -> list[Tensor]:
    if not isinstance(tensors, Sequence) or isinstance(tensors, str):
        raise TypeError(f"tensors must be a Tensor or a sequence of Tensors, got {type(tensors).__name__}")
    return list(tensors)


def _slice_shapes(slices: Slices) -> list[tuple[int, ...]]:
    return [
        (*tensor.shape[:d], index.shape[0], *tensor.shape[d + 1 :])
        for tensor, index, d in zip(slices.tensors, slices.indices, slices.dims, strict=True)
    ]


def _check_mode(mode: str, value: float | None, scale: float, slices: Slices) -> tuple[int, float]:
    """Code and number for the op."""
    if mode in ("value", "scale"):
        if value is None:
            raise ValueError(f'mode "{mode}" needs a value')
        if mode == "value":
            dtypes: set[torch.dtype] = set()
            for position, tensor in enumerate(slices.tensors):
                if tensor.dtype not in dtypes:
                    dtypes.add(tensor.dtype)
                    check_value(f"value for {slices.label(position)}", value, tensor.dtype)
        return (SET if mode == "value" else SCALE), check_number("value", value)
    if mode not in ("zero", "gaussian", "laplace"):
        raise ValueError(f'mode must be "zero", "value", "scale", "gaussian" or "laplace", got {mode!r}')
    if value is not None:
        raise ValueError(f'mode "{mode}" takes no value, got {value}')
    if not 0 <= check_number("scale", scale) < math.inf:
        raise ValueError(f"scale must be finite and not negative, got {scale}")
    return (SET if mode == "zero" else ADD), 0.0


def _check_dims(dim: int | Sequence[int], tensors: Sequence[Tensor], single: bool) -> list[int]:
    if not isinstance(dim, (int, Sequence)):
        raise TypeError(f"dim must be an int or a sequence of ints, got {type(dim).__name__}")
    dims = [dim] * len(tensors) if isinstance(dim, int) else list(dim)
    if len(dims) != len(tensors):
        raise ValueError(f"dim must be an int or one per tensor ({len(tensors)}), got {len(dims)}")
    positive = []
    for position, (tensor, d) in enumerate(zip(tensors, dims, strict=True)):
        if isinstance(d, bool) or not isinstance(d, int):
            raise TypeError(f"dim for {_label(position, single)} must be an int, got {type(d).__name__}")
        rank = tensor.dim()
        if not -rank <= d < rank:
            label, shape = _label(position, single), tuple(tensor.shape)
            raise ValueError(f"dim for {label} of shape {shape} is out of range, got {d}")
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
