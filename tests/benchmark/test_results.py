"""Means, shares and orders by hand; the page shows them, and nothing of it is the config's to write."""

import csv
import io
import json
import re
from html.parser import HTMLParser

import pytest

from zsu_fast.benchmark import write_results
from zsu_fast.benchmark.cells import Cell, key_of
from zsu_fast.benchmark.charts import undominated
from zsu_fast.benchmark.page import render, size_of
from zsu_fast.benchmark.ranking import RULES, over_models, ranked
from zsu_fast.benchmark.results import COLUMNS, Results, bootstrap
from zsu_fast.benchmark.settings import Measures


def measured(answers, others, probe, prototype, curve=None, **more):
    attacks = {
        "answers": {"forget": answers, "retain": others},
        "linear probe": {"forget": probe, "retain": 0.9},
        "prototype row, 5 images": {"forget": 0.5, "retain": 0.9},
        "prototype row, 36 images": {"forget": prototype, "retain": 0.9},
    }
    found = {"outcome": "done", "attacks": attacks, "images": 100, **more}
    if curve is not None:
        attacks["relearning"] = {"forget": curve[-1], "retain": 0.9}
        found["relearning"] = {"relearning": {"steps": [0, 1, 2], "forget": curve, "retain": [0.9] * 3}}
    return found


def results_of(*given, models=("net",)):
    """From (model, class, method, seed, measured)."""
    cells, found = [], {}
    for number, (model, target, method, seed, result) in enumerate(given):
        config = {"number": number, "method": method, "data": "few", "options": {}, "few": {"probes": 1, "retain": 1}}
        cell = Cell(model, target, method, seed, config)
        cells.append(cell)
        if result is not None:
            found[cell.key] = result
    facts = {"images": {"lessons": 1, "test": 1}, "parameters": 1, "published": [], "names": {}}
    return Results("trial", None, cells, found, dict.fromkeys(models, facts), Measures())  # type: ignore[arg-type]


EDIT = {"edited": True, "reached": True, "cpu_seconds": 2.0, "seconds": 1.0, "values": 10, "patch_bytes": 80}
BY_HAND = (
    ("net", 0, "original", None, measured(0.9, 0.9, 0.8, 0.8, [0.9, 0.9, 0.9])),
    ("net", 0, "retrained", None, measured(0.0, 0.9, 0.6, 0.4, [0.0, 0.1, 0.2])),
    ("net", 0, "a", 0, measured(0.0, 0.89, 0.7, 0.3, [0.0, 0.5, 0.86], **EDIT)),
    ("net", 1, "original", None, measured(1.0, 0.8, 1.0, 1.0, [1.0, 1.0, 1.0])),
    ("net", 1, "a", 0, measured(0.1, 0.8, 0.9, 0.9, [0.1, 0.96, 1.0], **EDIT | {"cpu_seconds": 4.0})),
)


def test_rows_and_means_by_hand():
    results = results_of(*BY_HAND)
    first, second = (row for row in results.rows() if row["method"] == "a")
    assert first["share_linear_probe"] == pytest.approx((0.8 - 0.7) / (0.8 - 0.6))
    assert first["share_prototype"] == pytest.approx((0.8 - 0.3) / (0.8 - 0.4))
    assert first["lost"] == pytest.approx(0.01)
    assert (first["relearned"], first["relearn_steps"]) == (True, 2)  # 0.95 * 0.9 = 0.855
    assert first["holds"] is False, "0.7 of the linear probe is more than 60 of 100 bound"
    assert (second["share_linear_probe"], second["holds"], second["relearn_steps"]) == (None, None, 1)
    line = next(line for line in results.summary() if line["method"] == "a")
    assert line["answers"] == pytest.approx(0.05) and line["cpu_seconds"] == pytest.approx(3)
    assert line["lost"] == pytest.approx(0.005) and line["qualifies"]
    assert line["linear_probe"] == pytest.approx(0.8), "over both classes"
    assert line["share_linear_probe"] == pytest.approx(0.5), "over the class that has an oracle"
    assert line["excess_linear_probe"] == pytest.approx(0.1) and line["excess_prototype"] == 0
    assert (line["holds"], line["judged"], line["relearn_steps"]) == (0, 1, 1.5)
    assert (line["cells"], line["done"], line["failed"], line["classes"]) == (2, 2, 0, [0, 1])


