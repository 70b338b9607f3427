"""Gathers what the tests of models found out; writes the table of models when all have passed."""

import os
from pathlib import Path

import pytest

from tests.zoo.models import ZOO
from tests.zoo.table import write

_RESULTS: dict[str, dict] = {}


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    properties = dict(report.user_properties)
    if report.when == "call" and report.passed and "zoo" in properties:
        _RESULTS.setdefault(properties["zoo"], {}).update(properties)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    path = os.environ.get("ZSU_FAST_ZOO_TABLE")
    if path and exitstatus == 0 and sum("costs" in found for found in _RESULTS.values()) == len(ZOO):
        write(Path(path), _RESULTS)
