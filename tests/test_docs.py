"""Every Python example of the documentation runs, every link leads somewhere, every table is what was measured."""

import copy
import json
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

import zsu_fast
from bench import (
    batch_size,
    concepts,
    depth,
    depth_imagenet,
    faithfulness,
    gans,
    generators,
    instances,
    items,
    language,
    lira,
    low_memory,
    poisoning,
    shards,
    smaller,
    streams,
    synthetic,
    texts,
)
from bench.__main__ import RESULTS
from bench.gallery import PICTURES
from bench.oracles import CACHE
from bench.paper import ablation
from bench.report import insert_table
from bench.tiny_gpt import SMALL, taught
from tests.concepts.conftest import Planted, planted_net  # noqa: F401  # a fixture
from tests.concepts_data import USER, with_square
from tests.demo_nets import trained_once
from tests.examples import BLOCK, run_examples
from tests.generators import generator_and_items, generator_and_judges
from zsu_fast import demo
from zsu_fast.cli.requests_file import KINDS
from zsu_fast.evaluate.intervals import trials_for_bound, upper_bound
from zsu_fast.evaluate.texts import encoded, padded
from zsu_fast.report import FORMATS
from zsu_fast.report.statements import LEVELS, MEANINGS
from zsu_fast.unlearn import TextRecord, model_digest
from zsu_fast.unlearn.methods import BASELINES, INSTANCE_METHODS, RESUMABLE, TEXT_METHODS
from zsu_fast.unlearn.queue.rows import STATUSES
from zsu_fast.unlearn.verdict import FORGOTTEN_AT_MOST

ROOT = Path(__file__).resolve().parent.parent
GUIDE = ROOT / "docs" / "lrp.md"
FORGETTING = ROOT / "docs" / "forgetting.md"
PROBES_PAGE = ROOT / "docs" / "probes.md"
BASELINES_PAGE = ROOT / "docs" / "baselines.md"
INSTANCES_PAGE = ROOT / "docs" / "instances.md"
CONCEPTS_PAGE = ROOT / "docs" / "concepts.md"
TEXTS_PAGE = ROOT / "docs" / "texts.md"
GENERATORS_PAGE = ROOT / "docs" / "generators.md"
LANGUAGE_PAGE = ROOT / "docs" / "language-models.md"
REPORT_PAGE = ROOT / "docs" / "report.md"
GALLERY, QUEUE_PAGE = ROOT / "docs" / "gallery.md", ROOT / "docs" / "queue.md"
INDEX, README = ROOT / "docs" / "index.md", ROOT / "README.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
HELD_ABOVE = (
    GUIDE, FORGETTING, PROBES_PAGE, BASELINES_PAGE, INSTANCES_PAGE, CONCEPTS_PAGE, GENERATORS_PAGE, TEXTS_PAGE,
    LANGUAGE_PAGE, REPORT_PAGE, QUEUE_PAGE, GALLERY, INDEX, README,
)  # fmt: skip