def test_what_does_not_come_back_is_told_from_what_was_not_measured():
    original = ("net", 0, "original", None, measured(0.9, 0.9, 0.8, 0.8, [0.9, 0.9, 0.9]))
    never = ("net", 0, "never", 0, measured(0, 0.9, 0.8, 0.8, [0.0, 0.1, 0.2], **EDIT))
    unasked = ("net", 0, "unasked", 0, measured(0, 0.9, 0.8, 0.8, **EDIT))
    found = {row["method"]: (row["relearned"], row["relearn_steps"]) for row in results_of(original, never).rows()}
    assert found["never"] == (False, None) and found["original"] == (True, 0)
    assert results_of(original, unasked).rows()[1]["relearned"] is None


def test_a_method_qualifies_by_what_it_leaves_and_what_it_costs():
    original = ("net", 0, "original", None, measured(0.9, 0.9, 0.8, 0.8))
    for answers, others, expected in ((0.1, 0.8801, True), (0.11, 0.9, False), (0.0, 0.879, False)):
        line = results_of(original, ("net", 0, "a", 0, measured(answers, others, 0.5, 0.5, **EDIT))).summary()[1]
        assert line["qualifies"] is expected, (answers, others)


def test_orders():
    original = measured(0.9, 0.9, 0.8, 0.8, [0.9, 0.9, 0.9])
    oracle = measured(0.0, 0.9, 0.6, 0.4, [0.0, 0.1, 0.2])
    methods = {
        "ruins": measured(0.0, 0.5, 0.1, 0.1, [0.0, 0.0, 0.0], **EDIT),
        "deep": measured(0.0, 0.89, 0.62, 0.4, [0.0, 0.2, 0.9], **EDIT | {"cpu_seconds": 9.0}),
        "quick": measured(0.0, 0.9, 0.8, 0.8, [0.0, 0.9, 0.9], **EDIT | {"cpu_seconds": 0.1}),
        "beyond": measured(0.05, 0.89, 0.3, 0.2, [0.0, 0.2, 0.9], **EDIT | {"cpu_seconds": 1.0}),
    }
    cells = [("net", 0, "original", None, original), ("net", 0, "retrained", None, oracle)]
    cells += [("net", 0, name, 0, found) for name, found in methods.items()]
    cells += [("net", 0, "partly", 0, methods["beyond"]), ("net", 0, "partly", 1, None)]
    lines = results_of(*cells).summary()
    order = {rule.name: [line["method"] for line in ranked(lines, rule)] for rule in RULES}
    assert order["overall"] == ["beyond", "deep", "quick", "ruins", "partly"]
    assert order["answers"] == ["quick", "deep", "ruins", "beyond", "partly"]
    assert order["others kept"] == ["quick", "beyond", "deep", "ruins", "partly"]
    assert order["linear probe"] == ["beyond", "ruins", "deep", "quick", "partly"]
    assert order["relearning"] == ["ruins", "beyond", "deep", "quick", "partly"]
    assert order["time"] == ["quick", "beyond", "ruins", "deep", "partly"]


def test_places_over_models():
    def cells(model, first, second):
        return [
            (model, 0, "original", None, measured(0.9, 0.9, 0.8, 0.8)),
            (model, 0, first, 0, measured(0.0, 0.9, 0.1, 0.1, **EDIT)),
            (model, 0, second, 0, measured(0.0, 0.9, 0.2, 0.2, **EDIT)),
        ]

    given = [*cells("one", "a", "b"), *cells("two", "a", "b"), *cells("three", "b", "a")]
    lines = results_of(*given, models=("one", "two", "three")).summary()
    assert over_models(lines, RULES[0]) == [("a", pytest.approx(4 / 3), 3), ("b", pytest.approx(5 / 3), 3)]


