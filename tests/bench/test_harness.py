"""The benchmark's own machinery: a gate that lets nothing wrong through, and figures that mean what they say."""

import json
import math
from pathlib import Path

import pytest
import torch

from bench import report
from bench.__main__ import main
from bench.check import check, error
from bench.measure import cache_bytes, rotating, rotations, time_interleaved
from bench.registry import Case, register
from bench.runner import COPY, GEMM, ONE_TARGET, OURS, run_case, selected

CPU = torch.device("cpu")


def doubling(**changes: object) -> Case:
    given: dict = {
        "name": "doubling",
        "make": lambda device, dtype: (torch.randn(1000, device=device, dtype=dtype),),
        "run": lambda x: x + x,
        "reference": lambda x: 2 * x,
        "bytes": lambda x: 2 * x.numel() * x.element_size(),
    }
    return Case(**(given | changes))


class TestError:
    def test_equal_is_zero_also_where_nothing_is_finite(self) -> None:
        x = torch.tensor([math.nan, math.inf, -math.inf, 0.0])
        assert error(x, x.clone()) == 0

    def test_is_relative_to_the_largest_magnitude(self) -> None:
        assert error(torch.tensor([1.0, 4.5]), torch.tensor([1.0, 4.0])) == pytest.approx(0.125)

    @pytest.mark.parametrize(
        ("result", "expected"),
        [
            (torch.ones(2), torch.ones(3)),
            (torch.tensor([math.nan]), torch.ones(1)),
            (torch.ones(1), torch.tensor([math.nan])),
            (torch.tensor([math.inf]), torch.ones(1)),
            (torch.ones(1), torch.zeros(1)),
            ((torch.ones(1),), (torch.ones(1), torch.ones(1))),
            ((), ()),
        ],
        ids=["shape", "nan", "not nan", "infinite", "not zero", "one missing", "nothing to compare"],
    )
    def test_what_does_not_compare_is_infinitely_wrong(self, result: object, expected: object) -> None:
        assert error(result, expected) == math.inf

    def test_looks_into_tuples_lists_and_dicts(self) -> None:
        assert error({"a": [torch.ones(1), (torch.ones(1),)]}, {"a": [torch.ones(1), (torch.full((1,), 2.0),)]}) == 0.5


class TestGate:
    def test_wrong_bits_fail_where_bits_are_asked_for(self) -> None:
        with pytest.raises(AssertionError, match="relative error"):
            check(doubling(run=lambda x: x * 2.000001), CPU, torch.float32)

    def test_tolerance_counts_epsilons_of_the_dtype(self) -> None:
        slightly_off = doubling(run=lambda x: 2 * x * (1 + 3 * torch.finfo(x.dtype).eps))
        for dtype in (torch.float32, torch.float64):
            check(doubling(run=slightly_off.run, tolerance=8.0), CPU, dtype)
            with pytest.raises(AssertionError):
                check(doubling(run=slightly_off.run, tolerance=1.0), CPU, dtype)

    def test_an_op_in_place_is_given_fresh_arguments(self) -> None:
        check(doubling(run=lambda x: x.mul_(2), reference=lambda x: x.mul_(2)), CPU, torch.float32)

    def test_wrong_results_are_not_timed(self) -> None:
        with pytest.raises(AssertionError):
            run_case(doubling(run=lambda x: x), CPU, torch.float32, seconds=0)


