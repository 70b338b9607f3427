"""The first page: what it says of a run, in every form the same, and that it claims nothing that was not measured."""

import dataclasses
import html
import re

import pytest
import torch

from tests.report.pages import EVIL, check
from tests.report.test_kinds import concept, generator, instances, items, record, text
from zsu_fast.evaluate import ProbeResult
from zsu_fast.evaluate.accuracy import summarise
from zsu_fast.report import ClassReport, markdown, render
from zsu_fast.report.statements import first_page

pytest.importorskip("matplotlib")

TITLES = [
    "What was asked, of which model", "What is shown", "What is not shown, or was not tested",
    "By what it was chosen and judged", "How to check it", "Who and when", "Words",
]  # fmt: skip
LABELS = torch.arange(400) % 4
BEFORE = summarise(LABELS, LABELS, [2])
AFTER = summarise(torch.where(LABELS == 2, 1, LABELS), LABELS, [2])


def of_class(verdict=None, metrics=None, **more):
    found = record({"targets": [2], "kind": "class"}, None, None, **more.pop("record", {}))
    found["verdict"] |= {"at_most": 0.02, "judged_by": "held-out probes"} | (verdict or {})
    found["metrics"]["after"] = found["metrics"]["after"] | {"retain_accuracy": 0.5}
    found["retain_probes"] = {"hmac_sha256": "ab", "shape": [30, 3, 8, 8]}
    found["metrics"] |= metrics or {}
    return ClassReport(model=EVIL, record=found, picks={EVIL: [1, 2]}, names={2: EVIL}, **more)


def said(report, number):
    part = first_page(report)[number]
    return " ".join((*part.said, *(f"{term}: {text}" for term, text in part.facts)))


KINDS = [of_class(before=BEFORE, after=AFTER), concept(), instances(), text(), generator(), items()]


@pytest.mark.parametrize("report", KINDS, ids=lambda report: type(report).__name__)
def test_page_and_markdown_say_the_same(report):
    report = dataclasses.replace(
        report, author=EVIL, in_folder=True, sources={"--probes": {"images": 3, "hmac_sha256": "abc"}}
    )
    page, marked = render(report), markdown.render(report)
    check(page)
    unmarked = re.sub(r"\\([^\w\s])", r"\1", marked)
    parts = first_page(report)
    assert [part.title for part in parts] == TITLES and all(part.said or part.facts for part in parts)
    for part in parts:
        for one in (part.title, *part.said, *(word for fact in part.facts for word in fact)):
            assert html.escape(one) in page, one
            assert " ".join(one.split()) in unmarked, one
        for command, _ in part.commands:
            assert html.escape(command) in page and f"`{command}`" in marked
    assert not re.search(r"(?<!\\)<", marked), "nothing of the user's is HTML"
    assert "nobody checked it" in said(report, 5) and "--probes" in said(report, 3)
    assert "zsu-fast verify FOLDER --images IMAGES" in page and "model_digest(model)" not in page
    assert page.index(TITLES[-1]) < page.index("Technical part") < page.index("<h3>")


def test_without_a_folder_there_is_nothing_for_verify():
    commands = [command for command, _ in first_page(of_class())[4].commands]
    assert any("model_digest(model)" in command for command in commands)
    assert not any("zsu-fast" in command for command in commands)


def test_the_others_are_told_apart():
    shown = said(of_class(before=BEFORE, after=AFTER, overlap=0), 1)
    assert "300 evaluation images of the other classes, which had no part in the choice" in shown
    assert (
        "30 retain images, which had a part in the choice of the edit, 90.0 %" in shown and "50.0 % are after" in shown
    )
    notes = [card.note for card in of_class(before=BEFORE, after=AFTER, overlap=0).cards()]
    assert sum("had no part" in note for note in notes) == 2 and "which had a part in the choice" in notes[2]
    assert "which had no part" not in said(of_class(), 1)
    assert "on images that had no part in its choice: not measured" in said(of_class(), 2)


@pytest.mark.parametrize("make", [lambda **more: of_class(before=BEFORE, after=AFTER, **more), concept, instances])
def test_images_that_chose_are_not_said_to_have_had_no_part(make):
    report = make()
    for overlap, known in (
        (None, "given to judge, not to choose"),
        (7, "some of which (7 in all) are among those given"),
    ):
        found = dataclasses.replace(report, overlap=overlap)
        every = [said(found, 1), said(found, 3), *(card.note for card in found.cards())]
        assert known in every[0] and known in every[1] and not any("no part" in one for one in every)


