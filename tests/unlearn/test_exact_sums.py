"""Sums, numbers, counts and budgets of up to 4,096 processes, simulated: the same bits as of one."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from zsu_fast import ops
from zsu_fast.unlearn import exact_sums, search
from zsu_fast.unlearn.exact_sums import BITS, exponents, sums
from zsu_fast.unlearn.group import Group
from zsu_fast.unlearn.picks import largest_shares, rank_edges, rank_units
from zsu_fast.unlearn.shard import Shard


class Waits(Exception):
    """A process has come to an exchange whose outcome is not there yet."""


class Simulated(Group):
    """One process of many. Its exchanges so far have these outcomes; at the next one it stops, with what it brings."""

    def __init__(self, rank: int, size: int, outcomes: Sequence[Any]) -> None:
        self.rank, self.size, self.outcomes, self.done = rank, size, outcomes, 0

    def exchange(self, how: str, value: Any) -> Any:
        if self.done == len(self.outcomes):
            raise Waits(how, value)
        self.done += 1
        return self.outcomes[self.done - 1]

    def sum(self, values: Tensor) -> Tensor:
        return self.exchange("sum", values)

    def largest(self, values: Tensor) -> Tensor:
        return self.exchange("largest", values)

    def gather(self, rows: Tensor) -> Tensor:
        return self.exchange("gather", rows)

    def first(self, value: Any, of: int = 0) -> Any:
        return self.exchange("first", (of, value))[1]


def in_step(work: Callable[[Group], Any], size: int) -> list[Any]:
    """`work(group)` of each of `size` processes, begun anew after every exchange."""
    outcomes: list[Any] = []
    while True:
        brought, results = [], []
        for rank in range(size):
            try:
                results.append(work(Simulated(rank, size, outcomes)))
            except Waits as wait:
                brought.append(wait.args)
        if results:
            assert len(results) == size
            return results
        ((how,),) = {(how,) for how, _ in brought}
        values = [value for _, value in brought]
        if how == "first":
            outcomes.append(values[values[0][0]])
        elif how == "gather":
            outcomes.append(torch.cat(values))
        else:
            shuffled = torch.stack(values)[torch.randperm(size)]
            outcomes.append(shuffled.sum(0) if how == "sum" else shuffled.amax(0))


def parts(count: int, size: int) -> list[slice]:
    """Consecutive parts of any sizes, many of them empty where there are many."""
    ends = torch.cat([torch.tensor([0, count]), torch.randint(count + 1, (size - 1,))]).sort().values.tolist()
    return [slice(a, b) for a, b in pairwise(ends)]


@pytest.mark.parametrize("size", [1, 5, 4096])
def test_sums_of_any_number_of_processes_are_the_same_bits(size: int) -> None:
    rows = torch.randn(700, 9) * 10.0 ** torch.randint(-12, 12, (700, 9))
    rows[5, 2], rows[6, 3], rows[:, 4] = torch.nan, torch.inf, 0
    labels = torch.randint(3, (700,))
    alone = sums({"a": rows, "b": rows[:, :2] / 3}, labels, 3, counted={"n": torch.tensor([700])})
    shares = parts(700, size)

    def work(group: Group) -> Any:
        own = shares[group.rank]
        counted = {"n": torch.tensor([own.stop - own.start])}
        return sums({"a": rows[own], "b": rows[own, :2] / 3}, labels[own], 3, group, counted)

    for found, counted in in_step(work, size):
        assert int(counted["n"]) == int(alone[1]["n"]) == 700
        for name, of_one in alone[0].items():
            assert found[name].exponent == of_one.exponent and torch.equal(found[name].total, of_one.total)
            for what in ("mean", "share"):
                values = [getattr(each, what)().nan_to_num(1234.0) for each in (found[name], of_one)]
                assert torch.equal(*values)


def test_means_are_those_of_float64_but_for_the_last_of_forty_bits() -> None:
    rows = torch.randn(300, 50)
    labels = torch.arange(300) % 4
    found = sums({"": rows}, labels, 4)[0][""]
    exact = torch.stack([rows[labels == c].double().mean(0) for c in range(4)])
    assert 2.0**found.exponent > rows.abs().max() >= 2.0 ** (found.exponent - 1)
    assert float((found.mean() - exact).abs().max()) <= 2.0 ** (found.exponent - BITS)
    torch.testing.assert_close(found.share(), exact / exact.abs().sum(1, keepdim=True), rtol=1e-6, atol=1e-9)
    assert exponents([rows * 0, rows[:0], torch.full((1, 1), torch.nan)]).tolist() == [exact_sums._NOTHING] * 3
    nothing = sums({"": torch.zeros(0, 3)}, torch.zeros(0, dtype=torch.int64), 1)[0][""]
    assert nothing.share().tolist() == [[0.0] * 3] and bool(nothing.mean().isnan().all())


def test_more_samples_than_integers_hold_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exact_sums, "MOST_SAMPLES", 8)
    with pytest.raises(ValueError, match="probes: 8 samples of one class, sums hold 8"):
        sums({"": torch.ones(8, 1)}, torch.zeros(8, dtype=torch.int64), 1)


@pytest.mark.parametrize("size", [3, 64])
def test_rankings_of_any_number_of_processes_are_one(size: int) -> None:
    torch.manual_seed(size)
    relevance = {"a": torch.randn(90, 40), "b": torch.randn(90, 12).round()}
    labels, of_others = torch.arange(90) % 2, torch.randint(5, (90,))
    weight = torch.randn(2, 40)
    shares = parts(90, size)

    def work(group: Group, own: slice = slice(None)) -> Any:
        own = shares[group.rank] if group.size > 1 else own
        here = {name: values[own] for name, values in relevance.items()}
        against = largest_shares(here, of_others[own], group)
        found = []
        for score, scope in (("frequency", "global"), ("mean", "layer"), ("contrastive", "global")):
            ranking = rank_units(
                here, labels[own], [0, 1], score=score, scope=scope, k=0.2, against=against, group=group
            )
            found.append((ranking.layers.tolist(), ranking.units.tolist()))
        edges = rank_edges(relevance["a"][own], weight, labels[own], [0, 1], 5, group=group)
        return found, {target: order.tolist() for target, order in edges.orders.items()}

    alone = work(Group())
    assert all(found == alone for found in in_step(work, size))


def test_counts_of_4096_processes_find_the_budget_of_one() -> None:
    """Numbers through all processes, folds by number, and looks whose counts are added up."""
    count, size = 3000, 4096
    images, labels = torch.rand(count, 1, 2), torch.arange(count) % 3
    lead, falls = torch.rand(count) * 100, torch.rand(count)
    shares = parts(count, size)
    shards = in_step(lambda group: Shard.of(images[shares[group.rank]], 16, group, "probes"), size)
    assert [(s.start, s.total) for s in shards] == [(own.start, count) for own in shares]
    folds = search.folds(labels, 4, 0)

    def looks(of: Sequence[Shard]) -> list[int | None]:
        found = []
        for fold in folds:
            admitted = [shard.admitted(fold) for shard in of]
            assert sum(map(len, admitted)) == int(fold.sum()) == admitted[0].total
            numbers = [shard.numbers(fold) for shard in of]

            def meets(budget: int, numbers: Sequence[Tensor] = numbers, fold: Tensor = fold) -> bool:
                left = sum(int((lead[own] - budget * falls[own] > 0).sum()) for own in numbers if len(own))
                return left <= 0.1 * int(fold.sum())

            found.append(search.smallest(meets, 5000))
        return found

    assert looks(shards) == looks([Shard.of(images, 16)])


def test_every_image_is_run_once_at_its_place_in_the_batches_of_all() -> None:
    images = torch.arange(1.0, 38.0)[:, None]
    for size in (1, 2, 5):
        shares = parts(37, size)
        shards = in_step(lambda group: Shard.of(images[shares[group.rank]], 8, group), size)  # noqa: B023
        where = torch.rand(37) < 0.5
        for select in (None, where):
            run: list[list[float]] = []
            expected = images if select is None else images[select]
            for whole in shards:
                shard = whole if select is None else whole.admitted(select)
                batches = list(shard.batches())
                assert all(batch.shape == (8, 1) for batch in batches) and 8 * len(batches) == shard.rows
                run += shard.outcome(torch.cat(batches)).tolist()
                assert len(batches) <= len(shard) // 8 + 2
                first = shard.start // 8
                for number, batch in enumerate(batches):
                    of_all = expected[8 * (first + number) : 8 * (first + number + 1)]
                    ours = torch.isin(of_all, shard.images)
                    assert torch.equal(of_all[ours], batch[: len(of_all)][ours])
                pieces = shard.pieces()
                assert torch.equal(torch.cat([images[:0], *(piece.images for _, piece in pieces)]), shard.images)
                assert all(len(list(piece.batches())) == 1 for _, piece in pieces)
            assert run == expected.tolist()
    with pytest.raises(ValueError, match="probes: no process has any"):
        in_step(lambda group: Shard.of(images[:0], 8, group, "probes"), 3)


def test_frequency_counts_add_up() -> None:
    relevance = torch.randn(50, 20)
    split = [ops.topk_count(part, 5) for part in relevance.split([7, 0, 43])]
    assert torch.equal(torch.stack(split).sum(0), ops.topk_count(relevance, 5))