class TestRow:
    def test_times_ours_the_peers_and_a_copy(self) -> None:
        def absent(x: torch.Tensor) -> None:
            raise ImportError("not here")

        peers = {"multiply": lambda x: x * 2, "wrong": lambda x: x, "absent": absent}
        row = run_case(doubling(peers=peers), CPU, torch.float32, seconds=0.01)
        assert set(row["seconds"]) == {OURS, COPY, "multiply"}
        assert row["bytes"] == 8000
        assert row["absent"]["absent"] == "not here"
        assert "differs" in row["absent"]["wrong"]
        assert all(0 < t["minimum"] <= t["median"] for t in row["seconds"].values())
        assert json.loads(json.dumps(row)) == row
        assert "of a copy" in report.line(row)

    def test_contenders_take_turns(self) -> None:
        order: list[str] = []
        contenders = {name: (lambda name=name: order.append(name)) for name in "ab"}
        timings = time_interleaved(contenders, CPU, seconds=0, at_least=3)
        collapsed = [name for i, name in enumerate(order) if i == 0 or order[i - 1] != name]
        assert collapsed == ["a", "b"] * 4  # once to warm up, then three rounds
        assert len(timings["a"].wall) == 3

    def test_a_model_is_measured_in_units_of_its_floor(self) -> None:
        def floor(x: torch.Tensor) -> torch.Tensor:
            return x @ x

        x = torch.randn(64, 64)
        case = doubling(
            make=lambda device, dtype: (x.to(device, dtype),),
            run=lambda x: [x @ x @ x, x @ x],
            reference=lambda x: [x @ x @ x, x @ x],
            floors={"plain": floor, ONE_TARGET: lambda x: x @ x @ x},
            peers={"same": lambda x: x @ x @ x, "other": floor},
            part=lambda result: result[0],
            bytes=None,
        )
        row = run_case(case, CPU, torch.float32, seconds=0.01)
        assert set(row["seconds"]) == {OURS, GEMM, "plain", ONE_TARGET, "same"}
        assert "differs" in row["absent"]["other"]
        product = 2 * 64**3
        assert row["flops"] == {OURS: 3 * product, "plain": product, ONE_TARGET: 2 * product}
        assert row["peak_bytes"] == {OURS: 2 * x.nbytes, "plain": x.nbytes, ONE_TARGET: 2 * x.nbytes}
        low, median, high = row["ratios"]["plain"]
        assert 0 < low <= median <= high
        assert len(row["further_target"]) == 3
        text = report.line(row)
        assert "of plain" in text
        assert "peak memory 2.00" in text

    def test_a_compiled_peer_serves_any_number_of_cases(self) -> None:
        double = torch.compile(lambda x: x + x, backend="eager", fullgraph=True, dynamic=False)
        for size in range(2, 2 + 2 * torch._dynamo.config.recompile_limit):
            case = doubling(make=lambda device, dtype, size=size: (torch.randn(size),), peers={"compiled": double})
            assert "compiled" in run_case(case, CPU, torch.float32, seconds=0)["seconds"]

    def test_operands_rotate_through_more_than_the_cache(self) -> None:
        seen: list[int] = []
        contender = rotating(seen.append, [(i,) for i in range(3)])
        for _ in range(4):
            contender()
        assert seen == [0, 1, 2, 0]
        assert rotations(cache_bytes(), CPU) == 2
        assert rotations(100 * cache_bytes(), CPU) == 1
        assert rotations(0, CPU) == 64


def row(case: str, ours: float, copy: float = 1.0) -> dict:
    timing = {OURS: ours, COPY: copy, "eager": 3.0}
    return {
        "case": case,
        "device": "cpu",
        "dtype": "float32",
        "bytes": 8,
        "floors": [],
        "absent": {},
        "seconds": {name: {"median": t, "minimum": t, "samples": 1} for name, t in timing.items()},
    }


def content(*rows: dict) -> dict:
    machine = {"cpu": "a processor", "threads": 2, "torch": "2", "date": "2026-01-01T00:00:00", "commit": "abc"}
    return {"kind": "zsu_fast op benchmark", "machine": machine, "results": list(rows)}


