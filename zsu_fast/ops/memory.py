"""Whether tensors that are about to be written to share memory, within themselves or with each other.

Decided exactly: interleaved views (two columns of one matrix, the heads of one projection) share nothing and pass.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def has_addresses(tensor: Tensor) -> bool:
    """False where memory cannot be compared: fake and meta tensors, subclasses without memory, while tracing."""
    return not torch.compiler.is_compiling() and _has_memory(tensor)


def _has_memory(tensor: Tensor) -> bool:
    if tensor.is_meta:
        return False
    if type(tensor) in (Tensor, torch.nn.Parameter):
        return True
    try:  # a subclass may be an ordinary tensor by another name, or wrap tensors and have no memory of its own
        return tensor.data_ptr() != 0
    except (RuntimeError, NotImplementedError):
        return False


def overlaps_itself(tensor: Tensor) -> bool:
    """True if two elements of `tensor` lie at the same address: expanded dimensions, overlapping windows."""
    if tensor.is_contiguous() or tensor.numel() == 0:
        return False
    reach = 0  # offset of the last element, over the dimensions met so far
    for stride, size in sorted((stride, size) for size, stride in zip(tensor.shape, tensor.stride(), strict=True)):
        if size == 1:
            continue
        if stride == 0:
            return True
        if stride <= reach:  # the steps interleave, perhaps without collision: look
            marked = torch.zeros(_last_offset(tensor) + 1, dtype=torch.bool)
            marked.as_strided(tensor.shape, tensor.stride()).fill_(True)
            return int(marked.count_nonzero()) < tensor.numel()
        reach += stride * (size - 1)
    return False


def same_elements(a: Tensor, b: Tensor) -> bool:
    """True if `a` and `b` are views of the same elements in the same order."""
    return a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.stride() == b.stride() and a.dtype == b.dtype


def first_overlap(tensors: Sequence[Tensor]) -> tuple[int, int] | None:
    """Positions of two of the `tensors`, all on one device, that share memory with each other; None if there are none.

    Costs a sort of the address ranges. Only ranges that do meet are looked into, at one byte of host memory per element
    between their ends.
    """
    if torch.compiler.is_compiling():
        return None
    ranges = []
    for position, tensor in enumerate(tensors):
        if _has_memory(tensor) and (elements := _extent(tensor)):
            begin = tensor.data_ptr()
            ranges.append((begin, begin + elements * tensor.element_size(), position))
    ranges.sort()
    group: list[int] = []
    group_end = 0
    for begin, end, position in ranges:
        if begin < group_end:
            group.append(position)
            group_end = max(group_end, end)
            continue
        if len(group) > 1 and (pair := _collision(tensors, group, group_end)):
            return pair
        group, group_end = [position], end
    return _collision(tensors, group, group_end) if len(group) > 1 else None


def _collision(tensors: Sequence[Tensor], group: Sequence[int], end: int) -> tuple[int, int] | None:
    """The first two of `group` that share memory. Their ranges meet, so they are looked at element by element, up to
    `end`.
    """
    start = min(tensors[i].data_ptr() for i in group)
    unit = math.gcd(*(n for i in group for n in (tensors[i].data_ptr() - start, tensors[i].element_size())))
    marked = torch.zeros((end - start) // unit, dtype=torch.bool)

    def elements(i: int) -> Tensor:
        # A last dimension of the units within an element makes different dtypes comparable.
        width = tensors[i].element_size() // unit
        strides = [stride * width for stride in tensors[i].stride()]
        shape = [size if stride else 1 for size, stride in zip(tensors[i].shape, strides, strict=True)]
        return marked.as_strided((*shape, width), (*strides, 1), (tensors[i].data_ptr() - start) // unit)

    for n, i in enumerate(group):
        if elements(i).any():
            for j in group[:n]:
                marked.fill_(False)
                elements(j).fill_(True)
                if elements(i).any():
                    return min(i, j), max(i, j)
        elements(i).fill_(True)
    return None


def _last_offset(tensor: Tensor) -> int:
    return sum(stride * (size - 1) for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _extent(tensor: Tensor) -> int:
    """Elements from the first to the last in memory."""
    elements = tensor.numel()
    return _last_offset(tensor) + 1 if elements and not tensor.is_contiguous() else elements
