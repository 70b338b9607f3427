"""A config is data: its parts are checked by name, its paths are those of its folder."""

from pathlib import Path

import pytest

from zsu_fast.benchmark import read_config
from zsu_fast.benchmark.config import parse_config

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).resolve().parents[2]
MODEL = {"model": "python:mynet:build", "lessons": "a.npz", "test": "b.npz"}
SMALL = {"models": {"mine": MODEL}, "methods": {"deep": None}}


def written(folder: Path, text: str) -> Path:
    path = folder / "trial.yaml"
    path.write_text(text)
    return path


def test_a_whole_config(tmp_path, monkeypatch):
    monkeypatch.setenv("ZOO", "/zoo")
    config = read_config(
        written(
            tmp_path,
            """
            name: a trial
            device: cuda:1
            models:
              mine:
                model: timm:resnet18
                weights: $ZOO/mine.safetensors
                images: python:mine.data:test
                most: 500
                oracles: "without/{class}.pt"
                classes: [cat, 5]
                mean: [0.5, 0.4, 0.3]
                size: 224
                published: [{method: theirs, answers: 0.01, source: arXiv 1}]
              other: {model: "hf:./vit", lessons: a, test: ~/b.npz, oracles: {3: c.pt}}
            classes: all
            methods:
              deep:
              quick: {method: deep, data: few, steps: 10, layers: [a, b]}
            seeds: 3
            few: {probes: 10}
            measure: {attacks: [MLP probe], relearn_steps: 0, learning_rate: 1}
            """,
        )
    )
    mine, other = config.models
    assert (config.name, config.device, config.seeds) == ("a trial", "cuda:1", (0, 1, 2))
    assert (mine.weights, mine.images, mine.most) == ("/zoo/mine.safetensors", "python:mine.data:test", 500)
    assert (mine.mean, mine.size, mine.oracles) == ("0.5,0.4,0.3", "224", str(tmp_path / "without/{class}.pt"))
    assert (other.lessons, other.oracles) == (str(tmp_path / "a"), {3: str(tmp_path / "c.pt")})
    assert other.test == str(Path("~/b.npz").expanduser())
    assert config.classes_by_model == {"mine": ("cat", 5)}
    assert [(e.name, e.method, e.arguments(4)) for e in config.methods] == [
        ("deep", "deep", {"seed": 4}),
        ("quick", "deep", {"seed": 4, "steps": 10, "layers": ["a", "b"]}),
    ]
    assert (config.few.probes, config.few.retain) == (10, 20)
    assert config.measures.attacks == ("MLP probe",) and config.measures.relearn_steps == 0
    assert not config.needs_training_images


def test_a_baseline_is_taken_as_it_comes_unless_told_how_far_to_go():
    methods = {"scrub": None, "b": {"method": "scrub", "until": 0.1}, "noise": None, "ssd": {"data": "train"}}
    config = parse_config(SMALL | {"methods": methods}, Path())
    budgets = {entry.name: entry.arguments(0).get("budget") for entry in config.methods}
    assert budgets == {"scrub": 1, "b": None, "noise": None, "ssd": 1}
    assert config.needs_training_images


def without(part: str) -> dict:
    return {key: value for key, value in MODEL.items() if key != part}


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"modles": {}}, "modles: no such setting; there are name"),
        ({"models": []}, "models: expected a mapping, name: settings, of at least one, got"),
        ({"models": {"mine": "timm:resnet18"}}, r"models\.mine: expected settings by name"),
        ({"models": {"mine": MODEL | {"wieghts": "a"}}}, r"models\.mine\.wieghts: no such setting"),
        ({"models": {"mine": without("model")}}, r"models\.mine\.model: is missing"),
        ({"models": {"mine": without("test")}}, r"models\.mine\.test: is missing"),
        ({"models": {"mine": MODEL | {"images": "c.npz"}}}, r"models\.mine: needs lessons and test, or images"),
        ({"models": {"mine": MODEL | {"weights": 3}}}, r"models\.mine\.weights: expected text, got 3"),
        (
            {"models": {"mine": MODEL | {"train": "$NOWHERE_AT_ALL/x"}}},
            r"train: the environment has no \$NOWHERE_AT_AL",
        ),
        ({"models": {"mine": MODEL | {"most": 0.5}}}, r"models\.mine\.most: expected an integer"),
        ({"models": {"mine": MODEL | {"oracles": "a.pt"}}}, r"models\.mine\.oracles: expected a path with {class}"),
        ({"models": {"mine": MODEL | {"classes": 3}}}, r"models\.mine\.classes: expected a list"),
        ({"models": {"mine": MODEL | {"published": [{"method": "a"}]}}}, "published: each row needs method and source"),
        (
            {"models": {"mine": MODEL | {"published": [{"method": "a", "source": "b", "answers": "low"}]}}},
            "published: answers of a must be a number",
        ),
        ({"methods": {"deep": {"steps": 0}}}, r"methods\.deep: steps: expected at least 1"),
        ({"methods": {"deep": {"layers": {"a": float("nan")}}}}, r"methods\.deep\.layers\.a: expected text, a finite"),
        ({"methods": {"deep": 3}}, r"methods\.deep: expected options by name, got 3"),
        ({"classes": ["cat", 1.5]}, "classes: expected a list of class indices or names"),
        ({"seeds": 0}, "seeds: expected at least 1"),
        ({"seeds": ["a"]}, "seed: expected an integer"),
        ({"few": {"probes": 0}}, r"few\.probes: expected at least 1"),
        ({"few": {"images": 3}}, r"few\.images: no such setting"),
        ({"few": 36}, "few: expected settings by name"),
        ({"measure": {"attacks": ["probe"]}}, r"measure\.attacks: expected one of linear probe"),
        ({"measure": {"attacks": "linear probe"}}, r"measure\.attacks: expected a list"),
        ({"measure": {"prototypes": [0]}}, r"measure\.prototypes: expected at least 1"),
        ({"measure": {"learning_rate": 0}}, r"measure\.learning_rate: expected a positive"),
        ({"measure": {"membership": "yes"}}, r"measure\.membership: expected true or false"),
        ({"name": ""}, "name: expected text"),
    ],
)
def test_what_is_wrong_is_named(changes, text):
    with pytest.raises((ValueError, TypeError), match=text):
        parse_config(SMALL | changes, Path())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("models: [", "is not YAML"),
        ("3", "expected settings by name"),
        ("models: !!python/object/apply:os.system [touch executed]", "is not YAML"),
    ],
)
def test_files_that_are_no_config(tmp_path, monkeypatch, text, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, TypeError), match=said):
        read_config(written(tmp_path, text))
    assert not (tmp_path / "executed").exists()
    with pytest.raises(ValueError, match="cannot read"):
        read_config(tmp_path / "absent.yaml")


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("bench/paper/*.yaml")) + [ROOT / "zsu_fast/benchmark/digits.yaml"], ids=lambda p: p.stem
)
def test_the_configs_that_come_with_it(path, monkeypatch):
    monkeypatch.setenv("ZSU_FAST_DATA", "/data")
    monkeypatch.setenv("ZSU_FAST_WEIGHTS", "/weights")
    config = read_config(path)
    assert config.models and config.methods
