"""The README's tables are what the committed results say."""

import json

import pytest

from bench import field, paper_time, picture, plans, real_models
from bench.__main__ import README, RESULTS, WHOLE, result_files
from bench.report import HIGHLIGHTS, insert_table, load, summary, table
from zsu_fast.unlearn.methods import BASELINES

EDITS = ("lra-npp", "channels", "retrained without the class")


def test_tables_of_ops_and_models():
    names = {path.name for path in result_files()}
    assert {"models_cpu.json", "ops_cpu.json"} <= names, "no results are committed"
    contents = [load(path) for path in result_files()]
    for path, text in ((README, summary(contents)), (WHOLE, table(contents))):
        assert insert_table(path.read_text(), text) == path.read_text(), f"{path} is not what `bench table` writes"


def test_what_the_readme_shows_was_measured():
    measured = {row["case"] for path in result_files() for row in load(path)["results"]}
    assert set(HIGHLIGHTS) <= measured


def test_table_of_the_real_models():
    results = json.loads((RESULTS / "real_models.json").read_text())
    text = README.read_text()
    assert insert_table(text, real_models.table(results), real_models.BEGIN, real_models.END) == text


def test_table_of_plans():
    results = json.loads((RESULTS / "plans.json").read_text())
    text = README.read_text()
    assert insert_table(text, plans.table(results), plans.BEGIN, plans.END) == text


def test_table_of_the_field():
    results = json.loads((RESULTS / "field_lenet5.json").read_text())
    assert {entry["method"] for entry in results["methods"].values()} >= set(BASELINES)
    text = README.read_text()
    assert insert_table(text, field.table(results), field.BEGIN, field.END) == text


def test_table_of_the_papers_pipeline():
    results = json.loads((RESULTS / "paper_time.json").read_text())
    text = README.read_text()
    assert insert_table(text, paper_time.table(results), paper_time.BEGIN, paper_time.END) == text
    assert all(row["same"] >= paper_time.SAME for row in results["rows"])


def test_what_the_readme_says_of_relearning():
    """An edited LeNet-5 is back after 16 to 64 mini-batches or not at all, a retrained one after 32 or not at all."""
    rows = json.loads((RESULTS / "attacks.json").read_text())["rows"]
    times = {edit: [r["relearning"]["relearn_time"] for r in rows if r["edit"] == edit] for edit in EDITS}
    assert [len(found) for found in times.values()] == [3, 3, 3]
    edited = [t for t in times["lra-npp"] + times["channels"] if t is not None]
    assert 0 < len(edited) < 6  # "or not within 128"
    assert f"after {min(edited)} to {max(edited)} mini-batches" in " ".join(README.read_text().split())
    assert set(times["retrained without the class"]) == {32, None}
    for row in rows:
        if row["edit"] == "none":
            before = row["membership"]["loss_interval"]
            continue
        assert row["retain_only"]["relearn_time"] is None
        assert row["membership"]["loss_interval"][0] <= before[1], "training images stand out more than before"


def test_the_defaults_work_on_the_small_models():
    """36 unseen probes: at most 10 % left of the class and at most one point lost by the others, mean over classes."""
    results = json.loads((RESULTS / "real_models.json").read_text())
    rows = [
        r for r in results["summary"] if r["method"] == "lra-npp" and ("cifar10" in r["model"] or "mnist" in r["model"])
    ]
    assert len(rows) == 6
    for row in rows:
        assert row["classes"] == row["reached"] == 10
        assert row["forget_accuracy"][1] <= 0.10
        assert row["retain_accuracy"][1] >= row["retain_accuracy"][0] - 0.01


def test_markers_are_needed():
    with pytest.raises(ValueError, match="exactly|once"):
        insert_table("no markers here", "text")


def test_the_picture_of_speed():
    """It shows what the table above and below it says."""
    found = picture.ratios(*(json.loads((RESULTS / name).read_text()) for name in ("models_cpu.json", "plans.json")))
    lines = [line.strip("| ").split(" | ") for line in README.read_text().splitlines() if line.startswith("| ")]
    ours = {
        f"{cells[0]}, {cells[2]}": cells[4].split()[0] for cells in lines if cells[1] == "float32" and "x" in cells[0]
    }
    assert {name: f"{packages['zsu_fast']:.2f}" for name, packages in found.items()} == {
        name: ratio for name, ratio in ours.items() if name in found
    }
    assert set(found) == {name for name in ours if name.split(" x ")[0] in ("ResNet-50", "VGG-16", "ViT-B/16")
                          and "further" not in name}  # fmt: skip
    ax = picture.draw(found).axes[0]
    points = {drawn.get_label(): len(drawn.get_offsets()) for drawn in ax.collections}
    assert points["zsu_fast"] == len(found) == len(ax.get_yticklabels()) and points["zsu_fast, plan"] == 4
