"""Selection and masking against an oracle in plain Python and torch: exactly the same elements, bit for bit."""

import contextlib
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from tests.fuzz import float_ops
from tests.fuzz.operands import (
    DTYPES,
    WRONG_COUNTS,
    WRONG_DTYPES,
    Refused,
    addresses,
    call,
    like_view,
    operand,
    overlaps_itself,
    same_bits,
    shape,
    whole,
)
from zsu_fast import ops

WRONG_TENSORS = (None, 1.0, [1.0], "tensor")
MODES = ("zero", "value", "scale", "gaussian", "laplace")


def best(scores: Sequence[float], k: int, absolute: bool) -> list[int]:
    """Where the k largest are, ascending: ties go to the lowest index, NaN comes last."""
    values = [abs(score) for score in scores] if absolute else scores
    order = sorted(range(len(values)), key=lambda i: (values[i] != values[i], -values[i]))
    return sorted(order[:k])


def count(rng: random.Random, available: int) -> tuple[Any, bool]:
    """(k, whether it is wrong)."""
    if rng.random() < 0.12:
        return rng.choice((*WRONG_COUNTS, available + 1)), True
    return rng.choice((0, available, rng.randint(0, available), min(1, available))), False


def topk_count(rng: random.Random) -> None:
    size = shape(rng, 2, 2) if rng.random() < 0.95 else shape(rng, 0, 4)
    dtype, wrong = (rng.choice(DTYPES), False) if rng.random() < 0.95 else (rng.choice(WRONG_DTYPES), True)
    layout = "expanded" if rng.random() < 0.1 else None
    relevance = operand(rng, dtype, size, layout)
    k, wrong_k = count(rng, size[1] if len(size) == 2 else 1)
    absolute = rng.random() < 0.5
    wrong = wrong or wrong_k or len(size) != 2
    found = call(ops.topk_count, wrong, [relevance], relevance, k, absolute=absolute)
    expected = [0] * size[1]
    for row in relevance.tolist():
        for unit in best(row, k, absolute):
            expected[unit] += 1
    assert found.dtype == torch.int64 and found.tolist() == expected, f"{found.tolist()} is not {expected}"


def topk_indices(rng: random.Random) -> None:
    dtype, wrong = (rng.choice(DTYPES), False) if rng.random() < 0.95 else (rng.choice(WRONG_DTYPES), True)
    single = rng.random() < 0.3
    vectors: list[Any] = [
        operand(rng, dtype, shape(rng, 1, 1), "expanded" if rng.random() < 0.1 else None)
        for _ in range(1 if single else rng.choice((1, 2, 3, 5)))
    ]
    lengths = list(map(len, vectors))
    k: Any
    if single or rng.random() < 0.4:
        k, wrong_k = count(rng, min(lengths))
        if k == [1] and not single:  # that is one for each
            wrong_k = lengths[0] < 1 or len(vectors) > 1
        each = k if isinstance(k, list) else [k] * len(vectors)
    else:
        drawn = [count(rng, length) for length in lengths]
        each, wrong_k = [number for number, _ in drawn], any(is_wrong for _, is_wrong in drawn)
        k = tuple(each) if rng.random() < 0.3 else each
        if rng.random() < 0.03:
            k, wrong_k = [*each, 0], True
    inputs = list(vectors)
    if rng.random() < 0.04:
        vectors[-1], wrong = rng.choice(WRONG_TENSORS), True
    elif rng.random() < 0.03:
        vectors[-1] = inputs[-1] = operand(rng, rng.choice(WRONG_DTYPES), shape(rng, 1, 1))
        wrong = True
    elif rng.random() < 0.03:
        vectors[-1] = inputs[-1] = operand(rng, dtype, shape(rng, 2, 3))
        wrong = True
    if single and vectors[0] == [1.0]:
        vectors[0] = None
    given = vectors[0] if single else (tuple(vectors) if rng.random() < 0.3 else vectors)
    absolute = rng.random() < 0.5
    found = call(ops.topk_indices, wrong or wrong_k, inputs, given, k, absolute=absolute)
    expected = [best(v.tolist(), number, absolute) for v, number in zip(vectors, each, strict=True)]
    answers = [found] if single else found
    assert all(answer.dtype == torch.int64 for answer in answers)
    assert [answer.tolist() for answer in answers] == expected, f"{answers} are not {expected}"


