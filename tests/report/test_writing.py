"""Files of a report: chosen by the suffix, whole or not there; PDF by a browser, or refused with the way out."""

import dataclasses
import os

import pytest
import torch

import zsu_fast
from tests.report.pages import check
from tests.report.test_kinds import generator, record
from zsu_fast.report import pdf, render, report_of, write_report

pytest.importorskip("matplotlib")


def test_by_suffix(tmp_path):
    for name, start in (("a.html", "<!doctype"), ("a.HTML", "<!doctype"), ("a.md", "# Make no more")):
        write_report(generator(), tmp_path / name)
        assert (tmp_path / name).read_text(encoding="utf-8").startswith(start)
    write_report(generator(), tmp_path / "README.md", "card")
    assert (tmp_path / "README.md").read_text(encoding="utf-8").startswith("---\npipeline_tag: uncond")
    with pytest.raises(ValueError, match="format: expected one of html, md, card, pdf, got 'docx'"):
        write_report(generator(), tmp_path / "a.docx")
    assert not (tmp_path / "a.docx").exists()


def test_no_browser_no_pdf(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="needs a browser.*print it to a PDF"):
        write_report(generator(), tmp_path / "a.pdf")
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="a shell script plays the browser")
@pytest.mark.parametrize("script", ["echo broken >&2; exit 3", "exit 0"], ids=["fails", "prints nothing"])
def test_a_browser_that_fails_leaves_nothing(tmp_path, monkeypatch, script):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "chromium").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "bin" / "chromium").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(RuntimeError, match="did not print the report"):
        write_report(generator(), tmp_path / "a.pdf")
    assert [path.name for path in tmp_path.iterdir()] == ["bin"]


def test_a_pdf(tmp_path):
    try:
        pdf.find_browser()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    write_report(generator(), tmp_path / "a.pdf")
    assert (tmp_path / "a.pdf").read_bytes().startswith(b"%PDF") and len(list(tmp_path.iterdir())) == 1


def test_a_result_writes_its_own(tmp_path):
    labels = torch.arange(120) % 3
    rows = torch.eye(3).repeat(1, 2)
    images = rows[labels] + 0.1 * torch.rand(120, 6, generator=torch.Generator().manual_seed(0))
    model = torch.nn.Sequential(torch.nn.Linear(6, 3))
    model.load_state_dict({"0.weight": rows, "0.bias": torch.zeros(3)})
    result = zsu_fast.forget(model, 1, images[labels == 1], evaluate_on=(images, labels))
    result.report(tmp_path / "r.html", model="mine & yours", names={1: "<one>"}, author="me")
    words = " ".join(check((tmp_path / "r.html").read_text(encoding="utf-8")).words)
    assert "Forget <one> (class 1)" in words and "mine & yours" in words and "me (as it was typed" in words
    assert f"{int((labels != 1).sum())} evaluation images of the other classes" in words
    assert result.verdict.sentence in words and "40 images of the class" in words

    other = record({"kind": "instances", "goal": "misclassify", "count": 2}, None, None)
    page = render(report_of(dataclasses.replace(result, record=other), model="mine"))
    assert "Forget 2 images" in page
    assert "What the edit costs on images that had no part in its choice: not measured." in page
    other["request"]["kind"] = "another package"
    with pytest.raises(ValueError, match="result: there is no report on requests of the kind"):
        report_of(dataclasses.replace(result, record=other), model="mine")