@pytest.fixture(scope="module")
def guide(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """The guide's examples, run once: the folder that they wrote into, and their names."""
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("guide")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(demo, "train_network", trained_once)
        return folder, run_examples(GUIDE)


def test_the_guide(guide: tuple[Path, dict]) -> None:
    folder, _ = guide
    assert {path.name for path in folder.iterdir()} == {path.name for path in (ROOT / "docs").glob("lrp-*.png")}


def test_the_readme(guide: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `model` is a trained one, its `images` show a three; `labels` is the class of each."""
    monkeypatch.chdir(tmp_path)
    _, names = guide
    images = names["parts"].probes
    given = {
        "model": copy.deepcopy(names["model"]),
        "images": images,
        "labels": torch.full((len(images),), 3),
    }
    for page in (INDEX, README):
        assert run_examples(page, given)["result"].reached
        (tmp_path / "class3.safetensors").unlink()


def test_the_page_on_forgetting(guide: tuple[Path, dict]) -> None:
    """Its `edited` forgot a three in the classifier only, as `depth` finds; `retrained` stands for an oracle."""
    _, names = guide
    original, edited = names["model"], copy.deepcopy(names["model"])
    zsu_fast.forget(edited, 3, names["parts"].probes)
    (x, y), (test_x, test_y) = ([part[half::4] for part in names["parts"].judge] for half in (0, 1))
    given = {"edited": edited, "original": original, "retrained": edited}
    given |= {"x": x, "y": y, "test_x": test_x, "test_y": test_y}
    found = run_examples(FORGETTING, given)["found"]
    assert ", ".join(f"`{name}`" for name in RESUMABLE) in " ".join(FORGETTING.read_text().split())
    assert found.attacks["answers"].forget["edited"] < 0.05 < 0.8 < found.attacks["linear probe"].forget["edited"]


def test_the_page_on_probes(guide: tuple[Path, dict]) -> None:
    """Its `model` is a trained one; the numbers of images that it names are those of the bound."""
    _, names = guide
    result = run_examples(PROBES_PAGE, {"model": copy.deepcopy(names["model"])})["result"]
    assert result.reached and "Nothing was verified on real images" in result.verdict.sentence
    text = PROBES_PAGE.read_text()
    rows = [
        re.search(rf"^\| {label}(.*)\|$", text, re.MULTILINE)
        for label in ("of which .*? class", "images that .*? enough")
    ]
    wrong, enough = ([int(cell) for cell in row[1].split("|") if cell.strip()] for row in rows if row)
    assert enough == [trials_for_bound(count, FORGOTTEN_AT_MOST) for count in wrong]
    said = re.findall(r"(\d+)(?: images)? show (?:at most )?([\d.]+) %", text)
    assert len(said) == 4 and all(f"{100 * upper_bound(0, int(n)):.1f}" == share for n, share in said)


def test_the_page_on_the_report(guide: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `model` is a trained one; it has a chapter on each part of the report, and a row for each form and badge."""
    monkeypatch.chdir(tmp_path)
    _, names = guide
    x, y = names["parts"].judge
    given = {"model": copy.deepcopy(names["model"]), "probes": names["parts"].probes, "x": x, "y": y}
    result = run_examples(REPORT_PAGE, given)["result"]
    assert result.verdict.level == "answers" and (tmp_path / "report.html").exists()
    titles = re.findall(r"^## (.*)$", REPORT_PAGE.read_text(), re.MULTILINE)
    assert titles == ["The head", *re.findall(r"^## (.*)$", (tmp_path / "report.md").read_text(), re.MULTILINE)]
    rows = re.findall(r"^\| (.*?) \|", REPORT_PAGE.read_text(), re.MULTILINE)
    assert {f"`{name}`" for name in FORMATS} <= {row.removesuffix(" (default)") for row in rows}
    assert {LEVELS.get(level, level) for level in MEANINGS} <= set(rows)


def test_the_gallery(
    guide: tuple[Path, dict],
    planted_net: Planted,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its models are those of the guides; every picture is small, and so many are there as sections of code make."""
    monkeypatch.chdir(tmp_path)
    _, names = guide
    x, y = names["parts"].judge
    given = {"model": copy.deepcopy(names["model"]), "images": names["images"][:4], "threes": names["parts"].probes}
    others = y[1::2] != 3
    given |= {"x": x[1::2][others], "y": y[1::2][others], "test_x": x[::2], "test_y": y[::2]}
    known = taught(SMALL, CACHE / "texts")
    fact = known.world.facts[0]
    tokens, answer = padded([encoded(known.tokenizer, fact.question(1), f" {fact.answer}")])
    given |= {"language_model": known.model, "tokenizer": known.tokenizer, "tokens": tokens, "answer": answer}
    coloured = torch.cat([with_square(planted_net.threes), planted_net.x[:200]])
    labels = torch.cat([torch.full((len(planted_net.threes),), USER), planted_net.y[:200]])
    given |= {"coloured_model": planted_net.net, "coloured": coloured, "labels": labels}
    given |= dict(zip(("generator", "judge", "second_judge"), generator_and_judges(), strict=True))
    run_examples(GALLERY, given)
    assert {path.name for path in tmp_path.iterdir()} == {"maps.png", "text.html", "front.png", "report.html"}
    pictures = re.findall(r"!\[.+?\]\((.+?)\)", GALLERY.read_text())
    assert set(PICTURES) <= {Path(name).stem.partition("-")[0] for name in pictures}
    assert all((GALLERY.parent / name).stat().st_size < 150_000 for name in pictures)


def test_the_page_on_baselines(guide: tuple[Path, dict]) -> None:
    """It names every baseline; its `model` is a trained one, `unseen_x` has images of the three alone."""
    _, names = guide
    x, y = names["parts"].judge
    own, rest = y == 3, y != 3
    given = {"model": copy.deepcopy(names["model"]), "probes": names["parts"].probes}
    given |= {"x": x[rest], "y": y[rest], "unseen_x": x[own], "unseen_y": y[own]}
    assert run_examples(BASELINES_PAGE, given)["result"].patch.entries
    assert re.findall(r"^\| `(.*?)`", BASELINES_PAGE.read_text(), re.MULTILINE) == list(BASELINES)


def test_the_page_on_instances(guide: tuple[Path, dict]) -> None:
    """Its `model` is a trained one, `x` are images that it was trained on."""
    _, names = guide
    (x, y), (test_x, test_y) = names["parts"].train, names["parts"].judge
    given = {"model": copy.deepcopy(names["model"]), "x": x[:4], "y": y[:4], "more_x": x[4:8], "more_y": y[4:8]}
    given |= {"test_x": test_x[::2], "test_y": test_y[::2], "unseen_x": test_x[1::2], "unseen_y": test_y[1::2]}
    found = run_examples(INSTANCES_PAGE, given)
    assert found["result"].verdict.level == found["later"].verdict.level == "answers"
    assert re.findall(r"^\| `(.*?)`", INSTANCES_PAGE.read_text(), re.MULTILINE)[3:5] == list(INSTANCE_METHODS)


def test_the_page_on_queues(guide: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `threes` and `fives` were not trained on, `x` were; it has a row for each status and names each column."""
    monkeypatch.chdir(tmp_path)
    _, names = guide
    (test_x, test_y), (train_x, train_y) = names["parts"].judge, names["parts"].train
    given = {"model": copy.deepcopy(names["model"]), "test_x": test_x, "test_y": test_y}
    given |= {"threes": names["parts"].probes, "fives": test_x[test_y == 5], "x": train_x[:4], "y": train_y[:4]}
    found = run_examples(QUEUE_PAGE, given | {"kept": (train_x[20:60], train_y[20:60])})
    assert [row.status for row in found["queue"].rows] == ["done"] * 3 and found["files"] == found["chain"] == []
    assert model_digest(found["original"]) == model_digest(names["model"])
    text = QUEUE_PAGE.read_text()
    for status in STATUSES:
        assert re.search(rf"^\| [^|]*\b{status}\b[^|]* \|", text, re.MULTILINE)
    for kind in KINDS.values():
        assert all(f"`{name}`" in text for name in (*kind.must, *kind.may))


def test_the_page_on_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its `model` is a small one that knows the facts of `to_forget`."""
    monkeypatch.chdir(tmp_path)
    known = taught(SMALL, CACHE / "texts")
    authors = known.world.authors
    anchors = [
        TextRecord(f.question(1), f" {f.answer}", (), f.author, tuple(f.question(i) for i in (0, 2, 3, 4, 5)))
        for f in known.world.of(authors[2:4])
    ]
    held_out = [(" ".join(words[:2]), " " + " ".join(words[2:])) for words in map(str.split, known.world.unseen)]
    given = {"model": copy.deepcopy(known.model), "tokenizer": known.tokenizer, "anchors": anchors}
    given |= {"to_forget": known.world.of(authors[:2]), "held_out": held_out}
    assert run_examples(TEXTS_PAGE, given)["result"].record["evaluation"]["after"]["said"]["share"] <= 0.05
    assert re.findall(r"^\| `(.*?)`", TEXTS_PAGE.read_text(), re.MULTILINE)[: len(TEXT_METHODS)] == list(TEXT_METHODS)


@pytest.mark.models
def test_the_page_on_language_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its model has a few random weights, its words are letters; it names every family that tests hold."""
    monkeypatch.chdir(tmp_path)
    from tests.lrp.language_models import CAUSAL, ENCODERS, language_model, letters

    found = run_examples(LANGUAGE_PAGE, {"model": language_model("Llama", vocab_size=32), "tokenizer": letters()})
    assert (tmp_path / "text.html").read_text().count("<span") == 2 * found["batch"]["attention_mask"].sum()
    named = set(re.findall(r"\w+", LANGUAGE_PAGE.read_text()))
    assert {name.lower() for name in (*CAUSAL, *ENCODERS)} <= {name.lower() for name in named}


def test_table_of_texts() -> None:
    results = json.loads((RESULTS / "texts.json").read_text())
    text = TEXTS_PAGE.read_text()
    assert insert_table(text, texts.table(results), texts.BEGIN, texts.END) == text


def test_table_of_language_models() -> None:
    results = json.loads((RESULTS / "language.json").read_text())
    text = LANGUAGE_PAGE.read_text()
    assert insert_table(text, language.table(results), language.BEGIN, language.END) == text


def test_table_of_ablation() -> None:
    results = json.loads((RESULTS / "paper_ablation.json").read_text())
    assert list(results["nets"]) == list(ablation.NETS)
    text = ablation.PAGE.read_text()
    assert insert_table(text, ablation.table(results), ablation.BEGIN, ablation.END) == text


def test_the_page_on_concepts(planted_net: Planted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Its `model` knows threes by a red square; what it says of numbers and sentences is what comes out."""
    pytest.importorskip("matplotlib")
    monkeypatch.chdir(tmp_path)
    threes, (inside, without) = with_square(planted_net.threes), planted_net.sides(0, 60)
    own = torch.full((len(threes),), USER)
    given = {"model": copy.deepcopy(planted_net.net), "with_square": inside, "without": without}
    given |= {"images": torch.cat([threes, planted_net.x[:200]]), "labels": torch.cat([own, planted_net.y[:200]])}
    given |= {
        "some_images": planted_net.x[120:180],
        "other_x": planted_net.x[400:600],
        "other_y": planted_net.y[400:600],
    }
    given["more_with_square"], given["more_without"] = planted_net.sides(200, 100)
    given |= {"test_x": torch.cat([planted_net.x[600:], threes]), "test_y": torch.cat([planted_net.y[600:], own])}
    given |= {"train_x": threes, "others_x": planted_net.x[:600], "others_y": planted_net.y[:600]}
    names = run_examples(CONCEPTS_PAGE, given)
    assert (tmp_path / "concepts.png").exists() and (ROOT / "docs" / "concepts.png").exists()
    assert names["bank"].evidence[0]["accuracy"] == 1.0 and names["bottleneck"].top(3)[0][0] == "square"
    assert names["bottleneck"].faithful is False and names["found"][0].crops.shape == (6, 3, 2, 2)
    assert names["request"].kind == "concept" and names["result"].verdict.level == "answers"
    assert "The patch hinders" in names["result"].record["findings"]["ablation"]["said"]


@pytest.mark.parametrize(("page", "measured", "name"), [
    (CONCEPTS_PAGE, concepts, "concepts"), (CONCEPTS_PAGE, poisoning, "poisoning"),
])  # fmt: skip
def test_tables_of_concepts(page: Path, measured: ModuleType, name: str) -> None:
    text, results = page.read_text(), json.loads((RESULTS / f"{name}.json").read_text())
    assert insert_table(text, measured.table(results), measured.BEGIN, measured.END) == text


def test_table_of_instances() -> None:
    results = json.loads((RESULTS / "instances.json").read_text())
    text = INSTANCES_PAGE.read_text()
    assert insert_table(text, instances.table(results), instances.BEGIN, instances.END) == text


def test_the_page_on_generators() -> None:
    """Its `generator` has a latent of six values, its judges are linear, and nearly the same."""
    generator, judge, second = generator_and_judges()
    faces, _, portraits, unseen = generator_and_items()
    given = {"generator": generator, "judge": judge, "second_judge": second}
    given |= {"faces": faces, "portraits": portraits[:1], "unseen": unseen}
    found = run_examples(GENERATORS_PAGE, given)
    assert found["result"].verdict.level == found["gone"].verdict.level == "answers"


def test_table_of_generators() -> None:
    results = json.loads((RESULTS / "generators.json").read_text())
    text = GENERATORS_PAGE.read_text()
    assert insert_table(text, generators.table(results), generators.BEGIN, generators.END) == text


def test_table_of_trained_gans() -> None:
    results = json.loads((RESULTS / "gans.json").read_text())
    text = GENERATORS_PAGE.read_text()
    assert insert_table(text, gans.table(results), gans.BEGIN, gans.END) == text


def test_table_of_items() -> None:
    results = json.loads((RESULTS / "items.json").read_text())
    text = GENERATORS_PAGE.read_text()
    assert insert_table(text, items.table(results), items.BEGIN, items.END) == text


def test_table_of_pairs() -> None:
    results = json.loads((RESULTS / "lira.json").read_text())
    text = lira.PAGE.read_text()
    assert insert_table(text, lira.table(results), lira.BEGIN, lira.END) == text


@pytest.mark.parametrize(
    "module", [batch_size, low_memory, shards, smaller, streams, synthetic], ids=lambda module: module.__name__
)
def test_tables_of_one_benchmark(module: ModuleType) -> None:
    results = json.loads((RESULTS / f"{module.__name__.rpartition('.')[2]}.json").read_text())
    text = (ROOT / module.PAGE).read_text()
    assert insert_table(text, module.table(results), *module.MARKERS) == text


def test_tables_of_forgetting() -> None:
    text = FORGETTING.read_text()
    for module in (depth, depth_imagenet):
        results = json.loads((RESULTS / f"{module.__name__.rpartition('.')[2]}.json").read_text())
        assert insert_table(text, module.table(results), module.BEGIN, module.END) == text


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HELD_ABOVE], ids=lambda path: path.name)
def test_other_pages(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_examples(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links(page: Path) -> None:
    check_links(page, BLOCK.sub("", page.read_text(encoding="utf-8")))


def check_links(page: Path, text: str) -> None:
    """Whatever the text of the page links to in this repository is there: files, pictures, headings."""
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http://", "https://")):
            continue
        name, _, heading = target.partition("#")
        file = page.parent / name if name else page
        assert file.is_file(), target
        if heading:
            titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}
            assert heading in anchors, target


def test_table_of_faithfulness() -> None:
    results = json.loads((RESULTS / "faithfulness.json").read_text())
    assert [row["model"] for row in results["rows"]] == list(faithfulness.MODELS)
    text = GUIDE.read_text()
    assert insert_table(text, faithfulness.table(results), faithfulness.BEGIN, faithfulness.END) == text