def topk_mask(rng: random.Random) -> None:
    size = shape(rng)
    dtype, wrong = (rng.choice(DTYPES), False) if rng.random() < 0.95 else (rng.choice(WRONG_DTYPES), True)
    weight = operand(rng, dtype, size, rng.choice(("expanded", "overlapping")) if rng.random() < 0.06 else None)
    scores = _scores(rng, weight)
    k, wrong_k = count(rng, weight.numel())
    wrong = wrong or wrong_k or scores.shape != weight.shape or overlaps_itself(weight)
    wrong = wrong or not scores.dtype.is_floating_point
    if scores.untyped_storage().data_ptr() == weight.untyped_storage().data_ptr():
        own, other = addresses(weight), addresses(scores)
        wrong = wrong or (own != other and not set(own).isdisjoint(other))
    value: Any = rng.choice((0.0, -0.0, 0, 1, -1.5, 0.1, float("nan"), float("inf")))
    if rng.random() < 0.05:
        value = rng.choice((None, "0", True, 1e300, 1e39, 70000.0))
        largest = torch.finfo(dtype).max if dtype.is_floating_point else 0
        wrong = wrong or not isinstance(value, float) or abs(value) > largest
    if weight.is_floating_point() and rng.random() < 0.03:
        weight, wrong = weight.detach().requires_grad_(), True
    absolute, record = rng.random() < 0.5, rng.random() < 0.5

    expected = whole(weight).clone()
    flat = scores.flatten().tolist()  # before the call: the scores may be the weight itself
    old = weight.detach().flatten().clone()
    result = call(ops.topk_mask_, wrong, [weight, scores], weight, scores, k, value, absolute=absolute, record=record)
    picked = best(flat, k, absolute)
    mask = torch.zeros(weight.numel(), dtype=torch.bool)
    mask[picked] = True
    like_view(expected, weight).masked_fill_(mask.view(weight.shape), value)
    assert same_bits(whole(weight), expected), "other elements than expected are masked"
    if record:
        returned, indices, values = result
        assert indices.dtype == torch.int64 and indices.tolist() == picked, f"{indices.tolist()} is not {picked}"
        assert same_bits(values, old[picked]), "the old values are others"
        result = returned
    assert result is weight


def _scores(rng: random.Random, weight: Tensor) -> Tensor:
    """The weight itself, a view of its memory, or another tensor."""
    draw = rng.random()
    if draw < 0.15:
        return weight
    if draw < 0.22:  # the last elements of the memory in the same shape: overlapping or beside it
        memory = whole(weight)
        reach = sum(stride * (size - 1) for size, stride in zip(weight.shape, weight.stride(), strict=True))
        offset = max(0, len(memory) - 1 - max(reach, 0))
        return memory.as_strided(weight.shape, weight.stride(), offset)
    size = weight.shape if draw < 0.97 else shape(rng)
    dtype = rng.choice(DTYPES) if draw < 0.98 else rng.choice(WRONG_DTYPES)
    return operand(rng, dtype, size, rng.choice(("expanded", "overlapping")) if rng.random() < 0.1 else None)


