"""The ways of saying which neurons: ints, tensors, masks, for one tensor or for many."""

from collections.abc import Sequence
from numbers import Integral
from typing import TypeGuard, cast

import torch
from torch import Tensor

Indices = Sequence[int] | Tensor


def index_per_tensor(
    indices: Indices | Sequence[Indices],
    sizes: Sequence[int],
    device: torch.device | None,
    single: bool,
    check: bool = True,
) -> list[Tensor]:
    """One int64 index on `device` for each of the sizes. `single`: `indices` is for the only tensor.

    All are checked; those in CUDA memory, which must be waited for, only with `check`.
    """
    one = isinstance(indices, Tensor) or _is_ints(indices)
    if one:
        each = [cast("Indices", indices)] * len(sizes)
    else:
        if not isinstance(indices, Sequence):
            raise TypeError(f"indices must be ints, a tensor or a sequence of those, got {type(indices).__name__}")
        each = cast("list[Indices]", list(indices))
        if len(each) != len(sizes):
            expected = "ints" if single else f"one for each of the {len(sizes)} tensors"
            raise ValueError(f"indices must be {expected}, got {len(each)}")
    # One index for many tensors is checked and moved once for each size that it meets.
    known: dict[tuple[int, int], Tensor] = {}
    unchecked: list[tuple[str, Tensor, int]] = []
    result = []
    compiling = torch.compiler.is_compiling()
    for position, (index, size) in enumerate(zip(each, sizes, strict=True)):
        assert device is not None
        # The compiler of torch 2.11 knows no id() of a list; it finds by itself what is computed twice.
        key = (position if compiling else id(index), size)
        if key not in known:
            label = "indices" if one else f"indices[{position}]"
            known[key] = _index(label, index, size, device)
            if check and isinstance(index, Tensor) and index.is_cuda and index.dtype != torch.bool:
                unchecked.append((label, known[key], size))
        result.append(known[key])
    _check_on_device(unchecked)
    return result


def _is_ints(indices: object) -> TypeGuard[Sequence[int]]:
    return isinstance(indices, Sequence) and all(isinstance(i, Integral) and not isinstance(i, bool) for i in indices)


def _index(label: str, indices: Indices, size: int, device: torch.device) -> Tensor:
    if not isinstance(indices, Tensor):
        if not _is_ints(indices):
            raise TypeError(
                f"{label} must be ints or a tensor, got {type(indices).__name__} "
                "(a mask must be a bool tensor, not a list of bools)"
            )
        _check_on_host(label, indices, size)
        return torch.tensor(indices, dtype=torch.int64, device=device)
    if indices.dim() != 1:
        raise ValueError(f"{label} must be one-dimensional, got shape {tuple(indices.shape)}")
    if not indices.is_cpu and indices.device != device:
        raise ValueError(f"{label} must be on the device of the tensors, {device}, or on the CPU, got {indices.device}")
    if indices.dtype == torch.bool:
        if indices.shape[0] != size:
            raise ValueError(f"{label} is a mask and must have one entry for each of {size} slices, got {len(indices)}")
        return indices.nonzero().flatten().to(device)
    if indices.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{label} must be int64, int32 or bool, got {indices.dtype}")
    if indices.is_cpu and not torch.compiler.is_compiling():
        _check_on_host(label, indices.tolist(), size)
    return indices.to(device, torch.int64).contiguous()


def _check_on_host(label: str, indices: Sequence[int], size: int) -> None:
    if len(indices) and not (min(indices) >= 0 and max(indices) < size):
        wrong = next(i for i in indices if not 0 <= i < size)
        raise ValueError(f"{label} must be in 0..{size - 1} (the tensor has {size} slices), got {wrong}")
    if len(set(indices)) != len(indices):
        seen: set[int] = set()
        twice = next(i for i in indices if i in seen or seen.add(i))  # type: ignore[func-returns-value]
        raise ValueError(f"{label} must be unique, got {twice} more than once")


def _check_on_device(unchecked: Sequence[tuple[str, Tensor, int]]) -> None:
    """Look at all indices with one synchronisation; a captured CUDA graph cannot look (its kernels do)."""
    if not unchecked or torch.compiler.is_compiling() or torch.cuda.is_current_stream_capturing():
        return
    verdicts = []
    for _, index, size in unchecked:
        ordered = index.sort().values
        verdicts += [((index < 0) | (index >= size)).any(), (ordered[1:] == ordered[:-1]).any()]
    answers = torch.stack(verdicts).tolist()
    for (label, index, size), outside, twice in zip(unchecked, answers[::2], answers[1::2], strict=True):
        if outside or twice:
            _check_on_host(label, index.tolist(), size)
