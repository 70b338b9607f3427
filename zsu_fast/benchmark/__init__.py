"""The field in one run: models x classes x methods x seeds, each cell one `forget`, and what attackers have back.

    from zsu_fast.benchmark import Case, benchmark, write_results

    cases = {"lenet5": Case(model, lessons=(x, y), test=(test_x, test_y), oracle=retrained_without)}
    results = benchmark(cases, {"deep": {}, "scrub": {"epochs": 20}}, "results", classes=[3, 5])
    write_results(results)  # results.json, results.csv, leaderboard.html beside the cells

What is finished is a file of its own: who is killed goes on where he was. ``zsu-fast benchmark CONFIG`` does the same
from a YAML file.
"""

from zsu_fast.benchmark.case import Case
from zsu_fast.benchmark.config import Config, read_config
from zsu_fast.benchmark.page import write_results
from zsu_fast.benchmark.results import Results
from zsu_fast.benchmark.run import benchmark
from zsu_fast.benchmark.settings import Entry, Few, Measures

__all__ = ["Case", "Config", "Entry", "Few", "Measures", "Results", "benchmark", "read_config", "write_results"]
