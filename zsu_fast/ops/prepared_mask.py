"""A mask of neurons that is applied again and again: what can be checked once is checked once."""

from collections.abc import Sequence
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, Literal, overload

import torch
from torch import Tensor

from .check import check_allowed
from .mask_neurons import Given, Mode, Perturbation, check_slices, write_slices
from .memory import has_addresses
from .neuron_indices import Indices

if TYPE_CHECKING:
    from typing_extensions import Unpack

_dtype = attrgetter("dtype")


class PreparedMask(Generic[Given]):
    """`mask_neurons_` for one choice of slices, applied as often as it is called: after every step of an optimiser, for
    every batch of an experiment.

        mask = PreparedMask([layer.weight, layer.bias], [3, 11])
        mask()                                # as mask_neurons_(tensors, indices, dim), the same bits
        mask(mode="gaussian", scale=0.1)      # the same slices, another perturbation

    A call looks only whether every tensor still lies in the same memory, of the same shape, strides and dtype; that
    makes it worth while where there are many tensors. The tensors are held, and their values may change in any way
    between calls; the indices are copied.

    Args:
        tensors, indices, dim: As `mask_neurons_` takes them. Indices in CUDA memory are waited for, once, here.

    Raises:
        TypeError, ValueError: as `mask_neurons_` does, or a tensor has no memory of its own (meta and fake tensors,
            some subclasses).
    """

    def __init__(self, tensors: Given, indices: Indices | Sequence[Indices], dim: int | Sequence[int] = 0) -> None:
        with torch.no_grad():  # nothing is written yet
            slices = check_slices(tensors, indices, dim, check=True)
        for position, tensor in enumerate(slices.tensors):
            if not has_addresses(tensor):
                label = slices.label(position)
                raise ValueError(f"{label} must have memory of its own, got a {type(tensor).__name__} without")
        # Whoever holds the indices may write to them, here they stay what was checked.
        copies = {id(index): index.clone() for index in slices.indices}
        self._slices = slices._replace(indices=[copies[id(index)] for index in slices.indices])
        self._tensors: Given = tensors
        self._held = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        self._views = [tensor.detach() for tensor in self._held]
        self._dtypes, self._addresses = list(map(_dtype, self._held)), list(map(Tensor.data_ptr, self._held))
        self._inference = any(map(Tensor.is_inference, self._held))

    @overload
    def __call__(self, *, record: Literal[False] = False, **how: "Unpack[Perturbation]") -> Given: ...
    @overload
    def __call__(self, *, record: Literal[True], **how: "Unpack[Perturbation]") -> tuple[Given, Any]: ...
    def __call__(
        self,
        *,
        mode: Mode = "zero",
        value: float | None = None,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
        record: bool = False,
    ) -> Given | tuple[Given, Any]:
        """Write, as `mask_neurons_` does with these arguments, and return what it returns.

        Raises:
            TypeError, ValueError: as `mask_neurons_` does, or a tensor was given other memory, another shape or another
                dtype since (`module.to`, `tensor.data = ...`, `resize_`): prepare the mask again. Nothing is changed
                then.
        """
        # Tracing has no addresses to compare, and guards shapes, strides and dtypes itself.
        if not torch.compiler.is_compiling() and not self._unmoved():
            self._refuse_moved()
        if self._inference or (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in self._held)):
            for position, tensor in enumerate(self._held):
                check_allowed(self._slices.label(position), tensor)
        old = write_slices(self._slices, mode, value, scale, generator, record)
        if not record:
            return self._tensors
        return self._tensors, old[0] if self._slices.single else old

    def _unmoved(self) -> bool:
        """Every tensor is in the memory, of the shape, strides and dtype that were checked. Then no two have come to
        overlap, either. Made of functions of C alone: this is most of what a call adds to the op.
        """
        return (
            all(map(Tensor.is_set_to, self._held, self._views))
            and list(map(_dtype, self._held)) == self._dtypes
            and list(map(Tensor.data_ptr, self._held)) == self._addresses  # a storage that was freed or resized
        )

    def _refuse_moved(self) -> None:
        for position, (now, was) in enumerate(zip(self._held, self._views, strict=True)):
            before, found = _told(was, self._addresses[position]), _told(now, now.data_ptr())
            if before != found:
                raise ValueError(
                    f"{self._slices.label(position)} must be as it was when the mask was prepared, {before}, "
                    f"got {found}: prepare the mask again"
                )
        # Else another storage begins at the same address: the same elements.


def _told(tensor: Tensor, address: int) -> str:
    return f"{tensor.dtype} {tuple(tensor.shape)} with strides {tensor.stride()} at {address:#x}"
