"""The report on each kind of request: what it shows, that names are escaped, and nothing private unasked."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.report.pages import EVIL, check
from zsu_fast.evaluate.accuracy import summarise
from zsu_fast.report import render
from zsu_fast.report.analysis import Analysis
from zsu_fast.report.concept import ConceptReport, ConceptSeen
from zsu_fast.report.generator import GeneratorReport
from zsu_fast.report.instances import InstancesReport, InstancesSeen
from zsu_fast.report.items import ItemsReport
from zsu_fast.report.made_of import Made
from zsu_fast.report.poison import ablation
from zsu_fast.report.text import Asked, Shaded, TextReport
from zsu_fast.unlearn import TextRecord

pytest.importorskip("matplotlib")

NAMES = {i: f"{EVIL}{i}" for i in range(4)}
LABELS = torch.arange(40) % 4
SEEN = [summarise(answers, LABELS, []).to_dict() for answers in (LABELS, torch.where(LABELS == 2, 1, LABELS))]


def record(request, before, after, **more):
    metrics = {"forget_accuracy": 1.0, "retain_accuracy": 0.9, "margin": 2.5}
    return {
        "request": {"method": EVIL, "seed": 0, **request},
        "verdict": {"level": "answers", "sentence": EVIL, "forgotten": True},
        "mode": EVIL,
        "metrics": {"before": metrics, "after": metrics | {"forget_accuracy": 0.0, "margin": -0.5}, "probes": 5},
        "evaluation": None if before is None else {"before": before, "after": after},
        **more,
    }


def words(page):
    return " ".join(check(page).words)


def photos(count):
    return np.zeros((count, 4, 4, 1), np.uint8)


def concept():
    told = [
        {"refitted": share, "bank": 0.5, "images": 60, "users": None, "others": seen}
        for share, seen in zip((0.97, 0.51), SEEN, strict=True)
    ]
    request = {"concept": EVIL, "layer": EVIL, "evidence": {"accuracy": 0.9, "p_value": 0.001}, "used_by": [2]}
    heat = torch.randn(2, 4, 4)
    return ConceptReport(
        model=EVIL, record=record(request, *told), picks={EVIL: [1, 2]}, names=NAMES,
        before=ConceptSeen(0.001, Analysis(heat=heat, heat_rules=EVIL)),
        after=ConceptSeen(0.42, Analysis(heat=heat * 0, heat_rules=EVIL)),
        photos=(photos(2), photos(3)), made_of=(Made(EVIL), Made(EVIL)),
    )  # fmt: skip


def instances():
    request = {"goal": "misclassify", "count": 5}
    return InstancesReport(
        model=EVIL, record=record(request, *SEEN), picks={}, names=NAMES, labels=[0, 1, 2, 3, 0],
        before=InstancesSeen(torch.tensor([0, 1, 2, 3, -1]), torch.arange(5.0)),
        after=InstancesSeen(torch.tensor([1, 2, 3, 0, 1]), -torch.arange(5.0)), photos=photos(5),
    )  # fmt: skip


def text():
    share = {"count": 9, "total": 10, "share": 0.9, "interval": [0.6, 0.98]}
    before = {"said": share, "exact_match": share, "rouge_l": 0.8, "perplexity": 1.25, "held_out_perplexity": None}
    after = before | {"said": share | {"count": 0, "share": 0.0}}
    known = TextRecord("Who?", f" In Graz {EVIL}.", ("graz", "new york", "Gr(az"), "", (f"Where {EVIL}?",))
    asked = Asked([known], known.paraphrases, [f"In GRAZ, Grazia, New York {EVIL}"], [f"Nowhere {EVIL}"])
    return TextReport(
        model=EVIL, record=record({"records": 1}, before, after), picks={}, forgotten=asked, kept=asked,
        shaded=[Shaded([(EVIL, 1.0), (" Graz", -0.5)]), Shaded(missing=EVIL)],
    )  # fmt: skip


def generator():
    before = {
        "latents": 1000, "share": 0.25, "share_interval": [0.2, 0.3], "second_share": 0.24,
        "second_share_interval": [0.2, 0.3], "kept_same": 1.0, "confident": 0.9, "frechet": 140.0, "precision": None,
        "recall": None, "roughness": 0.01, "per_class": {"0": 0.5, "1": 0.25, "2": 0.25},
    }  # fmt: skip
    after = before | {"share": 0.0, "frechet": 122.5, "per_class": {"0": 0.7, "1": 0.3}}
    return GeneratorReport(
        model=EVIL, record=record({"targets": [2]}, before, after), picks={EVIL: [3]}, names=NAMES,
        made=(photos(3), photos(3)),
    )  # fmt: skip


def items():
    before = {
        "errors": [0.001, 0.004], "found": [[0.0], [1.0]], "unseen_error": 0.005, "kept_same": 1.0, "same_class": 1.0,
        "psnr": None, "roughness": 0.01,
    }  # fmt: skip
    after = before | {"errors": [0.0055, 0.0055], "kept_same": 0.98, "psnr": [31.5, 26.25]}
    request = {
        "kind": "items", "count": 2, "worse": 1.5, "restarts": 16, "search_steps": 5, "unseen": 9,
        "latents": {"fresh": 100},
    }  # fmt: skip
    return ItemsReport(
        model=EVIL, record=record(request, before, after), picks={EVIL: [1]}, photos={EVIL: photos(2), "now": photos(2)}
    )


@pytest.mark.parametrize(
    ("report", "sections", "shown"),
    [
        (concept(), 15, ("97.0 % → 51.0 %", "0.001 0.42", "without them (p = 0.001)", "100.0 → 0.0")),
        (instances(), 11, ("100.0 % → 0.0 %", "2.5 → -0.5", "NaN", "100.0 → 0.0")),
        (text(), 12, ("90.0 % → 0.0 %", "9 of 10, 90.0 % (60.0 % to 98.0 %)", "GRAZ , Grazia, New York", "1.25 1.25")),
        (generator(), 12, ("25.0 % → 0.0 %", "140 122.5", "25.0 → 0.0")),
        (items(), 11, (
            "2 of 2 → 1 of 2", "0.0025 → 0.0055", "98.0 %", "0.001 0.005 0.0055 gone",
            "0.004 0.006 0.0055 still made", "31.5 (95 % exceed 26.25)",
        )),
    ],
    ids=["concept", "instances", "text", "generator", "items"],
)  # fmt: skip
def test_everything_is_there_and_escaped(report, sections, shown):
    page = render(report)
    checker = check(page)
    said = " ".join(" ".join(checker.words).split())
    assert checker.seen.count("section") == sections
    assert all(one in said for one in shown), said
    assert said.count(EVIL) > 5 and f"method was {EVIL}" in said


def test_what_is_marked():
    page = render(text())
    assert page.count("<mark>") == 2, "of what was to be forgotten alone"
    assert "<mark>GRAZ</mark>, Grazia, <mark>New York</mark>" in page


def test_private_things_are_there_only_if_handed_over():
    few = (
        dataclasses.replace(concept(), photos=None, made_of=(None, None), before=None, after=None),
        dataclasses.replace(instances(), photos=None, after=None),
        dataclasses.replace(text(), forgotten=None, kept=None, shaded=()),
        dataclasses.replace(generator(), made=None),
        dataclasses.replace(items(), photos={}),
    )
    for report in few:
        checker = check(render(report))
        assert not any(source.startswith("data:image/png") for source in checker.sources)
    assert "Graz" not in render(few[2]) and "answer after" not in render(few[1])


def test_an_edit_that_was_taken_back_is_said_to_be():
    kept = text()
    taken_back = dataclasses.replace(kept, record=kept.record | {"mode": None})
    assert "taken back" in words(render(taken_back)) and "taken back" not in words(render(kept))


def test_many_instances_are_cut_off():
    many = dataclasses.replace(
        instances(), labels=[0] * 300, before=InstancesSeen(torch.zeros(300, dtype=torch.int64), torch.ones(300)),
        after=None,
    )  # fmt: skip
    page = render(many)
    assert page.count("<tr>") == 201 and "The first 200." in words(page)


def test_what_the_patch_adds_is_said_plainly():
    found = {"rows": [{"edit": EVIL, "forget": 0.5, "retain": 0.25}], "said": f"The patch adds nothing {EVIL}"}
    request = {"request": {"method": "poison"}}
    page = ablation(request | {"findings": {"ablation": found}})
    assert "<script" not in page and "<b>The patch adds nothing" in page and "50.0, 25.0" in page
    assert "--set ablation=true" in ablation(request)
    assert ablation({"request": {"method": "lra-npp"}}) == ""
