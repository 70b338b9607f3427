"""Operands of the ops: tensors of any dtype, shape, layout and contents, and whether anything beside them changed."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
WRONG_DTYPES = (torch.int64, torch.bool, torch.complex64, torch.uint8)
LAYOUTS = ("dense",) * 5 + ("permuted", "gaps", "offset", "channels_last")
SPECIAL = (float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 6e4, -6e4, 1e-7, 5e-324)
WRONG_COUNTS = (-1, True, False, None, 1.0, "1", [1], 2**40, 2**70, torch.tensor(1))


class Refused(Exception):
    """The call refused its arguments in the way that it should."""


def shape(rng: random.Random, least: int = 0, most: int = 4) -> tuple[int, ...]:
    """Mostly small; now and then empty, or a vector that is long enough for several threads and vector registers."""
    if least <= 1 <= most and rng.random() < 0.03:
        return (rng.randint(100, 5000),)
    sizes = (1, 2, 3, 4, 5, 7, 9) if rng.random() < 0.9 else (0, 1, 17)
    return tuple(rng.choice(sizes) for _ in range(rng.randint(least, most)))


def contents(rng: random.Random, count: int, dtype: torch.dtype, special: bool = True) -> Tensor:
    """A vector of `count` values."""
    if not dtype.is_floating_point:
        return torch.randint(0, 2, (count,)).to(dtype)
    kind = rng.choice(("normal", "normal", "ties", "special", "equal", "zeros") if special else ("normal", "ties"))
    if kind == "normal":
        return torch.randn(count).to(dtype)
    if kind == "ties":
        return torch.randint(-2, 3, (count,)).to(dtype)
    if kind == "special":
        return torch.tensor(rng.choices(SPECIAL, k=count), dtype=torch.float64).to(dtype)
    if kind == "equal":
        return torch.full((count,), rng.choice(SPECIAL), dtype=torch.float64).to(dtype)
    return torch.tensor(rng.choices((0.0, -0.0), k=count), dtype=dtype)


def operand(
    rng: random.Random, dtype: torch.dtype, size: Sequence[int], layout: str | None = None, special: bool = True
) -> Tensor:
    """A tensor of that size; layouts "expanded" and "overlapping" have several elements at one address."""
    layout = rng.choice(LAYOUTS) if layout is None else layout
    order = list(range(len(size)))
    if layout == "permuted":
        rng.shuffle(order)
    elif layout == "channels_last" and len(size) > 2:
        order = [0, *range(2, len(size)), 1]
    strides, step = [0] * len(size), 1 + (layout == "gaps")
    for d in reversed(order):
        strides[d] = step
        step = step * max(size[d], 1) + (rng.randint(0, 2) if layout == "gaps" else 0)
    if size and layout == "expanded":
        strides[rng.randrange(len(size))] = 0
    if layout == "overlapping":
        strides = [1] * len(size)
    offset = rng.randint(1, 3) if layout == "offset" else 0
    values = contents(rng, step + offset + 1, dtype, special)
    return values.as_strided(tuple(size), strides, offset)


def whole(tensor: Tensor) -> Tensor:
    """Every element of the memory that `tensor` is a view of."""
    memory = tensor.untyped_storage()
    with torch.no_grad():
        return torch.empty(0, dtype=tensor.dtype).set_(memory, 0, (memory.nbytes() // tensor.element_size(),))


def bits(tensor: Tensor) -> Tensor:
    """The bytes of the elements."""
    return torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.detach().reshape(-1)).view(torch.uint8)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(bits(a), bits(b))


def like_view(memory: Tensor, view: Tensor) -> Tensor:
    """The part of `memory` (a copy of `whole(view)`) that corresponds to `view`."""
    return memory.as_strided(view.shape, view.stride(), view.storage_offset())


def addresses(tensor: Tensor) -> list[int]:
    """The offset of every element in its memory, in row-major order."""
    offsets = torch.zeros(tensor.shape, dtype=torch.int64) + tensor.storage_offset()
    for d, (size, stride) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        offsets += (torch.arange(size) * stride).view([-1 if i == d else 1 for i in range(tensor.dim())])
    return offsets.flatten().tolist()


def overlaps_itself(tensor: Tensor) -> bool:
    found = addresses(tensor)
    return len(set(found)) < len(found)


def call(function: Callable[..., Any], wrong: bool, inputs: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
    """What `function` returns. If `wrong`, it must refuse, saying why and leaving the inputs as they are: `Refused`."""
    before = [whole(tensor).clone() for tensor in inputs]
    refusal: Exception | None = None
    result = None
    try:
        result = function(*args, **kwargs)
    except (TypeError, ValueError, RuntimeError) as error:
        refusal = error
    if refusal is None:
        assert not wrong, "went through with a wrong argument"
        return result
    assert str(refusal).strip(), f"{type(refusal).__name__} without a message"
    for tensor, old in zip(inputs, before, strict=True):
        assert same_bits(whole(tensor), old), f"an input was changed, and then: {refusal}"
    raise Refused if wrong else AssertionError("refused what is allowed") from refusal
