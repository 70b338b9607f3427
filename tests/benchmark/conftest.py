"""A benchmark small enough to be run many times: a linear net on bright quadrants, its oracle, and cheap measures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zsu_fast.benchmark import Case, Measures, Results, benchmark

pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

CLASSES = 4
MEASURES = Measures(attacks=("linear probe", "prototype row"), prototypes=(5,), relearn_steps=2)
METHODS: dict[str, Any] = {
    "lra-npp": {"data": "probes"},
    "neggrad": {"epochs": 2, "learning_rate": 0.05},
}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(16, 12), nn.Linear(12, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.hidden(x.flatten(1))))


def images(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """[count, 1, 4, 4]: noise, and one quadrant bright; which one is the class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    x = torch.rand(count, 1, 4, 4, generator=generator)
    for i, label in enumerate(labels.tolist()):
        row, column = divmod(label, 2)
        x[i, 0, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2] += 0.6
    return x, labels


def trained(without: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    net = Net()
    x, y = images(400, 1)
    kept = torch.ones_like(y, dtype=torch.bool) if without is None else y != without
    optimizer = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x[kept]), y[kept]).backward()
        optimizer.step()
    return net.eval()


@pytest.fixture(scope="session")
def case() -> Case:
    oracles = {target: trained(target) for target in (0, 2)}
    names = {0: "<b>nw</b>", 1: "ne", 2: "sw", 3: "se"}
    return Case(trained(), images(160, 2), images(120, 3), images(400, 1), oracle=oracles, names=names)


@pytest.fixture
def run(case: Case, tmp_path: Path) -> Callable[..., Results]:
    """`benchmark` on the case, of class 2 and with the methods above unless told otherwise."""

    def call(**changes: Any) -> Results:
        given: dict[str, Any] = {
            "cases": {"net": case}, "methods": METHODS, "out": tmp_path / "out", "classes": [2], "measures": MEASURES
        }  # fmt: skip
        given |= changes
        return benchmark(given.pop("cases"), given.pop("methods"), given.pop("out"), **given)

    return call


@pytest.fixture(scope="session")
def measured(case: Case, tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Two classes, one of them without an oracle, two seeds, and a method that fails."""
    out = tmp_path_factory.mktemp("measured")
    methods = METHODS | {"<i>fails</i>": {"method": "neggrad", "learning_rate": 1e30, "epochs": 3}}
    return benchmark({"net & co": case}, methods, out, classes=[1, 2], seeds=[0, 1], measures=MEASURES, name="<trial>")