def mask_neurons(rng: random.Random) -> None:
    single = rng.random() < 0.4
    number = 1 if single else rng.choice((0, 1, 2, 2, 3, 4))
    tensors, wrong = _tensors(rng, number)
    sizes = [tensor.shape or (1,) for tensor in tensors]  # a scalar counts as a vector of one
    one_dim = rng.random() < 0.5
    dims: list[Any] = [rng.randrange(-len(size), len(size)) for size in sizes]
    if one_dim:
        dims = [rng.randrange(-min(map(len, sizes), default=1), min(map(len, sizes), default=1))] * number
    if number and rng.random() < 0.03:
        dims[rng.randrange(number)] = rng.choice((7, -7, None, 0.0, True, "0"))
        one_dim, wrong = False, True
    dim: Any = (dims[0] if number else 0) if one_dim else dims
    lengths = [
        size[d] if isinstance(d, int) and -len(size) <= d < len(size) else 1
        for size, d in zip(sizes, dims, strict=True)
    ]
    drawn = [_index(rng, length) for length in lengths]
    if single or (number > 1 and len(set(lengths)) == 1 and rng.random() < 0.3):
        drawn = [drawn[0]] * number
        indices: Any = drawn[0][0]
    else:
        indices = [given for given, _, _ in drawn]
        if number and rng.random() < 0.03:
            indices, wrong = [*indices, indices[0]], True
    wrong = wrong or any(is_wrong for _, _, is_wrong in drawn)
    options, wrong_options = _mode(rng, [t.dtype for t in tensors])
    record, prepared = rng.random() < 0.5, rng.random() < 0.3
    given: Any = tensors[0] if single else tensors
    if rng.random() < 0.02:
        given, wrong = rng.choice((None, "ab", 3, [None])), True
        if given == [None]:
            indices, dim = [[0]], 0

    def run() -> Any:
        generator = torch.Generator().manual_seed(5) if options["mode"] in ("gaussian", "laplace") else None
        if prepared:
            return ops.PreparedMask(given, indices, dim)(record=record, generator=generator, **options)
        return ops.mask_neurons_(given, indices, dim, record=record, generator=generator, **options)

    memories = [whole(tensor).clone() for tensor in tensors]
    old = [tensor.detach().clone() for tensor in tensors]
    result = call(run, wrong or wrong_options, tensors)
    picked = [torch.tensor(units, dtype=torch.int64) for _, units, _ in drawn]
    _check_masked(tensors, memories, picked, dims, options)
    returned, saved = result if record else (result, None)
    assert returned is given
    if saved is not None:
        for tensor, was, value, index, d in zip(tensors, old, [saved] if single else saved, picked, dims, strict=True):
            target = tensor.view(1) if tensor.dim() == 0 else tensor
            assert same_bits(value, (was.view(1) if was.dim() == 0 else was).index_select(d, index)), "old values"
            target.index_copy_(d, index, value)
            assert same_bits(tensor, was), "the old values do not undo it"


def _tensors(rng: random.Random, number: int) -> tuple[list[Tensor], bool]:
    """(tensors, whether they are wrong); sometimes interleaved or overlapping views of one memory."""
    tensors = [operand(rng, rng.choice(DTYPES), shape(rng)) for _ in range(number)]
    draw = rng.random()
    if number and draw < 0.06:
        at = rng.randrange(number)
        layout = rng.choice(("expanded", "overlapping"))
        tensors[at] = operand(rng, rng.choice(DTYPES), shape(rng), layout)
        return tensors, overlaps_itself(tensors[at])
    if number and draw < 0.09:
        tensors[-1] = operand(rng, rng.choice(WRONG_DTYPES), shape(rng))
        return tensors, True
    if number and draw < 0.12:
        tensors[-1] = tensors[-1].detach().requires_grad_()
        return tensors, True
    if number > 1 and draw < 0.25:
        memory = operand(rng, rng.choice(DTYPES), (rng.randint(1, 5), 2 * rng.randint(1, 4)), "dense")
        parts = [memory[:, ::2], memory[:, 1::2], memory[:1], memory[:, :1], memory.t()]
        tensors[:2] = rng.sample(parts, 2)
        return tensors, not set(addresses(tensors[0])).isdisjoint(addresses(tensors[1]))
    return tensors, False


