"""The report: whole, self-contained, and safe to open whatever the names in it are."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from tests.report.pages import EVIL, check
from zsu_fast.evaluate.accuracy import summarise
from zsu_fast.report import Analysis, ClassReport, analyse, render, write_report

pytest.importorskip("matplotlib")


def report(classes: int = 4, evil: str = EVIL) -> ClassReport:
    labels = torch.arange(40 * classes) % classes
    before = summarise(labels.clone(), labels, [2])
    after = summarise(torch.where(labels == 2, 1, labels), labels, [2])
    units = {f"layer{i}{evil}": torch.randn(12 + i).abs() for i in range(30)}
    heat = torch.randn(2, 8, 8)
    record = {
        "request": {"targets": [2], "method": evil, "until": None, "budget": 3, "seed": 0},
        "reached": True,
        "verdict": {"level": "answers", "sentence": evil, "forgotten": True},
        "reason": "",
        "mode": "zero",
        "metrics": {"before": {}, "after": {}, "probes": 36},
        "search": [{"mode": evil, "layers": ["a"], "budget": b, "forget_accuracy": 1 / b} for b in (1, 2, 4)],
        "certificate": {
            "others": {"claim": f"same functions{evil}", "because": evil},
            "answers": [{"claim": "never the answer", "because": "it is the mean", "but": evil}],
        },
        "note": evil,
        "versions": {evil: evil},
    }
    return ClassReport(
        model=evil,
        record=record,
        picks={f"layer0{evil}": [0, 3], f"elsewhere{evil}": [7]},
        names={i: f"{evil}{i}" for i in range(classes)},
        before=before,
        after=after,
        relevance_before=Analysis(units, heat, evil),
        relevance_after=Analysis(units, heat * 0, evil),
        photos=np.zeros((2, 8, 8, 1), np.uint8),
        warnings=(evil,),
    )


def test_everything_is_there_and_escaped() -> None:
    checker = check(render(report()))
    assert checker.seen.count("section") == 14
    assert sum(EVIL in words for words in checker.words) > 30
    assert f"Proved for every input: never the answer, because it is the mean ({EVIL})" in " ".join(checker.words)
    assert sum(source.startswith("data:image/png") for source in checker.sources) == 1 + 2 * 3
    assert sum(source.startswith("data:image/svg") for source in checker.sources) == 1
    assert "100.0 → 0.0" in "".join(checker.words)


def test_many_classes_show_the_target() -> None:
    page = render(report(classes=300, evil="name"))
    check(page)
    section = re.search(r"Accuracy per class.*?</section>", page, re.DOTALL)
    assert section is not None and section[0].count('class="number"') == 40 and "name2</div>" in section[0]


def test_little_is_enough() -> None:
    full = report()
    verdict = {"level": "not reached", "sentence": EVIL, "forgotten": False}
    record = full.record | {"reached": False, "verdict": verdict, "reason": EVIL, "mode": None, "search": []}
    bare = ClassReport(model="m", record=record, picks={}, relevance_before=Analysis(missing=EVIL))
    checker = check(render(bare))
    assert "not reached" in checker.words and any(EVIL in words for words in checker.words)
    check(render(dataclasses.replace(full, photos=None, relevance_after=Analysis(missing="none"))))


def test_written_whole(tmp_path) -> None:
    write_report(report(), tmp_path / "r.html")
    assert (tmp_path / "r.html").read_text(encoding="utf-8").endswith("</html>\n")
    assert [path.name for path in tmp_path.iterdir()] == ["r.html"]


class Cosine(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cos(x)


class Broken(torch.nn.Sequential):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.requires_grad:
            raise RuntimeError("out of memory")
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (torch.nn.Sequential(torch.nn.Linear(6, 4), Cosine(), torch.nn.Linear(4, 3)), r"UncoveredFunctionError.*cos"),
        (Broken(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3)), r"RuntimeError\): out of memory"),
    ],
    ids=["not covered", "another error"],
)
def test_why_there_is_no_relevance(model: torch.nn.Module, reason: str) -> None:
    found = analyse(model.eval(), torch.randn(5, 6), torch.zeros(5, dtype=torch.int64))
    assert re.search(reason, found.missing)


def test_a_front_from_the_command_line(run, tmp_path):
    edit = ("forget", "python:tinynet:build", "-w", "weights.safetensors", "-t", 2, "-p", "probes.npz")
    wrong = run(*edit, "--front", "--out", tmp_path / "wrong")
    assert wrong.code == 2 and "--front needs --eval" in wrong.err
    done = run(*edit, "--eval", "test.npz", "--front", "--json", "--out", tmp_path / "out")
    assert done.code == 0, done.err
    points = done.json["record"]["front"]
    assert points[0]["budget"] == 0 and points[0]["images"] == 20 and points[-1]["chosen"]
    assert "What other sizes would cost" in (tmp_path / "out" / "report.html").read_text()