class TestReport:
    def test_compare_takes_what_both_have_and_finds_the_worst(self) -> None:
        lines, worst = report.compare([row("a", 1.0), row("b", 1.0), row("c", 9.0)], [row("a", 0.5), row("b", 1.5)])
        assert len(lines) == 2
        assert worst == 1.5

    def test_compare_from_the_command_line(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for name, seconds in (("before", 1.0), ("after", 1.2)):
            (tmp_path / name).write_text(json.dumps(content(row("a", seconds))))
        files = [str(tmp_path / "before"), str(tmp_path / "after")]
        assert main(["compare", *files]) == 0
        assert "1.20x" in capsys.readouterr().out
        assert main(["compare", *files, "--fail-above", "1.1"]) == 1

    def test_table(self, tmp_path: Path) -> None:
        (tmp_path / "ops_cpu.json").write_text(json.dumps(content(row("a", 2.0), row("b", 0.002))))
        readme, whole = tmp_path / "README.md", tmp_path / "whole.md"
        for path in (readme, whole):
            path.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
        for _ in range(2):  # writing it again changes nothing
            command = ["table", "--readme", str(readme), "--whole", str(whole), str(tmp_path / "ops_cpu.json")]
            assert main(command) == 0
        assert "| a |" not in readme.read_text()  # which shows a few
        text = whole.read_text()
        assert text.startswith(f"before\n{report.BEGIN}\n")
        assert text.endswith(f"\n{report.END}\nafter\n")
        assert "old" not in text
        assert text.count("| a | float32 | 2 s | 50% | eager 1.5x |") == 1

    def test_table_of_models(self) -> None:
        timing = {OURS: 2.2, "plain gradient": 2.0, "zennit": 5.0, ONE_TARGET: 1.2, GEMM: 0.5}
        model = {
            **row("relevance/net x 2, epsilon", 1.0),
            "flops": {OURS: 11 * 10**9, "plain gradient": 10 * 10**9},
            "gemm_flops": 5 * 10**9,
            "floors": ["plain gradient", ONE_TARGET],
            "peak_bytes": {OURS: 9, "plain gradient": 10},
            "kernels": {
                OURS: {"GEMMs": 1.5, "passes": 0.3, "other kernels": 0.1, "all else": 0.3},
                "plain gradient": {"GEMMs": 1.5, "passes": 0.0, "other kernels": 0.4, "all else": 0.1},
            },
            "ratios": {"plain gradient": [0.8, 0.9091, 1.0]},
            "seconds": {name: {"median": t, "minimum": t, "samples": 1} for name, t in timing.items()},
        }
        del model["bytes"]
        further = {
            **model,
            "case": "relevance/net x 2, epsilon, two targets",
            "further_target": [0.4, 0.5, 0.6],
            "flops": {**model["flops"], ONE_TARGET: 6 * 10**9},
        }
        for text in (report.table([content(model, further)]), report.summary([content(model, further)])):
            assert "| net x 2 | float32 | epsilon | 1.10 | 1.10 [1.00, 1.25] | 2.50 | 0.90 | 2.2 s | 50% |" in text
            assert "| epsilon, each further target | 0.50 | 0.50 [0.40, 0.60] |" in text
        whole = report.table([content(model, further)])
        assert "| net x 2 | epsilon (float32) | zsu_fast | 1500.0 | 300.0 | 100.0 | 300.0 |" in whole
        assert "| net x 2 | epsilon (float32) | plain gradient | 1500.0 | 0.0 | 400.0 | 100.0 |" in whole
        assert "Where the time" not in report.summary([content(model, further)])

    def test_a_file_without_markers_is_left_alone(self) -> None:
        with pytest.raises(ValueError, match="must contain"):
            report.insert_table("# no markers", "table")

    def test_refuses_other_json(self, tmp_path: Path) -> None:
        (tmp_path / "x.json").write_text("[]")
        with pytest.raises(ValueError, match="was not written by"):
            report.load(tmp_path / "x.json")


def test_a_name_is_registered_once() -> None:
    register(doubling(name="test_a_name_is_registered_once"))
    try:
        with pytest.raises(ValueError, match="two benchmark cases"):
            register(doubling(name="test_a_name_is_registered_once"))
    finally:
        from bench import registry

        del registry._cases["test_a_name_is_registered_once"]


def test_cases_are_chosen_and_left_out_by_pattern() -> None:
    relevance = {case.name for case in selected("relevance/*")}
    assert relevance
    assert not relevance & {case.name for case in selected(None, "relevance/*")}
    assert {case.name for case in selected(None)} > relevance
    assert all("z+" in case.name for case in selected("z+"))