def _index(rng: random.Random, size: int) -> tuple[Any, list[int], bool]:
    """(as given, the units, whether it is wrong)."""
    units = rng.sample(range(size), rng.randint(0, min(size, 6)))
    if rng.random() < 0.06:
        doubled = [*units, *(units[:1] or [0, 0])]
        wrong = (
            [*units, size], [*units, -1], doubled, torch.tensor([size]), torch.tensor(doubled), None, 1.5, "0",
            [0.5], torch.tensor([0.5]), torch.zeros(size + 1, dtype=torch.bool), torch.zeros(1, 1, dtype=torch.int64),
            [2**70], torch.zeros(1, dtype=torch.int16),
        )  # fmt: skip
        return rng.choice(wrong), [], True
    kind = rng.choice(("list", "tuple", "int64", "int32", "mask", "every other"))
    if kind == "list":
        return units, units, False
    if kind == "tuple":
        return tuple(units), units, False
    if kind == "mask":
        mask = torch.zeros(size, dtype=torch.bool)
        mask[units] = True
        return mask, sorted(units), False
    if kind == "every other":
        return torch.tensor([u for u in units for _ in range(2)], dtype=torch.int64)[::2], units, False
    return torch.tensor(units, dtype=torch.int64 if kind == "int64" else torch.int32), units, False


def _mode(rng: random.Random, dtypes: Sequence[torch.dtype]) -> tuple[dict[str, Any], bool]:
    """(options, whether they are wrong)."""
    mode = rng.choice(MODES)
    options: dict[str, Any] = {"mode": mode}
    if mode in ("value", "scale"):
        options["value"] = rng.choice((0.0, -0.0, -1, 0.5, 3, 0.1, float("nan"), -float("inf")))
    elif mode != "zero":
        options["scale"] = rng.choice((0, 0.0, 1.0, 2, 1e-3))
    if rng.random() > 0.05:
        return options, False
    number = rng.choice((None, "1", True, [1.0]))
    wrong: tuple[dict[str, Any], ...] = ({"mode": "other"}, {"mode": None}, {"mode": ["zero"]})
    if mode in ("value", "scale"):
        wrong += ({"value": number},)
    else:
        wrong += ({"value": 1.0}, {"scale": number}, {"scale": -1.0}, {"scale": float("nan")}, {"scale": float("inf")})
    options |= rng.choice(wrong)
    return options, True


def _check_masked(
    tensors: Sequence[Tensor],
    memories: Sequence[Tensor],
    indices: Sequence[Tensor],
    dims: Sequence[int],
    options: dict[str, Any],
) -> None:
    """Exactly the picked slices are what they should be; of noise, that it is reproducible noise or none."""
    mode, value = options["mode"], options.get("value")
    for tensor, memory, index, dim in zip(tensors, memories, indices, dims, strict=True):
        if any(
            tensor.untyped_storage().data_ptr() == o.untyped_storage().data_ptr() for o in tensors if o is not tensor
        ):
            continue  # their memory holds the other's slices, too; the values undone and compared are enough
        expected = like_view(memory, tensor)
        now = tensor
        if tensor.dim() == 0:
            expected, now = expected.view(1), tensor.view(1)
        if mode == "zero" or mode == "value":
            expected.index_fill_(dim, index, 0.0 if mode == "zero" else value)
        elif mode == "scale":
            expected.index_copy_(dim, index, expected.index_select(dim, index) * value)
        elif options["scale"] == 0:
            expected.index_copy_(dim, index, expected.index_select(dim, index) + 0.0)
        else:  # the noise itself is drawn elsewhere: everything around it
            expected.index_copy_(dim, index, now.index_select(dim, index))
        now = whole(tensor)
        if mode in ("zero", "value"):
            assert same_bits(now, memory), "other elements than expected are masked"
        else:  # arithmetic on NaN may give another NaN, and noise of size 0 is +0.0 or -0.0
            assert bool(((now == memory) | now.isnan() & memory.isnan()).all()), "other values than expected"


SUBJECTS = (
    (topk_mask, 30),
    (topk_indices, 20),
    (topk_count, 15),
    (mask_neurons, 25),
    *((subject, 2) for subject in float_ops.SUBJECTS),
)


def run(rng: random.Random) -> None:
    """One call of one op."""
    subject = rng.choices([s for s, _ in SUBJECTS], [w for _, w in SUBJECTS])[0]
    with contextlib.suppress(Refused):
        subject(rng)