def test_features_are_called_forgotten_only_by_a_verdict_on_them():
    probes = {
        name: ProbeResult(share, 0.9, torch.zeros(1)) for name, share in (("probe_before", 0.9), ("probe_after", 0.8))
    }
    front = [{"budget": 0, "linear_probe": 0.95, "chosen": False}, {"budget": 3, "linear_probe": 0.85, "chosen": True}]
    head = {"others": {"claim": "same", "because": "rows"}}
    assert "That the features have forgotten: a linear probe finds the class in 80.0 %" in said(of_class(**probes), 2)
    assert "finds the class in 85.0 % of its images (95.0 % before)" in said(of_class(record={"front": front}), 2)
    assert "only the classifier was edited" in said(of_class(record={"certificate": head}), 2)
    assert "Proved for every input: same, because rows." in said(of_class(record={"certificate": head}), 1)
    assert "Whether the features have forgotten: not tested" in said(of_class(), 2)
    deep = of_class({"level": "features"})
    assert "features have forgotten" not in said(deep, 2) and "membership" in said(deep, 2)


def test_images_that_do_not_bear_the_verdict_out_are_not_passed_over():
    some = summarise(torch.where((LABELS == 2) & (torch.arange(400) > 100), 1, LABELS), LABELS, [2])
    doubt = said(of_class(before=BEFORE, after=some), 2)
    assert re.search(r"would not bear the verdict out: by them up to 3\d\.\d % of unseen images", doubt)
    assert "bear" not in said(of_class(before=BEFORE, after=AFTER), 2)
    assert "bear" not in said(of_class({"judged_by": "evaluation images"}, before=BEFORE, after=some), 2)


def test_an_edit_that_is_not_there_has_nothing_to_show():
    bare = of_class({"level": "not reached", "forgotten": False}, record={"mode": None})
    assert "No edit is in place" in said(bare, 0) and "after, SHA-256" not in said(bare, 0)
    assert "nothing was forgotten" in said(bare, 1)
    assert said(bare, 2).startswith("That anything was forgotten: the model is unchanged.")
    assert not first_page(bare)[4].commands and "held out" not in said(bare, 3)


def test_synthesised_images_are_called_so():
    made = of_class({"at_most": None}, record={"probes": {"hmac_sha256": "x"}})
    made.request["synthetic"] = {}
    assert "synthesised from the model: not real ones" in said(made, 3)
    assert "the bound says nothing" not in said(made, 2)


def test_a_model_card_has_the_header_of_the_hub():
    yaml = pytest.importorskip("yaml")
    card = markdown.model_card(dataclasses.replace(text(), model="hf:mine"))
    _, head, body = card.split("---\n", 2)
    read = yaml.safe_load(head)
    assert read["pipeline_tag"] == "text-generation" and read["library_name"] == "transformers"
    assert EVIL in read["tags"] and body.lstrip().startswith("# Forget 1 record")
    assert "library_name" not in markdown.model_card(generator())


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_stand_out_from_what_is_behind_them(scheme):
    """WCAG 2.2, 1.4.3 and 1.4.11: 4.5 to 1 for texts, 3 to 1 for the bars."""
    style = re.search(r"<style>(.*?)</style>", render(of_class()), re.DOTALL)[1]
    found = [
        dict(re.findall(r"--([\w-]+): (#\w{6});", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert set(found[0]) == set(found[1])
    colours = found[scheme == "dark"]

    def contrast(one, other):
        bright, dark = sorted((luminance(colours[one]), luminance(colours[other])), reverse=True)
        return (bright + 0.05) / (dark + 0.05)

    for front, behind in (
        ("ink", "paper"), ("ink", "ground"), ("soft", "paper"), ("soft", "ground"), ("after", "paper"),
        ("after", "ground"), ("masked", "paper"), ("good-ink", "good"), ("bad-ink", "bad"), ("paper", "after"),
    ):  # fmt: skip
        assert contrast(front, behind) >= 4.5, (front, behind)
    assert contrast("after", "line") >= 3 and contrast("masked", "line") >= 3