def test_undominated_points_by_comparing_all():
    points = [(0.1, 0.5), (0.2, 0.1), (0.1, 0.4), (0.3, 0.1), (0.05, 0.9), (0.05, 0.9), (0.5, 0.0)]

    def beaten(point):
        return any(o[0] <= point[0] and o[1] <= point[1] and o != point for o in points)

    assert undominated(points) == sorted({point for point in points if not beaten(point)})
    assert undominated([]) == []


def test_intervals_hold_the_mean_and_need_three_cells():
    assert bootstrap([0.1, 0.2]) is None
    low, high = bootstrap([0.1, 0.2, 0.3, 0.4])
    assert 0.1 <= low < 0.25 < high <= 0.4
    assert bootstrap([0.5] * 5) == [0.5, 0.5]


def test_files_say_the_same(measured):
    files = {path.name: path for path in write_results(measured)}
    content = json.loads(files["results.json"].read_text())
    assert content["cells"] == {"planned": 15, "failed": 4, "missing": 0}
    table = list(csv.DictReader(io.StringIO(files["results.csv"].read_text())))
    assert len(table) == len(content["rows"]) == 15 and list(table[0])[: len(COLUMNS)] == list(COLUMNS)
    for line, row in zip(table, content["rows"], strict=True):
        assert row["key"] == key_of(row["config"])
        for name in ("method", "answers", "seed", "error"):
            assert line[name] == ("" if row[name] is None else str(row[name]))
    lines = {(line["model"], line["method"]): line for line in content["summary"]}
    assert lines["net & co", "lra-npp"]["done"] == 4 and lines["net & co", "<i>fails</i>"]["failed"] == 4


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.text += data


def test_the_page_is_self_contained_and_escapes_what_it_is_given(measured):
    page = Tags(render(measured))
    assert not {"script", "i", "link", "iframe"} & set(page.tags) and "<i>fails</i>" in page.text
    assert "<trial>" in page.text and "net & co" in page.text and "<b>nw</b>" not in page.tags
    assert not {"b", "trial"} & set(page.tags)
    sources = [value for name, value in page.attributes if name in ("src", "href")]
    assert len(sources) >= 2 and all(source.startswith("data:image/") for source in sources)
    assert ("content", "default-src 'none'; img-src data:; style-src 'unsafe-inline'") in page.attributes
    assert not [name for name, _ in page.attributes if name.startswith("on")]


def test_the_page_states_its_rules_its_failures_and_what_is_missing(measured):
    text = Tags(render(measured)).text
    for rule in RULES:
        assert rule.text in text
    assert text.count("learning_rate") >= 4 and "15 of 15 cells measured, 4 of them failed" in text
    assert "not complete" in text
    partial = Results(
        measured.name, measured.out, measured.cells, dict(list(measured.found.items())[:4]), measured.models,
        measured.measures,
    )  # fmt: skip
    assert "4 of 15 cells measured" in Tags(render(partial)).text
    empty = Results(measured.name, measured.out, measured.cells, {}, measured.models, measured.measures)
    assert "0 of 15 cells measured" in Tags(render(empty)).text


def test_published_rows_stand_beside_ours_with_their_source():
    results = results_of(*BY_HAND)
    row = {"method": "theirs", "answers": 0.015, "others": 0.98, "seconds": 0.9, "source": "<Table 1>"}
    results.models["net"] = results.models["net"] | {"published": [row]}
    text = Tags(render(results)).text
    assert re.search(r"theirs1\.598\.00\.9<Table 1>", text) and "not of one run with them" in text


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB")]
)
def test_sizes(count, text):
    assert size_of(count) == text
